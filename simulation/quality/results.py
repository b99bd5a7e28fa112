"""The tables of the yardstick, paired by style, made of its rows alone."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rows
import users
from rows import Place, Row

from fedstyle.errors import FedstyleError
from fedstyle.files import write_bytes

TITLES = {"photo": "photo", "scratch": "scratch", "base": "base", "full": "base, full", "joint": "joint base", "gatys": "Gatys"}
STARTS = {"scratch": "everything", "base": "the private norms", "full": "everything", "joint": "the private norms"}
"""What an arm trains."""
GATYS, GOAL = ("gatys", 0), ("scratch", 500)
QUESTIONS = ((25, GOAL, 1.0), (10, GOAL, 1.0), (100, GATYS, 1.3))
"""Iterations from a base, what their loss is held against, and how many times that it may be."""


def title(place: Place) -> str:
    """What a column is called."""
    arm, iterations = place
    return TITLES[arm] if arm in rows.ONCE else f"{TITLES[arm]} {iterations}"


@dataclass(frozen=True)
class Summary:
    """Rows of equal settings an arm, to be looked at by style and place."""

    rows: tuple[Row, ...]

    @classmethod
    def read(cls, out: Path) -> Summary:
        """The rows of a run that count; raises FedstyleError when there are none."""
        found = tuple(rows.current(out))
        if not found:
            raise FedstyleError(f"{out} holds no rows: run the protocol first, with --data")
        return cls(found)

    @functools.cached_property
    def cells(self) -> dict[tuple[str, Place], dict[int, Row]]:
        """The row of each seed, by style and place."""
        found: dict[tuple[str, Place], dict[int, Row]] = {}
        for row in self.rows:
            found.setdefault((row["style"], rows.place(row)), {})[row["seed"]] = row
        return found

    @functools.cached_property
    def styles(self) -> tuple[str, ...]:
        """The styles that have rows, in the order of the splits."""
        there = {row["style"] for row in self.rows}
        return tuple(look.name for look in users.looks(len(there) + 99) if look.name in there)

    @functools.cached_property
    def places(self) -> tuple[Place, ...]:
        """The columns that have rows."""
        there = {place for _, place in self.cells}
        return tuple(sorted(there, key=lambda place: (rows.ARMS.index(place[0]), place[1])))

    @functools.cached_property
    def judges(self) -> tuple[str, ...]:
        """The judges; the last decides."""
        return tuple(key for key, value in self.rows[0].items() if isinstance(value, dict))

    def median(self, style: str, place: Place, judge: str, key: str = "total") -> float | None:
        """The median over seeds of a loss."""
        seeds = self.cells.get((style, place), {})
        return statistics.median(row[judge][key] for row in seeds.values()) if seeds else None

    def ratio(self, style: str, place: Place, goal: Place, judge: str) -> float | None:
        """The median over seeds of a total loss as a multiple of another's of the same style and seed."""
        ours, theirs = self.cells.get((style, place), {}), self.cells.get((style, goal), {})
        if goal[0] in rows.ONCE and theirs:
            theirs = dict.fromkeys(ours, theirs[0])
        if place[0] in rows.ONCE and ours:
            ours = dict.fromkeys(theirs, ours[0])
        both = [row[judge]["total"] / theirs[seed][judge]["total"] for seed, row in ours.items() if seed in theirs]
        return statistics.median(both) if both else None

    def ratios(self, place: Place, goal: Place, judge: str) -> list[float]:
        """That ratio of each style that has both."""
        each = (self.ratio(style, place, goal, judge) for style in self.styles)
        return [value for value in each if value is not None]

    def middle(self, place: Place, judge: str, key: str) -> float | None:
        """The median over styles of `median`."""
        each = [value for style in self.styles if (value := self.median(style, place, judge, key)) is not None]
        return statistics.median(each) if each else None

    def flat(self, place: Place, key: str) -> float | None:
        """The median over all styles and seeds of what no judge says: `ssim` or `seconds`."""
        each = [row[key] for row in self.rows if rows.place(row) == place and row[key] is not None]
        return statistics.median(each) if each else None


