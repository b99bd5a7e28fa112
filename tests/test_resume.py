"""A run that is killed at any moment, and taken up, ends with the base and the filters of one that was not."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_kills import config

from fedstyle.cli import cli
from fedstyle.errors import ConfigError, FederationError, OutputError
from fedstyle.files import locked
from fedstyle.record import differences
from fedstyle.simulate import simulate

ROOT = Path(__file__).parents[1]
FILES = ["base", "clients", "config.toml", "history.jsonl", "report.html", "summary.json"]


@pytest.fixture
def place(tmp_path, photo_folder):
    """A folder with photos, for runs."""
    (tmp_path / "photos").symlink_to(photo_folder)
    return tmp_path


def kill(place, seed, kills, exports="none"):
    """What tests/run_kills.py says of so many kills, judged."""
    command = [sys.executable, str(ROOT / "tests" / "run_kills.py"), str(place), str(seed), str(kills), exports]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert not [row["error"] for row in rows if row["error"]]
    assert sum(row["killed"] for row in rows) == kills
    ends = [row for row in rows if not row["killed"]]
    assert ends
    assert all(row["same"] for row in ends)
    assert not [row["left"] for row in ends if row["left"]]  # and no leftovers
    assert all(row["files"] == FILES for row in ends)
    return Counter(row["stage"] for row in rows if row["killed"]), Counter(row["way"] for row in rows if row["killed"])


def test_a_run_that_is_killed_again_and_again_is_the_unbroken_one(place):
    stages, _ = kill(place, 1, 6)
    assert "rounds" in stages


@pytest.mark.soak
def test_a_run_that_is_killed_in_every_stage_is_the_unbroken_one(place):
    stages, ways = kill(place, 2, 60, "exports")
    assert set(stages) >= {"rounds", "filters", "exports"}
    assert set(ways) == {"time", "call", "torn"}


def stop_after(stage, number):
    def watch(now, done, _):
        if (now, done) == (stage, number):
            raise KeyboardInterrupt

    return watch


def test_what_a_run_was_is_recorded_and_names_nobody(place):
    run = simulate(config(place, exports=False), place / "run")
    summary = run.summary
    assert summary["seed"] == 0
    assert summary["hardware"].keys() == {"system", "cpu", "cores", "memory_gb", "accelerator", "peak_memory_mb"}
    assert summary["hardware"]["cores"] >= 1
    assert summary["versions"].keys() == {"python", "fedstyle", "torch", "flwr"}
    assert summary["seconds"] == pytest.approx(sum(summary["timings"].values()), abs=0.05)
    assert summary["first_base_sha256"] != summary["base_sha256"]
    assert summary["resumed_after_rounds"] == []
    assert all(len(row["filter_sha256"]) == 64 for row in summary["clients"])
    text = (run.folder / "summary.json").read_text()
    for word in (os.uname().nodename, str(place), str(Path.home())):
        assert word not in text
    again = simulate(config(place, exports=False), place / "run", resume=True)  # nothing is left to do
    assert again.summary == summary
    assert again.rounds == run.rounds
    assert again.base.sha256 == run.base.sha256


def test_a_run_goes_on_only_as_it_began(place, monkeypatch):
    settings, out = config(place, exports=False), place / "run"
    with pytest.raises(ConfigError, match="holds no run to take up"):
        simulate(settings, out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        simulate(settings, out, watch=stop_after("rounds", 2))
    other = dataclasses.replace(settings, method={"name": "fedbn", "steps": 3}, server=dataclasses.replace(settings.server, rounds=5))
    with pytest.raises(ConfigError, match=r"method.steps = 3, and was 2; server.rounds = 5, and was 3"):
        simulate(other, out, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr("fedstyle.record.version", lambda _: "9.9")
        with pytest.raises(ConfigError, match=r"version.torch = '9.9', and was"):
            simulate(settings, out, resume=True)
    with locked(out / "config.toml", AssertionError()), pytest.raises(OutputError, match="another process is at work"):
        simulate(settings, out, resume=True)
    with pytest.raises(OutputError, match="never overwritten"):
        simulate(settings, out)
    damaged = (out / "checkpoint.safetensors").read_bytes()
    (out / "checkpoint.safetensors").write_bytes(damaged[:-1])
    with pytest.raises(FederationError, match="cannot be read"):
        simulate(settings, out, resume=True)
    (out / "checkpoint.safetensors").write_bytes(damaged)
    free = dataclasses.replace(settings, server=dataclasses.replace(settings.server, workers=2, timeout=100.0, min_replies=0.5))
    done = simulate(free, out, resume=True)
    assert done.summary["resumed_after_rounds"] == [2]
    assert [line["round"] for line in done.rounds] == [1, 2, 3]


def test_differences_by_hand():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}) == []
    assert differences({"a": {"b": 1}, "server": {"workers": 1}}, {"a": {"b": 2, "d": "x"}, "server": {"workers": 8}}) == [
        "a.b = 2, and was 1",
        "a.d = 'x', and was None",
    ]


def test_the_command_line_goes_on_where_a_run_stopped(place, monkeypatch):
    monkeypatch.chdir(place)
    Path("run.toml").write_text(config(place, exports=False).toml())

    def call(*words):
        done = CliRunner().invoke(cli, ["simulate", *words])
        return done.exit_code, done.stdout, done.stderr

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedstyle.simulate.make_filters", stop)
        code, _, said = call("run.toml", "--out", "run")
    assert (code, said) == (130, "fedstyle: interrupted: fedstyle simulate --resume run goes on where it stood\n")
    for words, says in (
        (("--resume", "run", "--set", "method.steps=9"), "method.steps = 9, and was 2"),
        (("--resume", "run", "--out", "other"), "leave CONFIG.toml, --out and --dry-run out"),
        (("--resume", "nowhere"), "nowhere holds no run to take up"),
        ((), "missing argument 'CONFIG.toml'"),
    ):
        code, shown, said = call(*words)
        assert (code, shown) == (2, "")
        assert says in said
    code, shown, said = call("--resume", "run", "--set", "server.workers=2")
    assert code == 0, said
    assert "3 rounds with 2 clients" in shown
    code, shown, _ = call("--resume", "run")
    assert shown.startswith("run is finished: nothing is left to do\n")
    assert json.loads(call("--resume", "run", "--json")[1])["resumed_after_rounds"] == [3]
