"""The page of a population: who has which style and which photos, before anything trains."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from fedstyle.census import census
from fedstyle.config import Config
from fedstyle.files import write_bytes
from fedstyle.population import Device, Population
from fedstyle.report import document
from fedstyle.report.charts import COLOURS, legend_of, ticks
from fedstyle.report.html import Html, join, table, tag
from fedstyle.report.words import plural
from fedstyle.roster import Role

MOST = 600
"""Clients that are drawn and listed; of more, so many are taken at even distances."""
EXAMPLES, SIDE = 5, 96
"""Photos that show a kind, and the side of these and of the styles in pixels."""
ROLES = {Role.SEEN: "seen", Role.FLAKY: "flaky", Role.LATE: "late", Role.UNSEEN: "unseen"}


def write_population(path: Path, population: Population, config: Config) -> Path:
    """Write a page that shows `population`, complete in itself, and give its path.

    It holds small pictures of styles, and of photos where they have kinds: it is as private as these are. Raises OutputError when it
    cannot be written.
    """
    facts = census(population)
    styles, photos = len(facts["totals"]["styles"]), facts["totals"]["photos"]
    title = f"{plural(len(population.devices), 'client')}, {plural(styles, 'style')}, {plural(photos, 'photo')}"
    style = Html((resources.files("fedstyle.report") / "population.css").read_text())
    header = tag(
        "header",
        tag("p", "fedstyle · a population before it trains", class_="brand"),
        tag("h1", title),
        tag("p", _lede(config, facts["totals"]), class_="lede"),
        _figures(facts["totals"]),
    )
    shown = population.devices[:: -(-len(population.devices) // MOST)]
    parts = (_styles(population, config), _photos(population, shown), _wishes(shown), _table(shown, len(population.devices)))
    footer = tag("footer", "This page holds everything it shows. It sends nothing and loads nothing.")
    write_bytes(path, document(title, join(tag("style", style), header, tag("main", *parts), footer)).encode())
    return path


def _lede(config: Config, totals: dict[str, Any]) -> str:
    server, roles = config.server, totals["roles"]
    said = {
        Role.SEEN: "{} can be asked in every round",
        Role.FLAKY: f"{{}} can be asked but {'fails' if roles.get(Role.FLAKY) == 1 else 'fail'} with chance {server.flaky_rate:g}",
        Role.LATE: f"{{}} can be asked from round {server.late_round} on",
        Role.UNSEEN: "{} no round ever asks",
    }
    who = ", ".join(said[role].format(count) for role, count in roles.items())
    cohort = f"{server.cohort} clients" if server.cohort else "all who are there"
    return f"{plural(server.rounds, 'round')} with {cohort}. Of the clients, {who}. Nothing is trained yet."


def _figures(totals: dict[str, Any]) -> Html:
    sizes, top = totals["photos_a_client"], max(totals["styles"].values())
    tiles = [
        (totals["clients"], "clients", ", ".join(f"{count} {role}" for role, count in totals["roles"].items())),
        (len(totals["styles"]), "styles in use", f"the most popular with {plural(top, 'client')}"),
        (f"{sizes['median']:g}", "photos a client", f"median; {sizes['least']} to {sizes['most']}"),
        (totals["photos"], "photos to train on", f"{totals['heldout']} more to judge filters on"),
    ]
    if totals["skew"] is not None:
        tiles.append((f"{totals['skew']:.2f}", "skew of photos", "mean distance of a client's mix from all, 0 to 1"))
    return tag("ul", *(tag("li", tag("strong", a), tag("span", b), tag("small", c)) for a, b, c in tiles), class_="figures")


def _thumbnail(image: Image.Image) -> Html:
    """A small square picture."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)).convert("RGB").save(jpeg := io.BytesIO(), "JPEG", quality=80)
    return tag("img", src=f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}", alt="", width=SIDE, height=SIDE)


def _styles(population: Population, config: Config) -> Html:
    """A bar for each style, as long as it has clients, coloured by their roles."""
    first: dict[tuple[str, Path | None], list[Device]] = {}
    for device in population.devices:
        first.setdefault((device.style_name, device.style_file), []).append(device)
    most = max(len(devices) for devices in first.values())
    rows = []
    for (name, _), devices in sorted(first.items(), key=lambda item: -len(item[1])):
        counts = [(k, role, sum(device.role is role for device in devices)) for k, role in enumerate(ROLES)]
        bars = [
            tag("i", class_=f"k{k}", style=f"width:{100 * count / most:.2f}%", title=f"{count} {role}")
            for k, role, count in counts
            if count
        ]
        image = _thumbnail(devices[0].style_image(config.training.seed))
        rows.append(
            tag("li", image, tag("span", name, class_="name"), tag("span", *bars, class_="members"), tag("span", len(devices), class_="n"))
        )
    there = [(k, name) for k, (role, name) in enumerate(ROLES.items()) if any(device.role is role for device in population.devices)]
    return tag("section", tag("h2", "Who has which style"), legend_of(there), tag("ul", *rows, class_="bars"))


