"""The script that measures secure sums runs, and its formula gives the bytes that were counted."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "secagg.py"


def test_the_benchmark_runs_and_its_formula_holds():
    command = [sys.executable, str(SCRIPT), "--quick", "--compute", "50", "--lost", "0.2"]
    done = subprocess.run(command, cwd=SCRIPT.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"5 clients, 1 lost: a client sends [\d,]+ bytes and gets [\d,]+; client [\d.]+ s .* measured", done.stdout)
    assert re.search(r"50 clients, 10 lost: .* computed", done.stdout)
