"""A whole federation of real processes on this machine: SuperLink and SuperNodes, TLS, authenticated devices, a home each."""

import contextlib
import dataclasses
import json
import os
import ssl
from pathlib import Path

import httpx
import pytest
import torch
from conftest import picture
from ports import listening

from fedstyle import Base, Filter, Membership, rehearse
from fedstyle.config import Config, Data, Export, Net, Server, Training
from fedstyle.errors import FederationError, OutputError
from fedstyle.export import verify
from fedstyle.files import read_lines
from fedstyle.simulate import simulate

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
TINY = Training(size=32, batch=2, crops=2, iterations=2)


def tiny(folder, clients=2, **server):
    """Devices with two photos and a style each."""
    for client in range(clients):
        (folder / f"photos {client}").mkdir(parents=True, exist_ok=True)
        for index in range(2):
            picture(10 * client + index).save(folder / f"photos {client}" / f"{index}.png")
        picture(100 + client, (64, 64)).save(folder / f"style {client}.png")
    data = Data(
        photos=tuple(f"{folder}/photos {client}" for client in range(clients)),
        styles=tuple(f"{folder}/style {client}.png" for client in range(clients)),
        holdout=0,
    )
    return Config(
        data=data,
        net=Net(width=4),
        training=TINY,
        method={"name": "fedbn", "steps": 1},
        server=Server(**{"rounds": 2, "timeout": 900.0, **server}),  # a busy machine is no failed run
        export=Export(size=64),
    )


def found(folder):
    """The processes that have Flower's state in a folder, or below it: number and command."""
    lines, mark = [], f"FLWR_HOME={folder}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes() and (command := (entry / "cmdline").read_bytes()):
                lines.append((int(entry.name), command.replace(b"\0", b" ").decode()))
    return lines


def processes(folder):
    """Their commands alone."""
    return [command for _, command in found(folder)]


