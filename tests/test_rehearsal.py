"""A rehearsal's summary and report beside a simulation's: the same is said of what left and what is promised. For real: test_federation."""

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import pytest
from flwr.app import Message
from test_federation import tiny

from fedstyle import Base, rehearse
from fedstyle.config import Config, Export, Privacy, Server
from fedstyle.federation import Federation
from fedstyle.flower.device import KINDS, reply
from fedstyle.flower.hosting import FEDERATION, host
from fedstyle.flower.inline import InlineGrid
from fedstyle.flower.state import ServerState
from fedstyle.record import write_summary
from fedstyle.report import write_report
from fedstyle.simulate import simulate

LIES = "an operator who lies, too"
"""Whom secure sums hold against over a network, and not in a simulation."""


@pytest.fixture
def nearby(monkeypatch):
    """Federations whose devices answer in this process: no SuperLink, no SuperNode."""
    homes = []

    def run(federation, **_):
        def app(message, context):
            kind = KINDS[message.metadata.message_type]
            return Message(reply(homes[context.node_id - 1], kind, message.content, context), reply_to=message)

        grid = InlineGrid(app, len(homes), 1)
        try:
            host(grid, {})
        finally:
            grid.close()
        return Base.load(federation.folder / "base")

    @contextlib.contextmanager
    def opened(federation):
        monkeypatch.setenv(FEDERATION, str(federation.folder))
        yield SimpleNamespace(address="localhost:1")

    def registered(_, public):
        homes.append(public.parent)
        return len(homes)

    monkeypatch.setattr(Federation, "open", opened)
    monkeypatch.setattr(Federation, "run", run)
    monkeypatch.setattr("fedstyle.flower.deployment.register", registered)
    monkeypatch.setattr("fedstyle.rehearsal._node", lambda _: contextlib.nullcontext())
    monkeypatch.setattr("fedstyle.flower.hosting.PAUSE", 0.01)


def test_a_rehearsal_says_what_a_simulation_says(nearby, tmp_path):
    asked = tiny(tmp_path, 3, rounds=1, wire="fp32", timeout=300.0)
    quiet = {"training": dataclasses.replace(asked.training, iterations=1), "export": Export(clients=False)}
    config = dataclasses.replace(asked, **quiet, privacy=Privacy(clip=1e-3, noise=2.0, delta=1e-5, secure=True))
    rehearse(config, tmp_path / "network")
    inline = simulate(config, tmp_path / "inline").summary
    network = json.loads((tmp_path / "network" / "summary.json").read_text())
    assert network.keys() == inline.keys() - {"resumed_after_rounds"}
    same = ("rounds", "strategy", "method", "arch", "features", "seed", "first_base_sha256", "photos_skipped", "versions")
    assert {key: network[key] for key in same} == {key: inline[key] for key in same}
    assert (network["engine"], inline["engine"]) == ("deployment", "inline")
    said, there = network["privacy"], inline["privacy"]
    assert said["epsilon"] == there["epsilon"] > 0
    assert (said["clip"], said["noise"], said["delta"], said["simulated"]) == (1e-3, 2.0, 1e-5, False)
    assert said["samplers"][0]["rounds"] == 1
    assert {key for key in said if said[key] != there[key]} == {"holds against", "not covered"}
    assert said["holds against"].startswith(LIES)
    assert there["not covered"][0].startswith("a server that lies")
    assert not any("lies" in words for words in said["not covered"])
    sent = json.loads((tmp_path / "network" / "federation.json").read_text())["shared"]
    first = Base.load(tmp_path / "network" / "base").weights
    counts = [first[name].numel() for name in sent]
    assert said["shared"] == {"arrays": len(sent), "numbers": sum(counts), "of": sum(value.numel() for value in first.values())}
    for folder in ("network", "inline"):
        page = (tmp_path / folder / "report.html").read_text()
        assert "What is promised" in page
        assert "summed securely" in page
        assert (LIES in page) == (folder == "network")


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize(
    ("wishes", "says", "promised"),
    [
        (Privacy(), {"clip": 0.0, "noise": 0.0, "operator reads": "each device's update"}, False),
        (Privacy(clip=0.5), {"clip": 0.5, "noise": 0.0, "operator reads": "each device's update"}, False),
        (Privacy(clip=0.5, noise=2.0), {"clip": 0.5, "noise": 2.0, "operator reads": "each device's update", "epsilon": 0.0}, True),
        (Privacy(clip=0.5, secure=True), {"clip": 0.5, "noise": 0.0, "operator reads": "sums of updates, and no single one"}, True),
    ],
)
def test_every_summary_says_what_is_done_to_updates(tmp_path, base, network, wishes, says, promised):
    config = Config(server=Server(rounds=1), privacy=wishes)
    (tmp_path / "config.toml").write_text(config.toml())
    summary = write_summary(tmp_path, config, ServerState(1, base), 5, [], [], {}, network=network)
    said = summary["privacy"]
    assert {key: said.get(key) for key in says} == says
    assert ("epsilon" in said) == bool(wishes.noise)  # no number stands where there is no noise
    assert said["shared"]["of"] == sum(value.numel() for value in base.weights.values()) > said["shared"]["numbers"] > 0
    assert ("holds against" in said) == wishes.secure
    assert "metrics, logs, timing, and who took part" in said["not covered"]
    if wishes.secure:
        assert said["holds against"].startswith(LIES) == network
        assert said["not covered"][0].startswith("a server that lies") != network
    page = write_report(tmp_path).read_text()
    assert ("What is promised" in page) == promised
    assert ("No differential privacy" in page) == (promised and not wishes.noise)
