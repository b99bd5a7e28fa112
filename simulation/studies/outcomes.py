"""What a study reports: a row a cell over seeds and clients, as CSV, Markdown and LaTeX, plots with bands, and a contact sheet.

The columns are those of Motley (Wu et al. 2022) and pFL-Bench (Chen et al. 2022). A client's loss is the judge's total loss of its filter
on photos that were kept out of training. Intervals are 95 % bootstrap intervals over clients, which are drawn with all their seeds.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from fedstyle.files import write_bytes

if TYPE_CHECKING:
    from run_study import Study

DRAWS = 2000
"""Bootstrap samples of an interval."""
COLUMNS = {
    "cell": "Cell",
    "seeds": "Seeds",
    "mean": "Mean loss",
    "seed_sd": "SD over seeds",
    "client_sd": "SD over clients",
    "worst_decile": "Worst decile",
    "worse_off": "Worse off than the base",
    "unseen": "Unseen clients",
    "against": "Unseen, against the baseline",
    "up_kb": "KB up a client and round",
    "down_kb": "KB down",
    "seconds": "CPU seconds",
    "peak_mb": "Peak MB",
}
COLOUR = "#0072B2"
CELL = 128


def read_cells(out: Path, study: Study, seeds: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
    """What finished runs left, by cell and seed: judged clients, summary and history."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in study.cells:
        for seed in seeds:
            folder = out / name / f"{seed}"
            if (folder / "judged.json").exists():
                history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
                parts = {key: json.loads((folder / f"{key}.json").read_text()) for key in ("judged", "summary", "cost")}
                found.setdefault(name, {})[seed] = {**parts, "history": history}
    return found


def _losses(run: dict[str, Any], *, unseen: bool) -> dict[str, float]:
    return {name: row["filter"] for name, row in run["judged"].items() if (row["role"] == "unseen") == unseen}