def stranger(folder, address):
    """The status with which a SuperLink answers who wants to take the place of its run, from another address than its own machine's."""
    trusted = ssl.create_default_context(cafile=folder / "authority" / "authority.crt")
    with httpx.Client(transport=httpx.HTTPTransport(verify=trusted, local_address="127.0.0.5")) as asks:
        return asks.post(f"https://{address}/v1/runtime/acquire-task", headers={"content-type": "application/protobuf"}).status_code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A rehearsal that is over: its folder, its configuration, what it said, its base, and what ran and listened while it said it."""
    folder, said, ran, ports, statuses = tmp_path_factory.mktemp("run"), [], set(), {}, []
    config, out = tiny(folder), folder / "out"

    def watch(line):
        said.append(line)
        for number, command in found(out):
            ran.add(command)
            for place in listening([number]):
                ports[place] = command
        if line.startswith("round 1"):
            statuses.append(stranger(out, said[0].split()[4].rstrip(",")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("user")))
        base = rehearse(config, out, watch=watch)
        told = {"said": said, "ran": ran, "ports": ports, "statuses": statuses, "user": Path(os.environ["HOME"])}
        yield {"out": out, "config": config, "base": base, **told}


def test_it_tells_of_every_round_and_every_devices_ledger(run):
    said = run["said"]
    assert said[0].endswith("over TLS, for registered devices alone")
    assert [line.split(":")[0] for line in said[1:]] == [
        *("device 000 joined", "device 001 joined", "round 1", "round 2", "device 000", "device 001"),
    ]
    assert "3 answers" in said[-1]
    assert " is that filter to " in said[-1]


def test_the_base_is_that_of_inline(run, tmp_path):
    quiet = dataclasses.replace(run["config"], export=Export(clients=False))
    inline = simulate(dataclasses.replace(quiet, training=dataclasses.replace(TINY, iterations=0)), tmp_path / "inline").base
    base = Base.load(run["out"] / "base")
    assert base.sha256 == run["base"].sha256
    assert base.record["round"] == 2
    for name, value in inline.weights.items():
        assert torch.allclose(base.weights[name], value, rtol=1e-4, atol=1e-6), name


def test_the_run_folder_is_the_usual_one_and_devices_ended_with_proved_packages(run):
    out = run["out"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["engine"], summary["rounds"], summary["base_sha256"]) == ("deployment", 2, run["base"].sha256)
    shared = json.loads((out / "federation.json").read_text())["shared"]
    assert (summary["privacy"]["operator reads"], summary["privacy"]["shared"]["arrays"]) == ("each device's update", len(shared))
    assert "no formal (differential) privacy" in (out / "report.html").read_text()
    assert [(row["round"], row["replied"], row["failures"]) for row in read_lines(out / "history.jsonl")] == [(1, 2, {}), (2, 2, {})]
    assert json.loads((out / "deliveries.json").read_text()) == {"000": "kept", "001": "kept"}
    for row in summary["clients"]:
        home = out / "clients" / row["id"]
        assert row["error"] is None
        assert row["parity"]["faithful"]
        assert verify(out / row["package"], Filter.load(home / "filter")).faithful
        assert (home / "private.safetensors").exists()
        assert {path.name for path in (home / "pictures").iterdir()} == {"style.jpg", "photo.jpg", "base.jpg", "filter.jpg"}
        assert (home / "key").stat().st_mode & 0o777 == 0o600


def test_a_ledger_holds_what_left_and_the_server_got_no_more(run):
    shared = set(json.loads((run["out"] / "federation.json").read_text())["shared"])
    for name in ("000", "001"):
        lines = read_lines(run["out"] / "clients" / name / "ledger.jsonl")
        assert [(line["round"], line["kind"]) for line in lines] == [(1, "update"), (2, "update"), (2, "kept")]
        assert set(lines[0]["arrays"]) == shared
    sent = sum(line["bytes_up"] for line in read_lines(run["out"] / "history.jsonl"))
    ledgers = [read_lines(run["out"] / "clients" / name / "ledger.jsonl") for name in ("000", "001")]
    assert sent == sum(line["bytes"] for lines in ledgers for line in lines if line["kind"] == "update")


def test_no_process_is_left_and_all_of_flowers_state_lies_in_the_run(run):
    assert any("fedstyle.flower.gate link" in command and "--enable-supernode-auth" in command for command in run["ran"])
    assert not any("--insecure" in command and "flower-supernode" in command for command in run["ran"])
    assert not processes(run["out"])
    assert "SuperLinkLifespan: start" in (run["out"] / "link.log").read_text()
    assert list(run["user"].rglob("*")) == []
    assert not list((run["out"] / "clients" / "000" / "flower").glob("apps/*")), "a device unpacks no server's code"


def test_nothing_listens_but_the_superlink_where_it_says_and_each_supernode_for_its_own_machine(run):
    links = [f"{address}:{port}" for (address, port), command in run["ports"].items() if "fedstyle.flower.gate link" in command]
    assert run["said"][0].startswith(f"a SuperLink listens on {' '.join(links)}, over TLS")
    nodes = [address for (address, _), command in run["ports"].items() if "flower-supernode" in command]
    assert nodes == ["127.0.0.1"] * 2
    assert len(run["ports"]) == 1 + 2


def test_a_run_is_given_to_nobody_who_calls_from_elsewhere(run):
    assert run["statuses"] == [401]


def test_a_run_is_never_overwritten(run):
    with pytest.raises(OutputError, match="is not empty"):
        rehearse(run["config"], run["out"])


def test_a_home_goes_on_alone(run):
    device = Membership(run["out"] / "clients" / "000")
    assert device.join()["filter"] == "filter"  # the last base is there: it makes its filter again and asks nobody
    device.leave()
    assert not (device.home / "key").exists()
    device.forget()
    left = {path.name for path in device.home.iterdir()}
    assert not left & {"private.safetensors", "losses.jsonl", "standing.json", "base", "flower", "session", "node.log"}
    assert {"filter", "ledger.jsonl", "device.toml", "photos", "style.png", "paused"} <= left
    with pytest.raises(FederationError, match="has no key"):
        device.join()
