"""Learn a base that fedstyle ships: a federated simulation on the split `base-train`.

python simulation/base/learn.py --data DIR --out runs/base [--arch cnnLite] [--ship DIR] [--stages 1] [--set server.rounds=56 ...]

DIR holds `photos` and `styles` as simulation/splits.toml names them, and `weights` with VGG-16 for the later stages. Each of 32 devices
gets parts of one photo and one style image: 15 artworks and 17 pictures that fedstyle paints itself. The stages of stages.toml go one
after another, each from the base of the one before or from the mean of several; one that stands in OUT is not run again, and one that was
interrupted goes on. What ships is the mean of the stages that stages.toml names; its record says how it was learned, and at which rates to
personalise it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


def prepare(data: Path, folder: Path, file: Path, devices: int) -> int:
    """Write the photos of the first `devices` devices (0: all) under `folder`, as the splits in `file` say; returns their number."""
    names = tomllib.loads(file.read_text())["photos"]["base-train"][: devices or None]
    for number, name in enumerate(names):
        home = folder / "photos" / f"{number:03d}"
        home.mkdir(parents=True, exist_ok=True)
        for index, part in enumerate(tiles(Image.open(data / "photos" / name).convert("RGB"))):
            part.save(home / f"{index:02d}.png")
    return len(names)


def population(data: Path, folder: Path, file: Path, devices: int, first: int) -> list[str]:
    """The overrides of [data] that name every device's photos and style image; the painters' pictures are of the seeds from `first` on."""
    splits = tomllib.loads(file.read_text())
    styles = folder / "styles"
    styles.mkdir(exist_ok=True)
    artworks, families = list(splits["styles"]["base-train"]), splits["painters"]["base-train"]
    files = [data / "styles" / name for name in artworks]
    for index in range(devices - len(artworks)):
        family, seed = families[index % len(families)], first + index // len(families)
        path = styles / f"{family}-{seed}.png"
        paint(family, seed=seed).save(path)
        files.append(path)
    stride = next(step for step in (5, 7, 11, 1) if math.gcd(step, len(files)) == 1)
    order = [files[(stride * index) % len(files)] for index in range(len(files))]  # neighbours in the list are not of one hand
    listed = ", ".join(f'"{path.absolute()}"' for path in order)
    return [f'data.photos="{(folder / "photos").absolute()}"', f"data.styles=[{listed}]", "data.holdout=0"]


class Stage(NamedTuple):
    """A stage of stages.toml."""

    overrides: tuple[str, ...]
    begins_from: tuple[int, ...] = ()
    """The stages before it, counted from 1, whose bases' mean it begins from; without any, from the one before."""
    painted_from: int = 0
    """The first of the seeds of the painters' pictures, so that a stage can show devices other ones than the stage before."""


def stages(file: Path, arch: str) -> list[Stage]:
    """The stages of an architecture, in their order."""
    found = []
    for tables in tomllib.loads(file.read_text())[arch]:
        origin, first = tuple(tables.pop("begins_from", ())), tables.pop("painted_from", 0)
        overrides = [f"{table}.{key}={json.dumps(value)}" for table, keys in tables.items() for key, value in keys.items()]
        found.append(Stage(tuple(overrides), origin, first))
    return found


def facts(config: Config) -> dict[str, Any]:
    """What a shipped base's record tells of a stage."""
    training = config.training
    return {
        "method": dict(config.method),
        "rounds": config.server.rounds,
        "cohort": config.server.cohort,
        "crops": {"size": training.size, "batch": training.batch},
        "features": config.loss.features,
    }


def mean(bases: Sequence[Base]) -> Base:
    """The base whose weights are the mean of these (stochastic weight averaging, Izmailov et al. 2018), with the last one's record."""
    weights = {name: sum(base.weights[name] for base in bases) / len(bases) for name in bases[-1].weights}
    return dataclasses.replace(bases[-1], weights=weights)


def mean_of_stages(out: Path, numbers: Sequence[int]) -> Base:
    """The mean of the bases that these stages left."""
    return mean([Base.load(out / f"stage-{number}" / "base") for number in numbers])


def _tell(stage: int, what: str, done: int, of: int) -> None:
    print(f"stage {stage}: {what} {done}/{of}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", choices=["cnn", "cnnLite"], default="cnnLite")
    parser.add_argument("--ship", type=Path, help="write the base that ships here too, in fp16")
    parser.add_argument("--stages", type=int, default=0, help="the first so many stages only; 0 is all")
    parser.add_argument("--splits", type=Path, default=HERE.parent / "splits.toml")
    parser.add_argument("--devices", type=int, default=0, help="the first so many photos only; 0 is all")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="for every stage")
    options = parser.parse_args()
    home = options.out / "population"
    devices = prepare(options.data, home, options.splits, options.devices)
    learned: list[dict[str, Any]] = []
    recipe = tomllib.loads((HERE / "stages.toml").read_text())
    for number, stage in enumerate(stages(HERE / "stages.toml", options.arch)[: options.stages or None], 1):
        folder = options.out / f"stage-{number}"
        people = population(options.data, home, options.splits, devices, stage.painted_from)
        config = Config.load(HERE / "base.toml", [*people, f'net.arch="{options.arch}"', *stage.overrides, *options.set])
        if config.loss.features.startswith("vgg") and not config.loss.weights:
            file = (options.data / "weights" / f"{config.loss.features}_features_to_relu3.pth").absolute()
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, weights=str(file)))
        if number > 1:
            origin = stage.begins_from or (number - 1,)
            start = options.out / f"stage-{origin[0]}" / "base"
            if len(origin) > 1 and not (start := options.out / f"start-{number}").exists():
                mean_of_stages(options.out, origin).save(start)
            config = dataclasses.replace(config, net=dataclasses.replace(config.net, base=str(start.absolute()), width=0))
        if not (folder / "summary.json").exists():
            simulate(config, folder, resume=(folder / "config.toml").exists(), watch=functools.partial(_tell, number))
        learned.append(facts(config))
    if options.ship:
        shipped = [number for number in recipe["ships"][options.arch] if number <= len(learned)] or [len(learned)]
        base = mean_of_stages(options.out, shipped).halved()
        told = {
            "strategy": base.record["strategy"],
            "seed": config.training.seed,
            "stages": learned,
            "mean_of_stages": shipped,
            "personal": recipe["personal"],
        }
        dataclasses.replace(base, record=told).save(options.ship, half=True)


if __name__ == "__main__":
    main()
