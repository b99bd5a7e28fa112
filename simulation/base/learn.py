"""Learn a base that fedstyle ships: a federated simulation on the split `base-train`.

python simulation/base/learn.py --data DIR --out runs/base [--arch cnnLite] [--set server.rounds=400 ...] [--ship fedstyle/weights/cnnLite]

DIR holds `photos` and `styles` as simulation/splits.toml names them. Each of 32 devices gets parts of one photo and one style image: 15
artworks and 17 pictures that fedstyle paints itself. The base's record says how it was learned, and at which rates to personalise it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image

from fedstyle import Base, Config, simulate
from fedstyle.paint import paint

HERE = Path(__file__).parent
TILE, TILES = 512, 12
"""Side of the parts into which a large photo is cut, and how many of them a device holds at most."""


def tiles(photo: Image.Image) -> list[Image.Image]:
    """The whole photo, and parts of it where it is large enough."""
    columns, rows = photo.width // TILE, photo.height // TILE
    boxes = [(x * TILE, y * TILE, (x + 1) * TILE, (y + 1) * TILE) for y in range(rows) for x in range(columns)]
    step = max(1, -(-len(boxes) // (TILES - 1)))
    return [photo] + [photo.crop(box) for box in boxes[::step]]


def prepare(data: Path, folder: Path, file: Path, devices: int) -> list[str]:
    """Write every device's photos and style image under `folder`; returns the overrides of [data] that name them.

    `file` holds the splits; `devices` are the first so many, or 0 for all.
    """
    splits = tomllib.loads(file.read_text())
    names = splits["photos"]["base-train"][: devices or None]
    for number, name in enumerate(names):
        home = folder / "photos" / f"{number:03d}"
        home.mkdir(parents=True, exist_ok=True)
        for index, part in enumerate(tiles(Image.open(data / "photos" / name).convert("RGB"))):
            part.save(home / f"{index:02d}.png")
    styles = folder / "styles"
    styles.mkdir(exist_ok=True)
    artworks, families = list(splits["styles"]["base-train"]), splits["painters"]["base-train"]
    files = [data / "styles" / name for name in artworks]
    for index in range(len(names) - len(artworks)):
        family, seed = families[index % len(families)], index // len(families)
        path = styles / f"{family}-{seed}.png"
        paint(family, seed=seed).save(path)
        files.append(path)
    stride = next(step for step in (5, 7, 11, 1) if math.gcd(step, len(files)) == 1)
    order = [files[(stride * index) % len(files)] for index in range(len(files))]  # neighbours in the list are not of one hand
    listed = ", ".join(f'"{path.absolute()}"' for path in order)
    return [f'data.photos="{(folder / "photos").absolute()}"', f"data.styles=[{listed}]", "data.holdout=0"]


def recipe(config: Config) -> dict[str, Any]:
    """What a shipped base's record tells besides the run's own facts: how it was learned, and the rates that few steps from it need."""
    training = config.training
    return {
        "method": dict(config.method),
        "cohort": config.server.cohort,
        "crops": {"size": training.size, "batch": training.batch},
        "features": config.loss.features,
        "personal": {"rate": training.rate, "norm_rate": training.norm_rate, "warmup": training.warmup},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", choices=["cnn", "cnnLite"], default="cnnLite")
    parser.add_argument("--ship", type=Path, help="write the base here too, in fp16")
    parser.add_argument("--splits", type=Path, default=HERE.parent / "splits.toml")
    parser.add_argument("--devices", type=int, default=0, help="the first so many photos only; 0 is all")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    options = parser.parse_args()
    overrides = prepare(options.data, options.out / "population", options.splits, options.devices)
    config = Config.load(HERE / "base.toml", [*overrides, f'net.arch="{options.arch}"', *options.set])
    simulate(config, options.out / "run", watch=lambda stage, done, of: print(f"{stage} {done}/{of}", flush=True))
    if options.ship:
        base = Base.load(options.out / "run" / "base").halved()
        dataclasses.replace(base, record={**base.record, **recipe(config)}).save(options.ship, half=True)


if __name__ == "__main__":
    main()
