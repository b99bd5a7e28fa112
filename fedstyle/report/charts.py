"""Line charts as inline SVG.

The lines are drawn in a box of 100 x 100 that stretches to any width without changing a stroke; the texts stand beside them as HTML, so
that they keep their size on a phone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedstyle.report.html import Html, join, tag
from fedstyle.report.words import is_number

Point = tuple[float, float]
COLOURS = 8
"""How many colours the page has for lines."""
MOST = 240
"""Points of a line at most; a longer one is thinned out."""


@dataclass(frozen=True)
class Line:
    """A line of a chart; `colour` is the number of a colour of the page, `end` a text at its end."""

    label: str
    points: Sequence[Point]
    colour: int
    end: str = ""
    dots: bool = False


def points(lines: Sequence[Mapping[str, Any]], x: str, y: str) -> list[Point]:
    """(x, y) of each JSON line that holds both as finite numbers."""
    return [(float(line[x]), float(line[y])) for line in lines if is_number(line.get(x)) and is_number(line.get(y))]


def smooth(line: Sequence[Point], width: int) -> list[Point]:
    """The running mean over the last `width` points."""
    done = []
    for k, (x, _) in enumerate(line):
        recent = [y for _, y in line[max(0, k + 1 - width) : k + 1]]
        done.append((x, sum(recent) / len(recent)))
    return done


def thin(line: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most about `most` points, the first and last among them."""
    step = max(1, math.ceil(len(line) / most))
    kept = list(line[::step])
    return kept if not line or kept[-1] == line[-1] else [*kept, line[-1]]


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round values from low to high, at most `most` + 1: steps of 1, 2, 2.5 or 5 times a power of ten; the last reaches `high`."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10, 20)]
    step = next(s for s in steps if span / s <= most + 1e-9 and not (whole and s % 1))
    first = math.floor(low / step + 1e-9)
    return [round(k * step, 10) for k in range(first, math.ceil(high / step - 1e-9) + 1)]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The places moved down as little as needed for `gap` between neighbours, then up where they leave 100."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    done = list(places)
    for last, this in itertools.pairwise(order):
        done[this] = max(done[this], done[last] + gap)
    limit = 100.0
    for this in reversed(order):
        done[this] = min(done[this], limit)
        limit = done[this] - gap
    return done


def _path(line: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in line)


def chart(lines: Sequence[Line], about: str, across: str, *, band: Sequence[tuple[float, float, float]] = ()) -> Html:
    """A chart from zero up with a line for each `Line`; `band` holds (x, low, high), drawn as an area behind.

    `about` says in a sentence what the chart shows, for those who cannot see it; `across` names the horizontal axis.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return tag("p", "There is nothing to draw.", class_="note")
    xs = [x for line in drawn for x, _ in line.points]
    left, right = min(xs), max(xs)
    highest = max([y for line in drawn for _, y in line.points] + [high for *_, high in band])
    rises = ticks(0, highest or 1)

    places = max(0, *(len(f"{y:g}".partition(".")[2]) for y in rises))

    def place(x: float, y: float) -> Point:
        return (100 * (x - left) / (right - left) if right > left else 50, 100 - 100 * y / rises[-1])

    shapes = [tag("line", x1=0, x2=100, y1=f"{place(left, y)[1]:.2f}", y2=f"{place(left, y)[1]:.2f}", class_="grid") for y in rises]
    if len(band) > 1:
        edge = [place(x, high) for x, _, high in band] + [place(x, low) for x, low, _ in reversed(band)]
        shapes.append(tag("path", d=_path(edge) + "Z", class_="band"))
    for line in drawn:
        spots = [place(x, y) for x, y in thin(line.points)]
        marks = spots if (line.dots and len(spots) <= 40) or len(spots) == 1 else []
        if len(spots) > 1:
            shapes.append(tag("path", d=_path(spots), class_=f"line k{line.colour}"))
        # A line of no length with round ends is a dot that stays round when the box is stretched.
        shapes += [tag("path", d=f"M{x:.2f} {y:.2f}h0", class_=f"dot k{line.colour}") for x, y in marks]
    labelled = [line for line in drawn if line.end]
    heights = spread([place(*line.points[-1])[1] for line in labelled], 8)
    texts = [tag("span", f"{y:,.{places}f}" if y else "0", class_="y", style=f"top:{place(left, y)[1]:.2f}%") for y in rises]
    falls = [x for x in ticks(left, right, whole=True) if left <= x <= right] if right > left else [left]
    texts += [tag("span", f"{x:,.0f}", class_="x", style=f"left:{place(x, 0)[0]:.2f}%") for x in falls]
    texts += [tag("span", line.end, class_=f"end k{line.colour}", style=f"top:{y:.2f}%") for line, y in zip(labelled, heights, strict=True)]
    return tag(
        "div",
        tag("svg", *shapes, viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=about),
        tag("div", *texts, aria_hidden="true"),
        tag("span", across, class_="across", aria_hidden="true"),
        class_="plot" if labelled else "plot bare",
    )


def legend(lines: Sequence[Line]) -> Html:
    """The lines' labels with their colours."""
    return legend_of([(line.colour, line.label) for line in lines if line.points])


def legend_of(colours: Sequence[tuple[int, str]]) -> Html:
    """What each colour, by its number, stands for."""
    return tag("ul", *(tag("li", label, class_=f"k{colour}") for colour, label in colours), class_="legend")


def spark(line: Sequence[Point], about: str) -> Html:
    """A small line without axes, from zero up: each value faint, the running mean strong."""
    if len(line) < 2:
        return join()
    left, right, top = line[0][0], line[-1][0], max(y for _, y in line) or 1

    def path(values: Sequence[Point]) -> str:
        return _path([(100 * (x - left) / ((right - left) or 1), 100 - 94 * y / top) for x, y in thin(values, 120)])

    return tag(
        "svg",
        tag("path", d=path(line), class_="faint"),
        tag("path", d=path(smooth(line, window(len(line)))), class_="line k0"),
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=about,
        class_="spark",
    )


def window(length: int) -> int:
    """How many iterations the running mean of a line of this length goes over: a twelfth."""
    return max(1, length // 12)