def write(out: Path) -> None:
    """Write results.md."""
    summary = Summary.read(out)
    parts = [_head(summary, out), _questions(summary), _medians(summary)]
    parts += [_totals(summary, judge) for judge in reversed(summary.judges)] + [
        _terms(summary, judge) for judge in reversed(summary.judges)
    ]
    write_bytes(out / "results.md", ("\n\n".join(parts) + "\n").encode())


def _head(summary: Summary, out: Path) -> str:
    used = rows.settings(out)
    seeds = len({row["seed"] for row in summary.rows})
    counts = f"{len(summary.styles)} unseen styles; users a style: {seeds}. Lower losses are better; total = content + 10 x style."
    lines = ["# Few-step filters", "", counts, ""]
    for arm in [arm for arm in STARTS if any(place[0] == arm for place in summary.places)]:
        facts = used[arm]
        which = f"the {facts['arch']} base {facts['start']}" if facts["start"] != "new" else f"an untrained {facts['arch']}"
        lines.append(f"- {TITLES[arm]}: {STARTS[arm]} of {which}, against {facts['features']}")
    if each := [count for row in summary.rows if row["arm"] == "gatys" for count in row["each"]]:
        text = f"{statistics.median(each):.0f} L-BFGS iterations an image in the median, {min(each)} to {max(each)}"
        lines.append(f"- Gatys: {text}, on {summary.judges[0]}, whose taps end at relu3_3; a lower bound under that judge alone")
    return "\n".join(lines)


def _questions(summary: Summary) -> str:
    """Shares of styles that keep what issue and README ask, under each judge."""
    judges = summary.judges[::-1]
    head = ["", *(text for judge in judges for text in (f"{judge}: styles", "median ratio", "worst"))]
    lines = []
    for arm in ("base", "full", "joint"):
        for iterations, goal, factor in QUESTIONS:
            if not summary.ratios((arm, iterations), goal, judges[0]):
                continue
            times = "" if factor == 1 else f"{factor:g} x "
            cells = [f"{title((arm, iterations))} ≤ {times}{title(goal)}"]
            for judge in judges:
                found = summary.ratios((arm, iterations), goal, judge)
                kept = sum(value <= factor for value in found)
                cells += [f"{kept} of {len(found)} ({kept / len(found):.0%})", f"{statistics.median(found):.2f}", f"{max(found):.2f}"]
            lines.append(cells)
    return "## Questions\n\n" + "\n".join(_table(head, lines))


def _medians(summary: Summary) -> str:
    judges = summary.judges[::-1]
    head = ["median over styles", *(f"{judge}: content + style" for judge in judges), *(f"{judge}: total" for judge in judges)]
    head += [f"of {title(GOAL)}'s {judges[0]} total", "SSIM", "thread-seconds"]
    lines = []
    for place in summary.places:
        terms = [_pair(*(summary.middle(place, judge, key) for key in ("content", "style"))) for judge in judges]
        totals = [_number(summary.middle(place, judge, "total")) for judge in judges]
        found = summary.ratios(place, GOAL, judges[0])
        relative = f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else ""
        ssim, seconds = summary.flat(place, "ssim"), summary.flat(place, "seconds")
        lines.append([title(place), *terms, *totals, relative, _number(ssim), "" if seconds is None else f"{seconds:.1f}"])
    return "## Medians\n\n" + "\n".join(_table(head, lines))


def _totals(summary: Summary, judge: str) -> str:
    lines = [[style, *(_number(summary.median(style, place, judge)) for place in summary.places)] for style in summary.styles]
    lines.append(["**median**", *(_number(summary.middle(place, judge, "total")) for place in summary.places)])
    return f"## Total loss under {judge}, median over seeds\n\n" + "\n".join(_table(["style", *map(title, summary.places)], lines))


def _terms(summary: Summary, judge: str) -> str:
    def cell(style: str, place: Place) -> str:
        return _pair(*(summary.median(style, place, judge, key) for key in ("content", "style")))

    lines = [[style, *(cell(style, place) for place in summary.places)] for style in summary.styles]
    return f"## Content + style loss under {judge}, median over seeds\n\n" + "\n".join(
        _table(["style", *map(title, summary.places)], lines)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pair(content: float | None, style: float | None) -> str:
    return "" if content is None or style is None else f"{content:.2f} + {style:.3f}"


def _table(head: list[str], lines: list[list[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *lines):
        yield f"| {' | '.join(cells)} |"
