"""The rows of the yardstick: one a style, seed, arm and number of iterations, and which settings they belong to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fedstyle.files import read_lines, write_json

Row = dict[str, Any]
Place = tuple[str, int]
"""A column of the tables: an arm and its iterations; 0 for an arm of ONCE, however many it took."""

ARMS = ("photo", "scratch", "base", "full", "joint", "gatys")
"""The untouched photo; from scratch; from the base on private norms, or on everything; from the joint base; Gatys' optimiser."""
ONCE = ("photo", "gatys")
"""Arms that no seed changes."""


def place(row: Row) -> Place:
    """Where a row stands."""
    return row["arm"], 0 if row["arm"] in ONCE else row["iterations"]


def digest(facts: object) -> str:
    """Twelve digits that stand for settings: rows of equal settings may be compared and need not be made again."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def read(out: Path) -> list[Row]:
    """All rows of a run, whichever part wrote them."""
    return [row for path in sorted(out.glob("rows*.jsonl")) for row in read_lines(path)]


def settings(out: Path) -> dict[str, Any]:
    """Each arm's newest settings; an arm that never ran has none."""
    path = out / "settings.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def renew(out: Path, now: dict[str, Any]) -> None:
    """Note the settings that these arms run with from now on; older rows of theirs no longer count."""
    write_json(out / "settings.json", {**settings(out), **now})


def current(out: Path) -> list[Row]:
    """The rows of each arm's newest settings, in the order of the arms and iterations."""
    newest = {arm: digest(facts) for arm, facts in settings(out).items()}
    rows = [row for row in read(out) if row["setting"] == newest.get(row["arm"])]
    return sorted(rows, key=lambda row: (ARMS.index(row["arm"]), row["iterations"], row["seed"]))
