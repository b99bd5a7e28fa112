"""Kills of real processes, a stranger's key, and a server that sends code of its own; minutes on a busy machine, so in `make soak`."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_federation import processes, tiny

from fedstyle.errors import FederationError
from fedstyle.federation import Federation
from fedstyle.files import read_lines
from fedstyle.flower.credentials import make_device_key
from fedstyle.flower.deployment import LINK, flwr, free_port, supernode
from fedstyle.flower.hosting import Roll
from fedstyle.population import plan
from fedstyle.rehearsal import furnish

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]
PATIENCE = 900


def until(there, what):
    late = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < late, what
        time.sleep(0.1)


def kill(process):
    """kill -9 of a process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start(home, nodes):
    settings = home.settings()
    place = settings.federation
    return nodes.enter_context(supernode(home.home, place.address, settings.path(place.authority), settings.path(place.key)))


class Running(threading.Thread):
    """The run in a thread: what it gave, or why it failed."""

    def __init__(self, federation):
        super().__init__()
        self.federation, self.said, self.error, self.base = federation, [], None, None
        self.start()

    def run(self):
        try:
            self.base = self.federation.run(watch=self.said.append)
        except FederationError as error:
            self.error = error


def test_a_killed_node_and_a_killed_superlink_cost_no_more_than_their_round(tmp_path):
    config = tiny(tmp_path, rounds=3, min_replies=0.5, timeout=400.0)
    federation, port = Federation.found(config, tmp_path / "out", []), free_port()
    devices = plan(config).devices
    with ExitStack() as nodes:
        with federation.open(port=port) as link:
            homes = [furnish(config, federation, number, device, link.address) for number, device in enumerate(devices)]
            for home in homes:
                federation.enrol(home.home / "key.pub", home.home.name)
            _, second = [start(home, nodes) for home in homes]
            running = Running(federation)
            until((homes[1].home / "standing.json").exists, "device 001 never began round 1")
            kill(second)  # in the middle of its round
            until(lambda: len(federation.history()) == 1 or running.error, "round 1 never ended")
            (first,) = federation.history()
            assert first["replied"] == 1
            assert set(first["failures"]) == {"001"}
            assert first["failures"]["001"] in ("lost", "late")
            assert first["seconds"] < config.server.timeout + 30
            start(homes[1], nodes)  # the same key: the same device
            until(lambda: len(federation.history()) == 2 or running.error, "round 2 never ended")
            kill(link.process)
            running.join(PATIENCE)
            assert running.error, "a run whose SuperLink is gone must fail"
        with federation.open(port=port):
            base = federation.run()
        assert [row["round"] for row in federation.history()] == [1, 2, 3]
        assert base.record["round"] == 3
        assert federation.deliveries() == {"000": "kept", "001": "kept"}
    assert not processes(tmp_path / "out")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 3), (signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_rehearsal_that_is_stopped_leaves_no_process(tmp_path, number, code):
    (tmp_path / "run.toml").write_text(tiny(tmp_path).toml())
    script = Path(__file__).parents[1] / "clients" / "federation.py"
    command = [sys.executable, str(script), "rehearse", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            if line.startswith("device 001 joined"):
                break
        assert len(processes(tmp_path / "out")) >= 3  # a SuperLink and two SuperNodes, and what they started
        running.send_signal(number)
    assert running.returncode == code
    until(lambda: not processes(tmp_path / "out"), "processes are left")


def test_a_device_that_hangs_holds_up_no_round_beyond_its_deadline(tmp_path):
    config = tiny(tmp_path, rounds=1, min_replies=0.5, timeout=240.0)
    federation = Federation.found(config, tmp_path / "out", [])
    with federation.open() as link, ExitStack() as nodes:
        homes = [furnish(config, federation, number, device, link.address) for number, device in enumerate(plan(config).devices)]
        for home in homes:
            federation.enrol(home.home / "key.pub", home.home.name)
        _, second = [start(home, nodes) for home in homes]
        running = Running(federation)
        until((homes[1].home / "standing.json").exists, "device 001 never began round 1")
        os.killpg(second.pid, signal.SIGSTOP)
        until(lambda: federation.history() or running.error, "round 1 never ended")
        os.killpg(second.pid, signal.SIGCONT)
        running.join(PATIENCE)
        (row,) = federation.history()
        assert row["failures"] in ({"001": "late"}, {"001": "lost"})
        assert row["seconds"] < config.server.timeout + 30
    assert federation.deliveries()["000"] == "kept"


def test_a_newcomer_follows_the_page_with_processes_of_each_side(tmp_path):
    config = tiny(tmp_path, rounds=1)
    (tmp_path / "run.toml").write_text(config.toml())
    script, port = Path(__file__).parents[1] / "clients" / "federation.py", free_port()

    def command(line):
        return [sys.executable, str(script), *line.split()]

    def do(line):
        subprocess.run(command(line), cwd=tmp_path, check=True)

    (tmp_path / "pictures").symlink_to(tmp_path / "photos 0")
    (tmp_path / "painting.png").symlink_to(tmp_path / "style 0.png")
    do("found run.toml --folder federation --host localhost")
    with subprocess.Popen(command(f"open --folder federation --port {port}"), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as link:
        assert "listens on" in link.stdout.readline()
        for name in ("anna", "berta"):
            files = "--authority federation/authority/authority.crt --operator federation/operator.pub --config run.toml"
            do(f"create --home {name} --photos pictures --style painting.png --address localhost:{port} {files}")
            do(f"enrol {name}/key.pub --folder federation --name {name}")
        joined = [
            subprocess.Popen(command(f"join --home {name}"), cwd=tmp_path, stdout=subprocess.PIPE, text=True) for name in ("anna", "berta")
        ]
        do("run --folder federation")
        for name, process in zip(("anna", "berta"), joined, strict=True):
            said, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
            assert "round 1: update" in said
            assert f"{name}/painting.mlpackage its export" in said
            assert (tmp_path / name / "filter" / "filter.safetensors").exists()
        link.terminate()
    assert link.returncode == 3
    assert not processes(tmp_path)


HOSTILE = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hostile"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "stranger"
[tool.flwr.app.components]
serverapp = "hostile.server:app"
clientapp = "hostile.client:app"
[tool.flwr.app.config]
out = ""
folder = ""
""",
    "hostile/__init__.py": "",
    "hostile/client.py": """\
from pathlib import Path
from flwr.clientapp import ClientApp
Path("/CANARY").write_text("code of a server ran here")
app = ClientApp()
""",
    "hostile/server.py": """\
import time
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from fedstyle.base import Base
from fedstyle.flower.hosting import Roll
from fedstyle.flower.orders import PROOF, prove
from fedstyle.flower.wire import Contract, Order, read_failure
app = ServerApp()

@app.main()
def main(grid, context):
    folder = Path(context.run_config["folder"])
    roll, base = Roll.load(folder), Base.load(folder / "base")
    contract = Contract.of(base, set(roll.shared).__contains__)
    order = contract.write_order(Order(base, 1, 0.0))
    order[PROOF] = prove("train", Order(base, 1, 0.0), roll.name, Ed25519PrivateKey.generate())
    asked = {"train": order, "query": RecordDict({"give": ConfigRecord({"me": "photos"})}), "evaluate": RecordDict()}
    while not list(grid.get_node_ids()):
        time.sleep(0.2)
    (node,) = grid.get_node_ids()
    for kind, content in asked.items():
        (name,) = grid.push_messages([Message(content, node, kind)])
        while not (replies := list(grid.pull_messages([name]))):
            time.sleep(0.5)
        said = replies[0].error.reason if replies[0].has_error() else f"{read_failure(replies[0].content)} {list(replies[0].content)}"
        with open(context.run_config["out"], "a") as out:
            print(kind, said, file=out)
""",
}


def test_a_server_that_lies_and_a_device_that_is_not_registered(tmp_path):
    config = tiny(tmp_path, clients=1)
    federation, canary, out = Federation.found(config, tmp_path / "out", []), tmp_path / "canary", tmp_path / "answers"
    for name, text in HOSTILE.items():
        file = tmp_path / "hostile" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("/CANARY", str(canary)))
    with ExitStack() as nodes, federation.open() as link:
        home = furnish(config, federation, 0, plan(config).devices[0], link.address)
        with pytest.raises(FederationError, match="is this device registered"):
            home.join(seconds=PATIENCE)  # its key is unknown
        federation.enrol(home.home / "key.pub", "000")
        with pytest.raises(FederationError, match="there is a device '000' already"):
            federation.enrol(home.home / "key.pub", "000")
        (home.home / "key").rename(home.home / "right key")
        (home.home / "key.pub").rename(home.home / "right key.pub")
        make_device_key(home.home / "key")
        with pytest.raises(FederationError, match="is this device registered"):
            home.join(seconds=PATIENCE)  # a stranger's key
        (home.home / "right key").rename(home.home / "key")
        start(home, nodes)
        shutil.copyfile(
            sysconfig.get_path("scripts") + "/flwr-serverapp", federation.folder / "bin" / "flwr-serverapp"
        )  # a SuperLink that lies
        flwr(federation.folder, "run", tmp_path / "hostile", LINK, "--run-config", f"out='{out}' folder='{federation.folder}'")
        until(lambda: out.exists() and len(out.read_text().splitlines()) == 3, "the hostile run never ended")
        federation.dismiss("000")
        assert Roll.load(federation.folder).members == ()
        with pytest.raises(FederationError, match="there is no device '000'"):
            federation.dismiss("000")
    assert out.read_text().splitlines() == ["train identity ['failure']", "query kind ['failure']", "evaluate base ['failure']"]
    assert not canary.exists()
    reasons = [line["reason"] for line in read_lines(home.home / "refusals.jsonl")]
    assert "not signed by the operator" in reasons[0]
    assert len(reasons) == 3
    assert not (home.home / "private.safetensors").exists()
