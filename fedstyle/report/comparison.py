"""Runs side by side: what the field reports of personalised federated learning, as a table, and the loss by round and by bytes.

A client's loss is the total loss of its filter on the photos that judge it; only runs of the same population, loss and seed compare.
The columns are those of Motley (Wu et al. 2022) and pFL-Bench (Chen et al. 2022): mean, spread, the worst clients, and those hurt.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedstyle.errors import ConfigError
from fedstyle.files import read_lines
from fedstyle.report.charts import COLOURS, Line, chart, legend
from fedstyle.report.html import Html, join, table, tag
from fedstyle.report.run import read_summary
from fedstyle.report.words import NOTHING, amount, duration, figure, is_number, percent

Row = dict[str, Any]
COLUMNS: dict[str, tuple[str, Callable[[object], str]]] = {
    "run": ("Run", str),
    "method": ("Method", str),
    "strategy": ("Strategy", str),
    "rounds": ("Rounds", str),
    "clients": ("Clients", str),
    "mean": ("Mean loss", figure),
    "std": ("Std", figure),
    "worst_decile": ("Worst decile", figure),
    "unseen_mean": ("Unseen", figure),
    "worse_off": ("Worse off", percent),
    "base_mean": ("Base", figure),
    "bytes_up": ("Up", amount),
    "bytes_down": ("Down", amount),
    "seconds": ("Time", duration),
}
"""The keys of a row, their headings, and how a value is written for people."""
ABOUT = (
    "Loss: the total loss of each client's filter on the photos that judge it, lower is better. Std: over clients. Worst decile: the mean "
    "of the tenth of clients with the highest loss. Unseen: the mean of clients that no round asked. Worse off: the share whose filter is "
    "worse than the shared base. Base: the mean of that base itself."
)


def compare(folders: Sequence[Path]) -> list[Row]:
    """A row a run, in the order given; raises ConfigError for a folder that holds no finished run."""
    names = [Path(folder).resolve().name for folder in folders]
    return [_row(Path(folder), name if names.count(name) == 1 else str(folder)) for folder, name in zip(folders, names, strict=True)]


def _row(folder: Path, name: str) -> Row:
    summary = read_summary(folder)
    judged = [client for client in summary["clients"] if client.get("losses")]
    after, before = ([float(client["losses"][when]["total"]) for client in judged] for when in ("after", "before"))
    unseen = [loss for client, loss in zip(judged, after, strict=True) if client.get("role") == "unseen"]
    worst = sorted(after)[-math.ceil(len(after) / 10) :]
    return {
        "run": name,
        **{key: summary.get(key) for key in ("method", "strategy", "rounds")},
        "clients": len(summary["clients"]),
        "mean": _mean(after),
        "std": statistics.pstdev(after) if after else None,
        "worst_decile": _mean(worst),
        "unseen_mean": _mean(unseen),
        "worse_off": _mean([float(mine > shared) for mine, shared in zip(after, before, strict=True)]),
        "base_mean": _mean(before),
        **{key: summary.get(key) for key in ("bytes_up", "bytes_down", "seconds", "seed", "base_sha256", "arch", "features")},
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def unlike(rows: Sequence[Row]) -> list[str]:
    """What the runs do not have in common though their losses only compare where they do."""
    return [key for key in ("arch", "features", "clients", "seed") if len({row[key] for row in rows}) > 1]


def cells(row: Row) -> list[str]:
    """A row for people, a dash for what is not known."""
    return [NOTHING if row[key] is None else write(row[key]) for key, (_, write) in COLUMNS.items()]


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    heads = [head for head, _ in COLUMNS.values()]
    lines = [heads, ["---", "---", "---", *["---:"] * (len(heads) - 3)]]
    lines += [[cell.replace("|", "\\|") for cell in cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{ABOUT}\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Every key of the rows, numbers in full."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_page(folders: Sequence[Path], rows: Sequence[Row]) -> str:
    """A page that holds the table and two plots, and asks for nothing from anywhere."""
    from fedstyle.report import document

    histories = [read_lines(Path(folder) / "history.jsonl") for folder in folders]
    heads: list[object] = [head for head, _ in COLUMNS.values()]
    lines: list[list[object]] = [list(cells(row)) for row in rows]
    title = "Runs side by side"
    plots = [part for part in (_plot(rows, histories, *axis) for axis in (_ROUNDS, _BYTES)) if part]
    parts = [
        tag("section", tag("h2", "Loss in the rounds"), tag("div", *plots, class_="pair")) if plots else None,
        tag("section", tag("h2", "What it came to"), tag("p", ABOUT, class_="note"), table("Each run", heads, lines, numbers=3)),
    ]
    header = tag("header", tag("p", "fedstyle · comparison", class_="brand"), tag("h1", title), tag("p", _warning(rows), class_="lede"))
    return document(title, join(header, tag("main", *(part for part in parts if part))))


def _warning(rows: Sequence[Row]) -> str:
    differs = unlike(rows)
    return f"These runs differ in {' and '.join(differs)}: their losses do not compare." if differs else f"{len(rows)} runs."


def _by_round(history: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(line["round"]) for line in history]


def _by_bytes(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """Megabytes that crossed by the end of each round, both ways, all clients together."""
    return list(itertools.accumulate((line["bytes_up"] + line["bytes_down"]) / 1e6 for line in history))


_ROUNDS = ("By round", "Round", _by_round)
_BYTES = ("By bytes", "Megabytes up and down", _by_bytes)


def _plot(
    rows: Sequence[Row],
    histories: Sequence[Sequence[Mapping[str, Any]]],
    title: str,
    across: str,
    place: Callable[[Sequence[Mapping[str, Any]]], list[float]],
) -> Html | None:
    lines = []
    for k, (row, history) in enumerate(zip(rows, histories, strict=True)):
        losses = [(line.get("loss") or {}).get("total") for line in history]
        points = [(x, float(loss)) for x, loss in zip(place(history), losses, strict=True) if loss is not None and is_number(loss)]
        lines.append(Line(row["run"], points, k % COLOURS))
    if not any(line.points for line in lines):
        return None
    about = f"Mean total loss of the devices in the rounds of {len(rows)} runs, {title.lower()}."
    note = "The mean of what each device measured on its own training crops at the end of its training in a round."
    return tag("figure", tag("h3", title), legend(lines), chart(lines, about, across), tag("figcaption", note))


WRITERS: dict[str, Callable[[Sequence[Path], Sequence[Row]], str]] = {
    ".md": lambda _, rows: as_markdown(rows),
    ".csv": lambda _, rows: as_csv(rows),
    ".html": as_page,
}


def as_file(path: Path, folders: Sequence[Path], rows: Sequence[Row]) -> str:
    """What to write to a file of this name; raises ConfigError for another than .md, .csv and .html."""
    if path.suffix not in WRITERS:
        raise ConfigError(f"a comparison cannot be a {path.suffix or 'file without a suffix'}: choose {', '.join(WRITERS)}")
    return WRITERS[path.suffix](folders, rows)
