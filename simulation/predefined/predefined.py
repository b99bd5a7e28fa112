"""Make the filters that ship with fedstyle: the norms of the shipped base, trained for each style of predefined.toml.

python simulation/predefined/predefined.py --data DIR [--out fedstyle/weights/filters] [--only starry-night,mosaic] [--sheet sheet.jpg]

DIR holds `photos` and `styles` as simulation/splits.toml names them. Each filter is a folder with its difference from the shipped base, its
facts with a credit, and a preview. CREDITS.md lists all that are there. `--sheet` shows each style, a photo nobody trained on under its
filter, and the preview.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from fedstyle import Base, Client, Filter, Photos, Style, Training
from fedstyle.files import staged, write_bytes, write_json
from fedstyle.paint import paint
from fedstyle.shelf import scene, store
from fedstyle.shelf.entries import FORMAT, Entry, difference, find_all

HERE = Path(__file__).parent
OURS = {"artist": "fedstyle's own painter", "year": "2026", "source": "painted by fedstyle.paint", "terms": "Apache-2.0, as fedstyle"}
CREDIT = ("title", "artist", "year", "source", "terms")
CELL = (300, 225)


def style_of(wish: Mapping[str, Any], data: Path) -> Image.Image:
    if "painter" in wish:
        return paint(wish["painter"], seed=wish["seed"])
    return Image.open(data / "styles" / wish["style"]).convert("RGB")


def make(wish: Mapping[str, Any], data: Path, photos: Photos, base: Base, training: Training, iterations: int) -> Filter:
    """Train one filter; its facts say whom to credit."""
    credit = {key: {**OURS, **wish}[key] for key in CREDIT}
    client = Client(None, photos, Style(style_of(wish, data)), training=training)
    return client.personalize(base, iterations=iterations, facts={"credit": credit}).result()


def ship(place: Path, name: str, number: int, filter: Filter, base: Base) -> None:
    """Write a filter as an entry of the shelf, in the place of an older one."""
    own = difference(filter, base)
    assert own is not None, "the norms alone were trained"
    with staged(place, replaces="entry.json") as folder:
        store.put_files(folder, own, filter, scene.preview(filter, None))
        head = {"format": FORMAT, "name": name, "number": number, **store.describe(filter, base, False, "scene")}
        write_json(folder / "entry.json", head)


def credits(entries: Sequence[Entry]) -> str:
    """The text of CREDITS.md."""
    rows = [f"| {entry.name} | {' | '.join(entry.facts['credit'][key] for key in CREDIT)} |" for entry in entries]
    head = ["# Predefined filters", "", "Made by fedstyle from these images; no image itself is in here.", ""]
    return "\n".join([*head, "| filter | title | artist | year | source | terms |", "|---|---|---|---|---|---|", *rows]) + "\n"


def sheet(entries: Sequence[Entry], styles: Mapping[str, Image.Image], photo: Image.Image) -> Image.Image:
    """Two filters a row: style, the photo under the filter, the preview."""
    height = CELL[1] + 18
    page = Image.new("RGB", (6 * CELL[0] + 20, -(-len(entries) // 2) * height), "white")
    pen = ImageDraw.Draw(page)
    for index, entry in enumerate(entries):
        left, top = index % 2 * (3 * CELL[0] + 20), index // 2 * height
        for column, picture in enumerate((styles[entry.id], entry.filter(photo), entry.preview)):
            page.paste(ImageOps.fit(picture, CELL), (left + column * CELL[0], top))
        pen.text(
            (left + 2, top + CELL[1] + 3), f"{entry.name}: {entry.facts['credit']['title']}, {entry.facts['credit']['artist']}", "black"
        )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "fedstyle" / "weights" / "filters")
    parser.add_argument("--only", default="", metavar="ID,ID", help="these filters alone; the others stay as they are")
    parser.add_argument("--iterations", type=int, default=0, help="for a quick trial")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    config = tomllib.loads((HERE / "predefined.toml").read_text())
    splits = tomllib.loads((HERE.parent / "splits.toml").read_text())
    base = Base.shipped()
    photos = Photos.open([options.data / "photos" / name for name in splits["photos"][config["photos"]]])
    training = Training.for_base(base.record, **config["training"])
    wishes = {wish["id"]: wish for wish in config["filter"]}
    for number, (id, wish) in enumerate(wishes.items(), 1):
        if options.only and id not in options.only.split(","):
            continue
        started = time.monotonic()
        filter = make(wish, options.data, photos, base, training, options.iterations or config["iterations"])
        ship(options.out / id, wish["name"], number, filter, base)
        print(f"{id}: {time.monotonic() - started:.0f} s", flush=True)
    entries = find_all(options.out, predefined=True)
    assert all(entry.filter.sha256 == entry.sha256 for entry in entries)
    write_bytes(options.out / "CREDITS.md", credits(entries).encode())
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{len(entries)} filters in {options.out}, {size / 1000:.0f} kB")
    if options.sheet:
        photo = Photos.open([options.data / "photos" / splits["photos"]["unseen"][0]]).load(0)
        sheet(entries, {entry.id: style_of(wishes[entry.id], options.data) for entry in entries}, photo).save(options.sheet, quality=85)


if __name__ == "__main__":
    main()
