"""What crossed the wire, what left a device, and what never did."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedstyle.report.html import Html, join, table, tag
from fedstyle.report.run import Run
from fedstyle.report.words import NOTHING, amount, duration, failure, figure, is_number, plural

NEVER = (
    "photos, crops of them, and their names, places and times",
    "the style image",
    "how many photos there are",
    "losses, and all that training remembers from round to round",
    "paths, messages of errors, anything about the device",
    "the personal filter",
)


def sent(run: Run) -> float | None:
    """Bytes that a device sent in a round it took part in, the median over all; None when nothing was sent."""
    sizes = [line["bytes"] for device in run.devices for line in device.ledger if line.get("arrays") and is_number(line.get("bytes"))]
    return statistics.median(sizes) if sizes else None


def traffic(run: Run) -> Html:
    """The section on what crossed."""
    left: dict[str, list[float]] = {}
    for device in run.devices:
        for line in device.ledger:
            for name, size in (line.get("arrays") or {}).items():
                left.setdefault(str(name), []).append(size)
    stayed = [name for name in run.arrays if name not in left]
    return tag(
        "section",
        tag("h2", "What crossed the wire", id="wire-title"),
        tag("div", _left(run, left), _stayed(run, left, stayed), class_="pair sides"),
        _caution(run),
        _layers(run, left) if run.arrays or left else None,
        _rounds(run),
        _failures(run),
        id="wire",
        aria_labelledby="wire-title",
    )


def _left(run: Run, left: Mapping[str, Any]) -> Html:
    each = sent(run)
    if not left:
        text = "Nothing left a device in this run." if not run.history else "No device sent an array."
        return tag("div", tag("h3", "Left the devices"), tag("p", text), class_="crossed")
    share = _share(run, left)
    updates = sum(bool(line.get("arrays")) for device in run.devices for line in device.ledger)
    masked = any(line.get("masked") for device in run.devices for line in device.ledger)
    how = "in one row under masks, which come off only in the sum of a round's devices" if masked else "by name"
    items = [
        f"the change of {plural(len(left), 'array')} of weights, {how}{share}: {amount(each)} a round and device",
        *(["in a round, the keys and sealed shares that those masks are made and taken off with"] if masked else []),
        "once, the number that the simulation gave the device",
        "or, when a device fails, one of a few codes and no word more",
        f"in all {amount(run.summary.get('bytes_up'))}, in {plural(updates, 'update')}",
    ]
    if asked := sum(line.get("sampled") or 0 for line in run.history):
        down = amount((run.summary.get("bytes_down") or 0) / asked)
        items.append(f"the other way came the base, the same for every device: {down} a round and device")
    return tag("div", tag("h3", "Left the devices"), tag("ul", *(tag("li", item) for item in items)), class_="crossed")


def _share(run: Run, left: Mapping[str, Any]) -> str:
    whole = sum(run.arrays.values())
    numbers = sum(run.arrays.get(name, 0) for name in left)
    return f" ({numbers:,} of the network's {whole:,} numbers)" if whole and numbers else ""


def _stayed(run: Run, left: Mapping[str, Any], stayed: list[str]) -> Html:
    items = list(NEVER)
    if stayed and left:
        numbers = sum(run.arrays[name] for name in stayed)
        items.insert(0, f"{plural(len(stayed), 'array')} of private weights ({numbers:,} numbers), where a style lives")
    elif stayed:
        items.insert(0, "every weight that was trained")
    return tag("div", tag("h3", "Never left a device"), tag("ul", *(tag("li", item) for item in items)), class_="kept")


def _caution(run: Run) -> Html | None:
    """An honest word on what an update can still tell, from the run's own [privacy] table."""
    privacy = run.tables.get("privacy")
    if not isinstance(privacy, dict) or not run.history:
        return None
    clip = privacy.get("clip")
    if privacy.get("secure"):
        noise = "noise was added by the devices" if any(privacy.get(name) for name in ("noise", "target_epsilon")) else "no noise was added"
        text = (
            f"Updates were clipped to a joint norm of {figure(clip)} and summed securely: the server could read their sum and no single one"
        )
        mode = 'This run was in the private mode (privacy.mode = "private"). ' if privacy.get("mode") == "private" else ""
        return tag("p", f"{mode}{text}. {noise.capitalize()}. What the sum itself tells is not hidden by masks.", class_="note")
    done = f"clipped to a joint norm of {figure(clip)}" if is_number(clip) and clip else "not clipped"
    if any(is_number(value) and value for name, value in privacy.items() if "noise" in name):
        return tag("p", f"Updates were {done}, and noise was added; the configuration below holds the figures.", class_="note")
    text = f"Updates were {done}, and no noise was added. A weight change is computed from private photos, so in principle it can tell"
    return tag("p", f"{text} something about them: this run gives no formal (differential) privacy.", class_="note")


