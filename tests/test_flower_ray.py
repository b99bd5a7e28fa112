"""Each run is a process of its own: Ray leaves processes and warnings behind in the one that started it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import flower_fakes as fakes
import pytest

from fedstyle.errors import ConfigError, FederationError
from fedstyle.flower.engine import run_federation

RUN = """
import json, os, pathlib, sys
import flower_fakes as fakes
from ports import family, listening
from fedstyle.errors import FedstyleError
from fedstyle.flower.engine import run_federation
rounds, ports = [], set()
def on_round(now):
    rounds.append(now)
    ports.update(listening(family(os.getpid())))
clients = fakes.Fakes(pathlib.Path(sys.argv[1]), dead=tuple(json.loads(sys.argv[2])))
before = dict(os.environ)
try:
    config = fakes.config(engine="ray", workers=2, cohort=3)
    base = run_federation(config, fakes.small_base(), clients, 4, on_round=on_round).sha256
    assert all(os.environ.get(name) == before.get(name) for name in ("PYTHONPATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"))
    print(json.dumps([base, [[now.cohort, now.replied, now.failures] for now in rounds], sorted({address for address, _ in ports})]))
except FedstyleError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def ray(folder, *, dead=()):
    """The result of a run on Ray, and what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), json.dumps(dead)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr  # Ray itself tells of a dead actor on standard output


def test_ray_gives_the_base_that_inline_gives_says_nothing_and_listens_on_loopback_alone(tmp_path):
    rounds = []
    config = fakes.config(cohort=3)
    base = run_federation(config, fakes.small_base(), fakes.Fakes(tmp_path / "inline"), 4, on_round=rounds.append)
    cohorts = [list(now.cohort) for now in rounds]
    addresses = ["127.0.0.1"] if sys.platform == "linux" else []
    assert ray(tmp_path / "ray") == ([base.sha256, [[cohort, cohort, {}] for cohort in cohorts], addresses], "")


@pytest.mark.soak
def test_a_dead_actor_fails_the_run_instead_of_shrinking_the_cohort(tmp_path):
    (kind, text), errors = ray(tmp_path, dead=[0, 1, 2, 3])
    assert kind == "FederationError"
    assert text.startswith("round 1: only 0 of 3 clients replied (lost 3), and 3 must")
    assert errors == ""


def test_an_engine_that_does_not_start_is_one_line_and_had_no_dashboard_and_asked_for_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)

    def fail(*, backend_config, **_):
        assert backend_config["init_args"]["include_dashboard"] is False
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        raise RuntimeError("Simulation Runtime crashed.") from ConnectionError("no cluster there")

    monkeypatch.setattr("flwr.simulation.run_simulation", fail)
    with pytest.raises(FederationError, match=r"^Flower's ray engine stopped: ConnectionError: no cluster there$"):
        run_federation(fakes.config(engine="ray"), fakes.small_base(), fakes.Fakes(tmp_path), 4)
    assert dict(os.environ) == before


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(ConfigError, match=r"pip install 'fedstyle\[ray\]'"):
        run_federation(fakes.config(engine="ray"), fakes.small_base(), fakes.Fakes(tmp_path), 4)
