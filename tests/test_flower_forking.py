"""Forks of a process that is ready, in place of a fresh process for each message."""

import os
import signal
import sys
import time

import pytest

from fedstyle.flower import forking
from fedstyle.flower.forking import Forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="devices fork on Linux alone")
CODE = """
import os, sys
from pathlib import Path
from fedstyle.flower.forking import fork_for_each
def work():
    Path(sys.argv[1]).write_text(f"{os.getppid()} {sys.argv[2]} {sys.stdin.read()!r}")
fork_for_each(lambda: Path(sys.argv[1]).touch(), work)
"""


@pytest.fixture
def forks(tmp_path):
    made = Forks([sys.executable, "-c", CODE, str(tmp_path / "ready")])
    yield made
    process = made.process
    made.end()
    assert process is None or process.wait(30) == 0


def read(forks, path):
    """Start a fork that writes this file, once there is one to be had: the number of the forked process, and what the fork was told."""
    late = time.monotonic() + 60
    while not forks.start([str(path), path.name]):
        assert time.monotonic() < late
        time.sleep(0.01)
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < late
        time.sleep(0.01)
    return path.read_text().split(" ", 1)


def test_each_is_a_fork_of_one_process_that_does_not_touch_the_input(forks, tmp_path):
    assert not forks.start(["none is ready yet"])
    for name in ("first", "second and third"):
        assert read(forks, tmp_path / name) == [str(forks.process.pid), f"{name} ''"]
    assert (tmp_path / "ready").exists()


def test_one_that_was_killed_is_started_again(forks, tmp_path):
    before, _ = read(forks, tmp_path / "first")
    os.kill(forks.process.pid, signal.SIGKILL)
    forks.process.wait()
    assert not forks.start(["none is ready any more"])
    assert read(forks, tmp_path / "second")[0] == str(forks.process.pid) != before


def test_it_ends_when_it_was_not_needed_for_long_and_is_back_when_it_is(forks, tmp_path, monkeypatch):
    forks.begin()
    read(forks, tmp_path / "first")
    first = forks.process
    forks.rest()
    assert forks.process is first
    monkeypatch.setattr(forking, "IDLE", 0.0)
    forks.rest()
    assert forks.process is None
    assert first.wait(30) == 0
    assert read(forks, tmp_path / "second")[0] != str(first.pid)
