"""Kills and hangs of real processes, and a newcomer's commands; minutes, so in `make soak`. A server that lies: test_federation_hostile."""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from conftest import picture
from test_federation import found, processes, tiny

from fedstyle import Filter
from fedstyle.config import Export
from fedstyle.errors import FederationError
from fedstyle.export import verify
from fedstyle.federation import Federation
from fedstyle.flower.cohort import sample
from fedstyle.flower.deployment import free_port, supernode
from fedstyle.flower.policy import Standing
from fedstyle.population import plan
from fedstyle.rehearsal import furnish
from fedstyle.simulate import simulate

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]
PATIENCE = 900


def until(there, what):
    late = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < late, what
        time.sleep(0.1)


def kill(process):
    """kill -9 of a process alone: what it started has to find out."""
    process.kill()
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


def pids(folder, words):
    """The numbers of the processes that have Flower's state in a folder and these words in their command."""
    return [number for number, command in found(folder) if words in command]


def round_of(home):
    """The last round that a device has begun."""
    standing = Standing.load(home.home).federations
    return max((last for last, _ in standing.values()), default=0)


def test_whatever_is_killed_the_run_goes_on_to_the_same_base(tmp_path):
    """kill -9 of a SuperNode in mid-round, of the SuperLink between two rounds and inside one, and of the run itself.

    Two of three devices are drawn a round and the strategy has a memory, so that the base is right only if round, base, cohort seed and
    memory all go on.
    """
    config = tiny(tmp_path, 3, rounds=4, cohort=2, strategy="FedAdam", timeout=400.0)
    federation, port = Federation.found(config, tmp_path / "out", []), free_port()
    devices, drawn = plan(config).devices, {number: sample(range(3), 2, config.training.seed, number) for number in range(1, 5)}

    def goes_on(rounds):
        running = Running(federation)
        until(lambda: len(federation.history()) >= rounds or running.error, f"round {rounds} never ended")
        return running

    with ExitStack() as nodes:
        with federation.open(port=port) as link:
            homes = [furnish(config, federation, number, device, link.address) for number, device in enumerate(devices)]
            for home in homes:
                federation.enrol(home.home / "key.pub", home.home.name)
            started = [start(home, nodes) for home in homes]
            victim = drawn[1][-1]
            running = Running(federation)
            until(lambda: round_of(homes[victim]) == 1, "the device never began round 1")
            kill(started[victim])
            running.join(PATIENCE)
            assert "round 1: only 1 of 2 clients replied (lost 1), and 2 must" in str(running.error)
            assert federation.history() == []
            until(lambda: not processes(homes[victim].home), "what the killed SuperNode started goes on without it")
            start(homes[victim], nodes)  # the same key: the same device
            running = goes_on(1)
            kill(link.process)
            assert max(map(round_of, homes)) == 1  # between two rounds
            running.join(PATIENCE)
            assert "the SuperLink is gone" in str(running.error)
            until(lambda: not pids(tmp_path / "out", "gate server"), "the killed SuperLink's run goes on without it")
        with federation.open(port=port) as link:
            running = Running(federation)
            until(lambda: max(map(round_of, homes)) == 2, "nobody began round 2")
            kill(link.process)
            assert len(federation.history()) == 1  # inside a round
            running.join(PATIENCE)
            assert "the SuperLink is gone" in str(running.error)
        with federation.open(port=port):
            running = Running(federation)
            until(lambda: max(map(round_of, homes)) == 3, "nobody began round 3")
            (run,) = pids(tmp_path / "out", "gate server")
            os.kill(run, signal.SIGKILL)
            assert len(federation.history()) == 2
            running.join(PATIENCE)
            assert "the run ended as finished:failed" in str(running.error)
            base = federation.run()
    history = federation.history()
    assert [(row["round"], row["cohort"]) for row in history] == [(n, [f"{one:03d}" for one in drawn[n]]) for n in range(1, 5)]
    assert set(federation.deliveries().values()) == {"kept"}
    quiet = dataclasses.replace(config, export=Export(clients=False), training=dataclasses.replace(config.training, iterations=0))
    inline = simulate(quiet, tmp_path / "inline").base
    for name, value in inline.weights.items():
        assert torch.allclose(base.weights[name], value, rtol=1e-4, atol=1e-6), name
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


