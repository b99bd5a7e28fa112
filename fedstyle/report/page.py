"""The page of a run from top to bottom; what crossed the wire stands in `traffic`."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from fedstyle.report.curves import course, learning
from fedstyle.report.html import Html, join, table, tag
from fedstyle.report.promise import promised
from fedstyle.report.roles import by_role
from fedstyle.report.run import Device, Run
from fedstyle.report.traffic import sent, traffic
from fedstyle.report.words import NOTHING, amount, change, count, duration, failure, figure, is_number, percent, plural, unpath, verdict

KEPT = "Base with own part"
BEFORE = (
    "Base is the shared base as it stands, without any device's private part. Base with own part adds what the device trained in the "
    "rounds and kept to itself (under fedbn the norms), before it made its filter. So a part of each gain comes from the rounds."
)
CAPTIONS = {"style": "Style image", "photo": "Photo", "base": "Under the base", "filter": "Under the personal filter"}


def headline(run: Run) -> str:
    """What happened, in one sentence."""
    total, works, rounds = len(run.devices), sum(device.works for device in run.devices), run.summary.get("rounds") or 0
    if not total:
        return "No device took part in this run."
    kind = "" if run.summary.get("engine") == "deployment" else "simulated "
    who = f"{count(total)} {kind}device{'' if total == 1 else 's'}".capitalize()
    learning = f"{count(rounds)} round{'' if rounds == 1 else 's'}"
    if not rounds:
        learned = f"{who} trained without a round of learning together"
    elif total == 1:
        learned = f"{who} trained a base for {learning}"
    else:
        learned = f"{who} learned together for {learning}"
    if works == total:
        return f"{learned} and {'each got' if total > 1 else 'got'} a photo filter of {'their' if total > 1 else 'its'} own."
    return f"{learned}; {count(works)} of them got a photo filter of {'its' if works == 1 else 'their'} own."


def body(run: Run) -> Html:
    """Everything that is seen."""
    links = {"filters": "The filters", "numbers": "All numbers", "learning": "How they learned", "wire": "What crossed the wire"}
    return join(
        tag(
            "header",
            tag("p", "fedstyle · report of a run", class_="brand"),
            tag("h1", headline(run)),
            tag("p", _lede(run), class_="lede"),
            _figures(run),
            tag("nav", *(tag("a", text, href=f"#{name}") for name, text in {**links, "run": "The run"}.items()), aria_label="Sections"),
        ),
        tag("main", _filters(run), _numbers(run), _learned(run), traffic(run), _about(run)),
        tag("footer", "This page holds everything it shows. It sends nothing and loads nothing."),
    )


def _lede(run: Run) -> str:
    each = sent(run)
    said = "Each device kept its photos and its style image to itself"
    said += f" and sent {amount(each)} of weight changes a round." if each else "."
    checked, good = _checked(run)
    if good and good == checked:
        what = "Each filter is exported as a Core ML model, and each file was run and compared on this machine."
        said += " " + (
            what if good > 1 else "The filter is exported as a Core ML model, and the file was run and compared on this machine."
        )
    elif checked:
        said += f" Of {plural(checked, 'exported file')} that ran on this machine, {good} gave the filter's own picture."
    return said


def _checked(run: Run) -> tuple[int, int]:
    """How many exports were compared with their filters, and how many were faithful."""
    parities = [device.facts.get("parity") for device in run.devices if device.facts.get("package") and device.facts.get("parity")]
    return len(parities), sum(bool(parity.get("faithful")) for parity in parities if parity)


def _figures(run: Run) -> Html:
    """The key numbers."""
    gains = [float(device.facts["improvement"]) for device in run.devices if is_number(device.facts.get("improvement"))]
    checked, good = _checked(run)
    photos = sum(device.facts.get("photos") or 0 for device in run.devices)
    kinds = {device.facts.get("heldout_kind") for device in run.devices if device.facts.get("heldout_kind")}
    where = "on unseen photos" if kinds == {"unseen photos"} else "partly on training photos" if "unseen photos" in kinds else ""
    middle = percent(abs(statistics.median(gains))) if gains else ""
    side = "lower" if gains and statistics.median(gains) >= 0 else "higher"
    span = f"; {change(min(gains))} to {change(max(gains))}" if len(gains) > 1 else ""
    tiles = [
        (
            f"{sum(d.works for d in run.devices)} of {len(run.devices)}",
            "devices have their filter",
            f"{plural(photos, 'photo')} in all",
        ),
        (middle, f"{side} loss than the base", f"median, {where or 'on training photos'}{span}") if gains else None,
        (f"{good} of {checked}", "exported files are faithful", "run and compared on this machine") if checked else None,
        (amount(run.summary.get("bytes_up")), "left the devices", f"{amount(run.summary.get('bytes_down'))} came down"),
        (duration(run.summary.get("seconds")), "from start to end", f"engine {run.summary.get('engine', 'unknown')}"),
    ]
    return tag(
        "ul", *(tag("li", tag("strong", tile[0]), tag("span", tile[1]), tag("small", tile[2])) for tile in tiles if tile), class_="figures"
    )


def _section(name: str, title: str, *parts: object) -> Html:
    return tag("section", tag("h2", title, id=f"{name}-title"), *parts, id=name, aria_labelledby=f"{name}-title")


# ---------------------------------------------------------------------------------------------------------------- the filters


def _filters(run: Run) -> Html:
    skipped = {str(code): number for code, number in (run.summary.get("photos_skipped") or {}).items() if number}
    why = ", ".join(f"{number} {code}" for code, number in sorted(skipped.items()))
    total = sum(skipped.values())
    passed = f"{plural(total, 'photo')} could not be used and {'was' if total == 1 else 'were'} passed over ({why})." if skipped else None
    return _section(
        "filters",
        "The filters",
        tag("p", "Drag across a picture, or use the arrow keys, to compare. Open any picture to see it large.", class_="note script"),
        tag("p", passed, class_="note") if passed else None,
        *(_card(device, k) for k, device in enumerate(run.devices)),
    )


def _shot(device: Device, name: str, kind: str) -> Html:
    picture = device.pictures.get(name)
    if picture is None:
        image = tag("p", "No picture", class_="blank")
        ratio = 1.0
    else:
        alt = (
            f"{CAPTIONS[name]} of device {device.id}"
            if name in ("style", "photo")
            else f"Photo of device {device.id}, {CAPTIONS[name].lower()}"
        )
        alt += f": {device.style}" if name in ("style", "filter") else ""
        image = tag("img", src=picture.uri, alt=alt, width=picture.width, height=picture.height)
        ratio = picture.width / picture.height
    caption = tag("figcaption", CAPTIONS[name])
    return tag("figure", tag("div", image, class_="frame", style=f"--ratio:{ratio:.4f}"), caption, class_=kind, data_shot=name)


def _judged(facts: Mapping[str, Any]) -> str:
    if not facts.get("heldout_kind"):
        return "not judged"
    if facts["heldout_kind"] == "unseen photos":
        return f"{plural(facts.get('heldout') or 0, 'photo')} it did not train on"
    return "crops of photos it trained on; none was held out"


def _card(device: Device, k: int) -> Html:
    facts = device.facts
    gain = facts.get("improvement")
    if not device.works:
        result, kind = "No filter", "bad"
    elif gain is not None and is_number(gain):
        result, kind = change(gain) + (" loss than the base" if gain else ""), "good" if gain > 0.005 else "bad"
    else:
        result, kind = "Not measured", "none"
    losses = facts.get("losses") or {}
    state, word, sentence = verdict(facts.get("parity"), facts.get("package"))
    package = PurePosixPath(str(facts["package"])).name if facts.get("package") else None
    items: list[tuple[str, object]] = [
        ("Photos", f"{plural(facts['photos'], 'distinct photo')} on the device" if facts.get("photos") is not None else None),
        ("Judged on", _judged(facts) if losses else None),
        ("Style", f"strength {facts.get('strength') or NOTHING}, density {facts.get('density') or NOTHING}"),
        ("Core ML", join(tag("code", package), f" {amount(device.package_bytes)}" if device.package_bytes else None) if package else None),
        ("Verdict", join(tag("b", word, class_=f"mark {state}"), " ", sentence)),
    ]
    rows: list[list[object]] = [
        [what, *(figure((losses.get(when) or {}).get(part)) for part in ("content", "style", "total"))]
        for when, what in (("before", "Base"), ("rounds", KEPT), ("after", "Filter"))
        if when != "rounds" or losses.get(when)
    ]
    return tag(
        "article",
        tag("header", tag("h3", f"Device {device.id}", tag("span", device.style)), tag("p", result, class_=f"gain {kind}")),
        tag("p", f"This device {failure(facts['error'])}.", class_="alarm") if facts.get("error") else None,
        tag(
            "div",
            _shot(device, "filter", "hero"),
            tag(
                "div",
                tag("div", *(_shot(device, name, "thumb") for name in ("style", "photo", "base")), class_="thumbs"),
                table(f"Losses of device {device.id}", ["Loss", "Content", "Style", "Total"], rows) if losses else None,
                tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items if value)),
                class_="side",
            ),
            course(device),
            class_="look",
        ),
        class_="card",
        id=f"device-{k}",
    )


def _numbers(run: Run) -> Html:
    def row(device: Device) -> list[object]:
        facts, losses = device.facts, device.facts.get("losses") or {}
        before, kept, after = (losses.get(when) or {} for when in ("before", "rounds", "after"))
        state, word, _ = verdict(facts.get("parity"), facts.get("package"))
        values = [figure(values.get(part)) for values in (before, after) for part in ("content", "style", "total")]
        values.insert(3, figure(kept.get("total")))
        gain, size = facts.get("improvement"), device.package_bytes
        end = [change(gain) if is_number(gain) else NOTHING, amount(size) if size else NOTHING, tag("b", word, class_=f"mark {state}")]
        photos, unseen = facts.get("photos"), facts.get("heldout_kind") == "unseen photos"
        seen = f"{facts.get('heldout', NOTHING)} unseen" if unseen else "training crops"
        return [device.id, device.style, NOTHING if photos is None else photos, seen if losses else NOTHING, *values, *end]

    parts = [f"{when}: {part}" for when in ("Base", "Filter") for part in ("content", "style", "total")]
    parts.insert(3, f"{KEPT}: total")
    heads: list[object] = ["Device", "Style", "Photos", "Judged on", *parts, "Total loss", "Package", "Export"]
    return _section(
        "numbers",
        "All numbers",
        tag(
            "p",
            "Losses are relative to the photo's and the style's own size, so they compare across devices. Lower is better.",
            class_="note",
        ),
        tag("p", BEFORE, class_="note"),
        by_role(run),
        table("Each device, before and after personalisation", heads, [row(device) for device in run.devices], numbers=4),
    )


def _learned(run: Run) -> Html:
    return _section("learning", "How they learned", learning(run) or tag("p", "Nothing was trained.", class_="note"))


# ---------------------------------------------------------------------------------------------------------------- the run


def _about(run: Run) -> Html:
    summary = run.summary
    words = {"engine": "Engine", "strategy": "Strategy", "method": "Method", "arch": "Network", "features": "Feature network"}
    items = [(label, summary.get(key)) for key, label in words.items() if summary.get(key)]
    took = {str(name): value for name, value in (summary.get("timings") or {}).items()}
    items += [(name.capitalize(), duration(value)) for name, value in took.items()]
    if digest := summary.get("base_sha256"):
        items.append(("Base", tag("code", digest)))
    versions: list[list[object]] = [[str(name), str(value)] for name, value in sorted((summary.get("versions") or {}).items())]
    parts = [tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items))]
    parts += [part for part in [promised(run)] if part]
    again = "fedstyle simulate config.toml --out ANOTHER-FOLDER"
    parts.append(_fold("Run it again", tag("p", "In this run's folder:"), tag("pre", again, tabindex="0")))
    proofs = [
        unpath(shlex.join(["fedstyle", "verify", str(device.facts["package"]), "--against", str(device.facts["filter"])]))
        for device in run.devices
        if device.facts.get("package") and device.facts.get("filter")
    ]
    if proofs:
        parts.append(_fold("Check the exported files again", tag("pre", "\n".join(proofs), tabindex="0")))
    if run.config:
        text = tag("p", "Every default is written out. Folders are cut down to their last part.")
        parts.append(_fold("Configuration", text, tag("pre", unpath(run.config), tabindex="0")))
    if versions:
        parts.append(_fold("Versions", table("Versions of what took part", ["Package", "Version"], versions, numbers=9)))
    return _section("run", "The run", *parts)


def _fold(title: str, *parts: object) -> Html:
    return tag("details", tag("summary", title), *parts)
