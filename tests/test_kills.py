"""kill -9 at any moment: a training that is killed again and again ends with the filter of an unbroken one."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from kills import INTERVAL

ROOT = Path(__file__).parents[1]


def kill(place, photo_folder, style_image, base, seed, kills):
    """What tests/kills.py says of so many kills."""
    (place / "photos").symlink_to(photo_folder)
    style_image.save(place / "style.png")
    base.save(place / "base")
    command = [sys.executable, str(ROOT / "tests" / "kills.py"), str(place), str(seed), str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def judge(rows, kills):
    assert not [row["error"] for row in rows if row["error"]]
    assert sum(row["killed"] for row in rows) == kills
    ends = [row for row in rows if not row["killed"]]
    assert ends
    assert all(row["same"] for row in ends)  # the same hash, every time
    assert not any(row["left"] for row in ends)  # and no leftovers
    assert max(row["lost"] for row in rows) <= INTERVAL
    return Counter((row["way"], row["where"]) for row in rows if row["killed"])


def test_a_training_that_is_killed_20_times_is_the_unbroken_one(tmp_path, photo_folder, style_image, base):
    ways = judge(kill(tmp_path, photo_folder, style_image, base, 1, 20), 20)
    assert {way for way, _ in ways} == {"time", "call", "torn"}


@pytest.mark.soak
def test_a_training_that_is_killed_200_times_is_the_unbroken_one(tmp_path, photo_folder, style_image, base):
    ways = judge(kill(tmp_path, photo_folder, style_image, base, 2, 200), 200)
    assert {"open", "write", "fsync", "replace"} <= {where.split()[-1] for _, where in ways if where}
    assert sum(count for (way, _), count in ways.items() if way == "time") >= 30
