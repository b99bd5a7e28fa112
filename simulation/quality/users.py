"""Who takes part, read off simulation/splits.toml: styles that no training saw, and for each style and seed a user with own photos."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedstyle import Photos
from fedstyle.errors import ConfigError, PhotoError, StyleError
from fedstyle.paint import paint
from fedstyle.picture import open_image
from fedstyle.training import derive

SPLITS = Path(__file__).parent.parent / "splits.toml"


@dataclass(frozen=True)
class Look:
    """An unseen style: an artwork's file, or a painter's name and seed."""

    name: str
    file: str = ""
    painter: str = ""
    seed: int = 0

    def image(self, data: Path) -> Image.Image:
        """The style image; raises StyleError when its file is missing or is no image."""
        return open_image(data / "styles" / self.file, StyleError) if self.file else paint(self.painter, seed=self.seed)


def splits() -> dict[str, Any]:
    """The committed assignment of photos and styles."""
    with open(SPLITS, "rb") as file:
        return tomllib.load(file)


def looks(count: int = 0) -> list[Look]:
    """Unseen styles, two artworks to each painter's picture as long as both last; without a count each artwork and painter once.

    More than there are artworks and painters come from the painters' further seeds.
    """
    found = splits()
    artworks = [Look(Path(file).stem, file=file) for file in found["styles"]["unseen"]]
    painters = found["painters"]["unseen"]
    count = count or len(artworks) + len(painters)
    painted = [Look(f"{name}-{seed}", painter=name, seed=seed) for seed in range(count) for name in painters]
    mixed: list[Look] = []
    while len(mixed) < count:
        mixed += [*artworks[:2], *painted[:1]]
        del artworks[:2], painted[:1]
    return mixed[:count]


def judged(data: Path, count: int) -> Photos:
    """Unseen photos to judge on, spread over the list; no training saw them, and no user trains on them."""
    names = splits()["photos"]["unseen"]
    if count > len(names):
        raise ConfigError(f"{count} photos to judge on were asked for: the split holds {len(names)}")
    return Photos.open([data / "photos" / names[index * len(names) // count] for index in range(count)])


def library(data: Path, style: str, seed: int, count: int) -> Photos:
    """A user's own photos: `count` of the unseen collection, drawn by the style, no photo twice over the seeds of a style."""
    (collection,) = splits()["collections"]["unseen"]
    folder = data / collection
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")) if folder.is_dir() else []
    if len(files) < (seed + 1) * count:
        raise PhotoError(f"{collection} holds {len(files)} photos: {seed + 1} users of {count} photos a style need {(seed + 1) * count}")
    order = np.random.default_rng(derive(0, "library", style)).permutation(len(files))
    return Photos.open([files[index] for index in order[seed * count : (seed + 1) * count]])