def test_a_device_that_hangs_holds_up_no_round_beyond_its_deadline_and_comes_back(tmp_path):
    config = tiny(tmp_path, rounds=3, min_replies=0.5, timeout=120.0)
    federation = Federation.found(config, tmp_path / "out", [])
    with federation.open() as link, ExitStack() as nodes:
        homes = [furnish(config, federation, number, device, link.address) for number, device in enumerate(plan(config).devices)]
        for home in homes:
            federation.enrol(home.home / "key.pub", home.home.name)
        for home in homes:
            start(home, nodes)
        running = Running(federation)
        until(lambda: round_of(homes[1]) == 1, "device 001 never began round 1")
        hanging = pids(homes[1].home, "")
        for number in hanging:
            os.kill(number, signal.SIGSTOP)
        until(lambda: federation.history() or running.error, "round 1 never ended")
        for number in hanging:
            os.kill(number, signal.SIGCONT)
        running.join(PATIENCE)
    first, _, third = federation.history()  # round 2 may begin before the SuperLink hears of it again
    assert first["failures"] in ({"001": "late"}, {"001": "lost"})
    assert first["seconds"] < config.server.timeout + 30
    assert third["replied"] == 2  # its answer to round 1, which came late, was nobody's answer to another
    assert federation.deliveries() == {"000": "kept", "001": "kept"}


def test_a_newcomer_follows_the_page_with_three_devices(tmp_path):
    """The commands of the operators' page, as they stand there; names, host and port are put in, and each side has a folder of its own."""
    config = tiny(tmp_path, 3, rounds=1)
    script, port = Path(__file__).parents[1] / "clients" / "federation.py", free_port()
    page = (script.parent / "OPERATORS.md").read_text().split("## From an empty folder")[1].split("\n## ")[0]
    lines = re.findall(r"^python clients/federation\.py (.*)", page.replace("\\\n", " "), re.MULTILINE)
    said = {line.split()[0]: line for line in lines}
    assert list(said) == ["found", "open", "create", "join", "enrol", "run"]
    names = {"0.0.0.0": "127.0.0.1", "federation.example.org": "localhost", "8443": str(port), "~/Pictures": "pictures"}
    names |= {"simulation/quickstart/quickstart.toml": "run.toml"}

    def command(verb, **more):
        line = said[verb].split("#")[0]
        for name, mine in (names | more).items():
            line = line.replace(name, mine)
        return [sys.executable, str(script), *shlex.split(line)]

    operator, people = tmp_path / "operator", ("anna", "berta", "carla")
    for number, folder in enumerate(tmp_path / name for name in ("operator", *people)):
        folder.mkdir()
        (folder / "run.toml").write_text(config.toml())
        if folder != operator:
            (folder / "pictures").symlink_to(tmp_path / f"photos {number - 1}")
            picture(100 + number, (64, 64)).save(folder / "painting.jpg")
    subprocess.run(command("found"), cwd=operator, check=True)
    with subprocess.Popen(command("open"), cwd=operator, stdout=subprocess.PIPE, text=True) as link:
        assert "listens on" in link.stdout.readline()
        with ExitStack() as nodes:
            joined = []
            for name in people:
                for file in ("authority/authority.crt", "operator.pub"):
                    shutil.copy(operator / "federation" / file, tmp_path / name)
                subprocess.run(command("create"), cwd=tmp_path / name, check=True)
                (operator / name).mkdir()
                shutil.copy(tmp_path / name / "home" / "key.pub", operator / name)
                subprocess.run(command("enrol", anna=name), cwd=operator, check=True)
                pipes = {"stdout": subprocess.PIPE, "text": True}
                joined.append(nodes.enter_context(subprocess.Popen(command("join"), cwd=tmp_path / name, **pipes)))
            done = subprocess.run(command("run"), cwd=operator, check=True, capture_output=True, text=True)
            assert "round 1: 3 of 3 replied" in done.stdout
            assert [f"{name}: kept" in done.stdout for name in people] == [True] * 3
            for name, process in zip(people, joined, strict=True):
                told, _ = process.communicate(timeout=PATIENCE)
                assert process.returncode == 0
                assert "round 1: update" in told
                assert "home/filter is your filter, home/painting.mlpackage its export" in told
                home = tmp_path / name / "home"
                assert verify(home / "painting.mlpackage", Filter.load(home / "filter")).faithful
                assert home.stat().st_mode & 0o777 == 0o700
        link.terminate()
    assert link.returncode == 3
    until(lambda: not processes(tmp_path), "processes are left")
