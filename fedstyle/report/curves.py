"""How the losses fell: in rounds together, and in each device's personalisation."""

from __future__ import annotations

from fedstyle.report.charts import COLOURS, Line, chart, legend, points, smooth, spark, window
from fedstyle.report.html import Html, tag
from fedstyle.report.run import Device, Run
from fedstyle.report.words import figure, plural


def learning(run: Run) -> Html | None:
    """The loss curves of a run side by side, or None where nothing was trained."""
    charts = [part for part in (_rounds(run), _personal(run)) if part]
    return tag("div", *charts, class_="pair") if charts else None


def course(device: Device) -> Html | None:
    """A small curve of one device's personalisation."""
    line = points(device.personal, "iteration", "total")
    if len(line) < 2:
        return None
    last = smooth(line, window(len(line)))[-1]
    said = f"raining loss {figure(line[0][1])} to {figure(last[1])} in {plural(int(last[0]), 'iteration')}"
    return tag("figure", spark(line, f"Device {device.id}: t{said}"), tag("figcaption", f"T{said}"), class_="course")


def _rounds(run: Run) -> Html | None:
    """Mean losses after each round, with the range over the devices."""
    flat = [{"round": line.get("round"), **(line.get("loss") or {})} for line in run.history]
    names = {"total": "Total", "style": "Style", "content": "Content"}
    lines = [Line(label, points(flat, "round", part), k, dots=part == "total") for k, (part, label) in enumerate(names.items())]
    if not lines[0].points:
        return None
    last: dict[float, dict[str, float]] = {}
    for device in run.devices:
        for x, y in points(device.losses, "round", "total"):
            last.setdefault(x, {})[device.id] = y
    known = {x for x, _ in lines[0].points}
    band = [(x, min(ys.values()), max(ys.values())) for x, ys in sorted(last.items()) if x in known]
    first, final = lines[0].points[0][1], lines[0].points[-1][1]
    about = f"Mean total loss of the devices: {figure(first)} after the first round, {figure(final)} after the last."
    shade = " The shade spans the devices' total losses." if len(band) > 1 else ""
    text = f"{about} Each device measures its own loss at the end of its training in a round; it does not leave the device.{shade}"
    return tag("figure", tag("h3", "In rounds, together"), legend(lines), chart(lines, about, "Round", band=band), tag("figcaption", text))


def _personal(run: Run) -> Html | None:
    """Each device's loss while it made its filter."""
    lines = []
    named = len(run.devices) <= COLOURS
    for k, device in enumerate(run.devices):
        line = points(device.personal, "iteration", "total")
        calm = smooth(line, window(len(line)))
        lines.append(Line(f"{device.id} {device.style}", calm, k % COLOURS, end=device.id if named else ""))
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    ends = [line.points[-1][1] for line in drawn]
    about = f"Loss while {plural(len(drawn), 'device')} made their filters; at the end between {figure(min(ends))} and {figure(max(ends))}."
    text = "Total loss on training crops, as a running mean: each line is a device that makes its filter from the last base."
    parts = [tag("h3", "In personalisation, each alone"), legend(lines) if named else None, chart(lines, about, "Iteration")]
    return tag("figure", *parts, tag("figcaption", text))
