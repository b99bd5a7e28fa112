"""A contact sheet of a run: each row is a device's style image, then photos it never trained on and the same under its filter.

python simulation/paintings/sheet.py RUN PHOTO PHOTO --out sheet.jpg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageOps

from fedstyle import Filter

CELL = (360, 240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    photos = [ImageOps.fit(Image.open(path).convert("RGB"), (2 * CELL[0], 2 * CELL[1])) for path in options.photos]
    devices = json.loads((options.run / "summary.json").read_text())["clients"]
    sheet = Image.new("RGB", (CELL[0] * (1 + len(photos)), CELL[1] * (1 + len(devices))), "white")
    for column, photo in enumerate(photos, 1):
        sheet.paste(photo.resize(CELL), (CELL[0] * column, 0))
    for row, device in enumerate(devices, 1):
        style = Image.open(options.run / "clients" / device["id"] / "pictures" / "style.jpg")
        sheet.paste(ImageOps.fit(style, CELL), (0, CELL[1] * row))
        filter = Filter.load(options.run / device["filter"])
        for column, photo in enumerate(photos, 1):
            sheet.paste(filter(photo).resize(CELL), (CELL[0] * column, CELL[1] * row))
    sheet.save(options.out, quality=88)


if __name__ == "__main__":
    main()
