"""The benchmark of simulations runs, at a size that says nothing, and prints the lines that its README explains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "simulation.py"


def call(*words):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_has_an_example():
    assert "example: python benchmarks/simulation.py" in call("--help")


def test_it_runs_without_ray():
    text = call("--quick", "--threads", "1", "--only", "tiny", "--skip", "fedstyle ray", "--skip", "Flower", "--skip", "pfl-research")
    assert re.search(r"^tiny workload: 3 clients, 3 rounds, ", text, re.MULTILINE)
    assert re.search(r"^fedstyle inline: \d+\.\d{3} s a round without start-up, \d+\.\d s for 3 rounds with it$", text, re.MULTILINE)


@pytest.mark.soak
def test_it_runs_against_flower():
    text = call("--quick", "--threads", "1", "--only", "tiny")
    for name in ("fedstyle ray", "Flower"):
        assert re.search(rf"^tiny workload against {name}: \d+\.\dx$", text, re.MULTILINE)
        assert re.search(rf"^tiny workload against {name}, with start-up: \d+\.\dx$", text, re.MULTILINE)
