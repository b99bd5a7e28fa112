"""The yardstick's pictures: what it keeps of each filter, the curves, and the contact sheet."""

from __future__ import annotations

import io
import statistics
import textwrap
from pathlib import Path

import numpy as np
import rows
import users
from PIL import Image, ImageDraw, ImageFont, ImageOps
from results import GATYS, GOAL, Summary, title
from rows import Place, Row
from torch import Tensor

from fedstyle.files import write_bytes

COLUMNS: tuple[Place, ...] = (("photo", 0), ("scratch", 500), ("base", 0), ("base", 10), ("base", 25), ("base", 100), GATYS)
COLOURS = {"scratch": "#000000", "base": "#0072B2", "full": "#D55E00", "joint": "#009E73", "gatys": "#CC79A7"}
"""Of Okabe and Ito's palette, which the colour-blind can tell apart."""
LINES = {"scratch": "from scratch", "base": "base, private norms", "full": "base, everything", "joint": "joint base, private norms"}
CELL, MARGIN, HEAD, GAP = 192, 170, 34, 4


def keep(out: Path, row: Row, stylised: Tensor) -> None:
    """Keep stylised photos (N, 3, S, S) side by side as one picture."""
    strip = stylised.clamp(0, 1).cpu().permute(2, 0, 3, 1).flatten(1, 2)
    _save(Image.fromarray((strip * 255).round().numpy().astype(np.uint8)), _file(out, row["style"], rows.place(row)))


def keep_style(out: Path, style: str, image: Image.Image) -> None:
    """Keep a style image's centre square, small."""
    _save(ImageOps.fit(image, (2 * CELL, 2 * CELL)), _file(out, style, ("style", 0)))


def _file(out: Path, style: str, place: tuple[str, int]) -> Path:
    return out / "pictures" / style / f"{place[0]}-{place[1]}.png"


def _save(image: Image.Image, path: Path, **options: object) -> None:
    file = io.BytesIO()
    image.save(file, "JPEG" if path.suffix == ".jpg" else "PNG", **options)
    write_bytes(path, file.getvalue())


def curves(out: Path) -> None:
    """Write curves.png: the deciding judge's total loss over iterations, as a multiple of 500 iterations' from scratch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    summary = Summary.read(out)
    judge = summary.judges[-1]
    figure = Figure(figsize=(7, 4.2), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for arm, name in LINES.items():
        points = [(place[1], found) for place in summary.places if place[0] == arm and (found := summary.ratios(place, GOAL, judge))]
        if arm == "full" and points and (untrained := summary.ratios(("base", 0), GOAL, judge)):
            points.insert(0, (0, untrained))  # with no iterations it does not matter what would be trained
        if not points:
            continue
        steps, middle = [step for step, _ in points], [statistics.median(found) for _, found in points]
        band = arm in ("scratch", "base")
        axes.plot(
            steps, middle, "-" if band else "--", color=COLOURS[arm], marker="o", markersize=4, linewidth=1.6, label=name, clip_on=False
        )
        if band:
            low, high = [min(found) for _, found in points], [max(found) for _, found in points]
            axes.fill_between(steps, low, high, color=COLOURS[arm], alpha=0.13, linewidth=0)
    if bound := summary.ratios(GATYS, GOAL, judge):
        axes.axhline(
            statistics.median(bound), color=COLOURS["gatys"], linewidth=1.6, linestyle=":", label=f"Gatys, on {_name(summary.judges[0])}"
        )
    axes.axhline(1, color="0.75", linewidth=0.8, zorder=0)
    axes.set_xscale("symlog", linthresh=5, linscale=0.5)
    axes.set_yscale("log")
    steps = sorted({0} | {place[1] for place in summary.places if place[0] not in rows.ONCE})
    axes.set_xlim(0, 1.05 * steps[-1])
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("iterations of personalisation")
    axes.set_ylabel(f"total loss under {_name(judge)}\nof 500 iterations from scratch")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    figure.suptitle(f"{len(summary.styles)} styles that no base saw: median (lines) and range (bands)", fontsize=9, x=0.01, ha="left")
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    write_bytes(out / "curves.png", file.getvalue())


def _name(judge: str) -> str:
    return judge.replace("vgg", "VGG-")


def sheet(out: Path) -> None:
    """Write sheet.jpg: a style in each row, one of the judged photos and what became of it in the columns, at the first seed."""
    summary = Summary.read(out)
    artists = users.splits()["styles"]["unseen"]
    names = [title(COLUMNS[0]), "style", *map(title, COLUMNS[1:])]
    width, height = MARGIN + len(names) * (CELL + GAP), HEAD + len(summary.styles) * (CELL + GAP)
    whole = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(18)
    for column, name in enumerate(names):
        draw.text((MARGIN + column * (CELL + GAP) + CELL // 2, HEAD // 2), name, "black", font, anchor="mm")
    order = [look.name for look in users.looks(len(summary.styles) + 99)]
    for row, style in enumerate(summary.styles):
        top = HEAD + row * (CELL + GAP)
        artist = next((text for file, text in artists.items() if Path(file).stem == style), "fedstyle's painter")
        words = style.removeprefix(f"{artist.lower()}-").replace("-", " ")
        label = textwrap.wrap(artist, 14) + textwrap.wrap(words, 14)
        draw.multiline_text((MARGIN - 10, top + CELL // 2), "\n".join(label), "black", font, anchor="rm", align="right")
        for column, place in enumerate((COLUMNS[0], ("style", 0), *COLUMNS[1:])):
            corner = (MARGIN + column * (CELL + GAP), top)
            if place[0] == "style" or 0 in summary.cells.get((style, place), {}):
                whole.paste(_square(_file(out, style, place), order.index(style)), corner)
            else:
                draw.rectangle((*corner, corner[0] + CELL - 1, corner[1] + CELL - 1), "whitesmoke")
    _save(whole, out / "sheet.jpg", quality=82)


def _square(path: Path, index: int) -> Image.Image:
    """One of the squares that lie side by side in a picture, in turn by `index`."""
    with Image.open(path) as strip:
        side = strip.height
        left = index % (strip.width // side) * side
        return strip.convert("RGB").crop((left, 0, left + side, side)).resize((CELL, CELL), Image.Resampling.LANCZOS)