def row(name: str, runs: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A cell's line; what there is nothing for is None."""
    seen = [list(_losses(run, unseen=False).values()) for run in runs.values()]
    unseen = [list(_losses(run, unseen=True).values()) for run in runs.values()]
    hurt = [client["filter"] > client["base"] for run in runs.values() for client in run["judged"].values() if client["role"] != "unseen"]
    rounds = [line for run in runs.values() for line in run["history"]]
    replies, asked = (sum(line[key] for line in rounds) for key in ("replied", "sampled"))
    spent = [run["cost"]["cpu_seconds"] for run in runs.values() if run["cost"]["cpu_seconds"]]  # a run that was resumed has none
    means = [statistics.fmean(losses) for losses in seen]
    return {
        "cell": name,
        "seeds": len(runs),
        "mean": statistics.fmean(means),
        "seed_sd": statistics.stdev(means) if len(means) > 1 else None,
        "client_sd": statistics.fmean(statistics.pstdev(losses) for losses in seen),
        "worst_decile": statistics.fmean(statistics.fmean(sorted(losses)[-math.ceil(len(losses) / 10) :]) for losses in seen),
        "worse_off": statistics.fmean(map(float, hurt)),
        "unseen": statistics.fmean(map(statistics.fmean, unseen)) if all(unseen) else None,
        "against": difference(runs, baseline),
        "up_kb": sum(line["bytes_up"] for line in rounds) / max(1, replies) / 1000,
        "down_kb": sum(line["bytes_down"] for line in rounds) / max(1, asked) / 1000,
        "seconds": statistics.fmean(spent) if spent else None,
        "peak_mb": max((run["summary"]["hardware"].get("peak_memory_mb") or 0) for run in runs.values()) or None,
    }


def difference(runs: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> tuple[float, float, float] | None:
    """Mean paired difference of unseen clients' losses to the baseline's, by client and seed, with its interval."""
    pairs: dict[str, list[float]] = {}
    for seed in runs.keys() & baseline.keys():
        mine, theirs = (_losses(part[seed], unseen=True) for part in (runs, baseline))
        for client in sorted(mine.keys() & theirs.keys()):
            pairs.setdefault(client, []).append(mine[client] - theirs[client])
    if not pairs or runs is baseline:
        return None
    return interval([statistics.fmean(values) for values in pairs.values()])


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the 2.5 % and 97.5 % points of the mean of bootstrap samples (Efron 1979)."""
    numbers = np.asarray(values, float)
    draws = np.random.default_rng(0).integers(0, len(numbers), (DRAWS, len(numbers)))
    low, high = np.percentile(numbers[draws].mean(axis=1), [2.5, 97.5])
    return float(numbers.mean()), float(low), float(high)


def told(key: str, value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if key == "against":
        return f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"
    if key == "worse_off":
        return f"{value:.0%}"
    return (
        value
        if isinstance(value, str)
        else f"{value:.0f}"
        if key in ("seeds", "up_kb", "down_kb", "seconds", "peak_mb")
        else f"{value:.3f}"
    )


def write_outcomes(out: Path, study: Study, seeds: Sequence[int]) -> None:
    """Write tables, plots and the sheet of what is finished; nothing when nothing is."""
    cells = read_cells(out, study, seeds)
    if not cells:
        return
    rows = [row(name, runs, cells.get(study.baseline, {})) for name, runs in cells.items()]
    write_bytes(out / "table.md", _markdown(rows).encode())
    write_bytes(out / "table.tex", _latex(rows).encode())
    write_bytes(out / "rows.csv", _csv(cells).encode())
    curves = {name: _curves(runs) for name, runs in cells.items()}
    if any(curves.values()):
        _plot(
            out / "curves.png", {name: (study.curve, lines) for name, lines in curves.items()}, "local iterations", "unseen clients' loss"
        )
    costs = {name: _costs(runs) for name, runs in cells.items()}
    _plot(out / "cost.png", costs, "megabytes, all clients, both ways", "training loss in the rounds")
    _sheet(out, cells)


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [list(COLUMNS.values()), ["---", *["---:"] * (len(COLUMNS) - 1)]]
    lines += [[told(key, line[key]) for key in COLUMNS] for line in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(rows: list[dict[str, Any]]) -> str:
    """A table for booktabs."""
    clean = [[told(key, line[key]).replace("%", r"\%").replace("_", r"\_") for key in COLUMNS] for line in rows]
    body = [" & ".join(line) + r" \\" for line in clean]
    head = [rf"\begin{{tabular}}{{l{'r' * (len(COLUMNS) - 1)}}}", r"\toprule", " & ".join(COLUMNS.values()) + r" \\", r"\midrule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _csv(cells: dict[str, dict[int, dict[str, Any]]]) -> str:
    """A line a client, seed and cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["cell", "seed", "client", "role", "style", "base", "filter", "curve"])
    for name, runs in cells.items():
        for seed, run in runs.items():
            for client, one in run["judged"].items():
                curve = " ".join(f"{value:.6g}" for value in one.get("curve", []))
                writer.writerow([name, seed, client, one["role"], one["style"], one["base"], one["filter"], curve])
    return stream.getvalue()


def _curves(runs: dict[int, dict[str, Any]]) -> list[list[float]]:
    """The curves of unseen clients, each the mean over its seeds."""
    found: dict[str, list[list[float]]] = {}
    for run in runs.values():
        for client, one in run["judged"].items():
            if "curve" in one:
                found.setdefault(client, []).append(one["curve"])
    return [list(np.mean(curves, axis=0)) for curves in found.values()]


def _costs(runs: dict[int, dict[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """Megabytes by round, and the clients' mean training loss of each seed."""
    histories = [run["history"] for run in runs.values()]
    length = min(map(len, histories))
    spent = np.cumsum([[(line["bytes_up"] + line["bytes_down"]) / 1e6 for line in history[:length]] for history in histories], axis=1)
    losses = [[(line["loss"] or {}).get("total", math.nan) for line in history[:length]] for history in histories]
    return list(spent.mean(axis=0)), losses


def _plot(path: Path, lines: dict[str, tuple[Sequence[float], list[list[float]]]], across: str, up: str) -> None:
    """A panel a cell: its mean with a 95 % bootstrap band, before the means of all others in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    lines = {name: (places, values) for name, (places, values) in lines.items() if values and len(places)}
    bands = {name: [interval(column) for column in zip(*values, strict=True)] for name, (_, values) in lines.items()}
    wide = min(6, max(1, math.ceil(math.sqrt(2 * len(lines)))))
    tall = max(1, math.ceil(len(lines) / wide))
    figure = Figure(figsize=(max(5.0, 2 * wide), 1 + 1.7 * tall), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(tall, wide, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    for axes, (name, band) in zip(panels, bands.items(), strict=False):
        for other, (places, _) in lines.items():
            axes.plot(places, [mean for mean, _, _ in bands[other]], color="#CCCCCC", linewidth=0.6)
        middle, low, high = (list(part) for part in zip(*band, strict=True))
        axes.plot(lines[name][0], middle, color=COLOUR, linewidth=1.6)
        axes.fill_between(lines[name][0], low, high, color=COLOUR, alpha=0.2, linewidth=0)
        axes.set_title(name, fontsize=8)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=7)
    for axes in panels[max(0, len(lines) - wide) : len(lines)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel(across, fontsize=9)
    figure.supylabel(up, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_bytes(path, stream.getvalue())


def _sheet(out: Path, cells: dict[str, dict[int, dict[str, Any]]], most: int = 6) -> None:
    """The first seed's first clients in columns: each cell's filters in a row, under the styles and photos that they were made of."""
    name, runs = next(iter(cells.items()))
    seed = next(iter(runs))
    clients = [one for one in list(runs[seed]["judged"])[:most] if (out / name / f"{seed}" / "clients" / one / "pictures").is_dir()]

    def row_of(cell: str, kind: str) -> list[Path]:
        return [out / cell / f"{seed}" / "clients" / client / "pictures" / f"{kind}.jpg" for client in clients]

    places: list[tuple[str, list[Path]]] = []
    shown: list[bytes] = []
    for cell in (cell for cell in cells if seed in cells[cell]):
        sources = {kind: row_of(cell, kind) for kind in ("style", "photo")}
        if (own := [path.read_bytes() for paths in sources.values() for path in paths if path.exists()]) != shown:
            places, shown = [*places, *sources.items()], own
        places.append((cell, row_of(cell, "filter")))
    sheet = Image.new("RGB", (110 + CELL * len(clients), CELL * len(places)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (label, paths) in enumerate(places):
        draw.text((4, r * CELL + CELL // 2), label, fill="black")
        for c, path in enumerate(paths):
            if path.exists():
                with Image.open(path) as picture:
                    sheet.paste(ImageOps.fit(picture.convert("RGB"), (CELL, CELL)), (110 + c * CELL, r * CELL))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_bytes(out / "sheet.png", stream.getvalue())