def _photos(population: Population, shown: Sequence[Device]) -> Html:
    """A column for each client, as high as it has photos, coloured by their kinds."""
    counts: dict[str, int] = {}
    for kind in (kind for device in population.devices for kind in device.kinds):
        counts[kind] = counts.get(kind, 0) + 1
    order = sorted(counts, key=lambda kind: (-counts[kind], kind))
    colour = {kind: min(k, COLOURS - 1) for k, kind in enumerate(order)}
    highest = ticks(0, max(len(device.photos) for device in shown), whole=True)
    paths = [""] * COLOURS
    for place, device in enumerate(shown):
        left, wide, under = 100 * (place + 0.08) / len(shown), 84 / len(shown), 100.0
        for k in range(COLOURS):
            high = 100 * (sum(colour[kind] == k for kind in device.kinds) if order else len(device.photos) * (k == 0)) / highest[-1]
            under -= high
            paths[k] += f"M{left:.2f} {under:.2f}h{wide:.2f}v{high:.2f}h-{wide:.2f}Z" if high else ""
    grid = [
        tag("line", x1=0, x2=100, y1=f"{100 - 100 * y / highest[-1]:.2f}", y2=f"{100 - 100 * y / highest[-1]:.2f}", class_="grid")
        for y in highest
    ]
    shapes = [tag("path", d=path, class_=f"fill k{k}") for k, path in enumerate(paths) if path]
    about = f"Photos of {plural(len(shown), 'client')}, {min(len(d.photos) for d in shown)} to {max(len(d.photos) for d in shown)} each."
    texts = [tag("span", f"{y:,.0f}", class_="y", style=f"top:{100 - 100 * y / highest[-1]:.2f}%") for y in highest]
    plot = tag(
        "div",
        tag("svg", *grid, *shapes, viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=about),
        tag("div", *texts, aria_hidden="true"),
        tag("span", f"Client {shown[0].id} to {shown[-1].id}, photos each", class_="across", aria_hidden="true"),
        class_="plot bare",
    )
    return tag("section", tag("h2", "Who has which photos"), plot, _kinds(population, order, colour, counts) if order else None)


def _kinds(population: Population, order: Sequence[str], colour: dict[str, int], counts: dict[str, int]) -> Html:
    """Some photos of each kind, in its colour."""
    examples: dict[str, list[Html]] = {kind: [] for kind in order}
    for device in population.devices:
        for place, kind in enumerate(device.kinds):
            if len(examples[kind]) < EXAMPLES:
                examples[kind].append(_thumbnail(device.photos.load(place)))
    rows = [
        tag(
            "li",
            tag("span", kind or "no folder", class_="name"),
            tag("span", *examples[kind], class_="shots"),
            tag("span", counts[kind], class_="n"),
            class_=f"k{colour[kind]}",
        )
        for kind in order
    ]
    shared = f" The {len(order) - COLOURS + 1} smallest share a colour." if len(order) > COLOURS else ""
    return join(tag("p", f"The kinds of photos, some of each.{shared}", class_="note"), tag("ul", *rows, class_="kinds"))


def _wishes(shown: Sequence[Device]) -> Html | None:
    """A dot for each client at its density and strength, where these differ; a sentence where only the strength does."""
    if len({(device.strength, device.density) for device in shown}) < 2:
        return None
    low, high = min(device.density for device in shown), max(device.density for device in shown)
    strengths = [device.strength for device in shown]
    spread = f"strength {min(strengths)} to {max(strengths)}, median {statistics.median(strengths):g}"
    about = f"Style {spread}; density {low}{f' to {high}' if high > low else ''} pixels."
    title = tag("h2", "How strong and how coarse")
    if low == high:
        return tag("section", title, tag("p", about, class_="note"))

    def place(device: Device) -> tuple[float, float]:
        return 100 * (device.density - low) / (high - low), 100 - 10 * device.strength

    dots = [
        tag("path", d=f"M{x:.2f} {y:.2f}h0", class_=f"dot k{list(ROLES).index(device.role)}")
        for device in shown
        for x, y in [place(device)]
    ]
    grid = [tag("line", x1=0, x2=100, y1=100 - 10 * y, y2=100 - 10 * y, class_="grid") for y in (1, 5, 10)]
    texts = [tag("span", y, class_="y", style=f"top:{100 - 10 * y}%") for y in (1, 5, 10)]
    texts += [tag("span", x, class_="x", style=f"left:{100 * (x - low) / (high - low):.2f}%") for x in (low, high)]
    plot = tag(
        "div",
        tag("svg", *grid, *dots, viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=about),
        tag("div", *texts, aria_hidden="true"),
        tag("span", "Density in pixels; strength upwards", class_="across", aria_hidden="true"),
        class_="plot bare",
    )
    return tag("section", title, tag("p", about, class_="note"), plot)


def _table(shown: Sequence[Device], total: int) -> Html:
    heads: list[object] = ["Client", "Role", "Style", "Strength", "Density", "Photos", "Held out"]
    rows: list[list[object]] = [[d.id, ROLES[d.role], d.style_name, d.strength, d.density, len(d.photos), len(d.heldout)] for d in shown]
    caption = "Every client" if len(shown) == total else f"{len(shown)} of {total} clients, at even distances"
    return tag("section", tag("h2", "All clients"), table(caption, heads, rows, numbers=3), id="numbers")