def _layers(run: Run, left: Mapping[str, list[float]]) -> Html:
    """Array by array: a row a layer, in the network's own order as far as names tell it."""
    layers: dict[str, tuple[list[Html], list[Html]]] = {}
    for name in sorted({*run.arrays, *left}, key=_depth):
        layer, _, short = name.rpartition(".")
        layer, _, kind = layer.rpartition(".")
        short = f"{kind}.{short}" if kind else short
        gone, kept = layers.setdefault(layer, ([], []))
        numbers = f"{run.arrays[name]:,} numbers" if name in run.arrays else ""
        if name in left:
            gone.append(tag("span", tag("code", short), f" {amount(statistics.median(left[name]))}", class_="chip out"))
        else:
            kept.append(tag("span", tag("code", short), f" {numbers}", class_="chip in"))
    rows: list[list[object]] = [
        [tag("code", layer or "the network"), join(*gone) if gone else NOTHING, join(*kept) if kept else NOTHING]
        for layer, (gone, kept) in layers.items()
    ]
    heads: list[object] = ["Layer", "Left, bytes a round", "Stayed"]
    caption = "Arrays that left the devices and arrays that stayed"
    return tag("details", tag("summary", "Array by array"), table(caption, heads, rows, numbers=9))


def _depth(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
    stage = next((k for k, word in enumerate(("down", "block", "up", "out")) if name.startswith(word)), 9)
    return stage, [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]


def _rounds(run: Run) -> Html:
    """Round by round, with each device's bytes, or why it sent none."""
    if not run.history:
        return tag("p", "There was no round.", class_="note")
    sizes: list[dict[Any, float]] = []
    for device in run.devices:
        own: dict[Any, float] = {}
        for line in device.ledger:
            if is_number(line.get("bytes")):
                own[line.get("round")] = own.get(line.get("round"), 0) + line["bytes"]
        sizes.append(own)
    rows: list[list[object]] = []
    for line in run.history:
        number, failures, cohort = line.get("round"), line.get("failures") or {}, line.get("cohort") or []
        cells: list[object] = []
        for device, own in zip(run.devices, sizes, strict=True):
            if device.id in failures:
                size = f" {amount(own[number])}" if number in own else None  # a late update has left all the same
                cells.append(join(tag("b", str(failures[device.id]), class_="mark bad"), size))
            elif number in own:
                cells.append(amount(own[number]))
            else:
                cells.append("not asked" if device.id not in cohort else NOTHING)
        replied = f"{line.get('replied', NOTHING)} of {line.get('sampled', NOTHING)}"
        loss = figure((line.get("loss") or {}).get("total"))
        rows.append(
            [number, replied, amount(line.get("bytes_up")), amount(line.get("bytes_down")), duration(line.get("seconds")), loss, *cells]
        )
    heads: list[object] = ["Round", "Replied", "Up", "Down", "Time", "Mean loss", *(f"From {device.id}" for device in run.devices)]
    summary = run.summary
    totals = [amount(summary.get("bytes_up")), amount(summary.get("bytes_down")), "", ""]
    foot: list[object] = ["All", "", *totals, *(amount(sum(own.values())) for own in sizes)]
    return table("Bytes up and down, by round and device", heads, rows, foot=foot)


def _failures(run: Run) -> Html | None:
    """How often each code came, in words."""
    codes = Counter(str(code) for line in run.history for code in (line.get("failures") or {}).values())
    if not codes:
        done = bool(run.history) and all(line.get("replied") == line.get("sampled") for line in run.history)
        return tag("p", "Every device that was asked replied, in every round.", class_="note") if done else None
    items = (
        tag("li", tag("b", code, class_="mark bad"), f" {plural(times, 'time')}: a device {failure(code)}") for code, times in codes.items()
    )
    return tag("div", tag("h3", "Failures, by code"), tag("ul", *items), class_="failures")
