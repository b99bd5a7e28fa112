"""Style images that fedstyle paints itself, for whoever has none at hand: `paint("mosaic")`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from fedstyle.errors import StyleError
from fedstyle.paint import crafted, painted
from fedstyle.paint.canvas import Array, image_of

__all__ = ["PAINTERS", "Painter", "paint"]


class Painter(NamedTuple):
    """A family of style images: what draws it from (generator, side, palette), and palettes that suit it."""

    draw: Callable[[np.random.Generator, int, Array], Array]
    palettes: tuple[str, ...]


PAINTERS: dict[str, Painter] = {
    "mosaic": Painter(
        crafted.mosaic,
        (
            "3a332c 12355b 1f6f8b 5fb0b7 e8d8a8 e0a030 b3402a",
            "d9d2c0 5a1a32 a63d40 e08e45 f2cc6b 6b8f4e 2f5d50",
            "20242b 3b1f5b 7a3b8f d06f9a f4b6a0 f7e3b0 3c8d93",
        ),
    ),
    "waves": Painter(
        painted.waves,
        (
            "efe2c4 faf4e3 9fbfc9 5f93b0 2c5f8a 1b3d66 13233f",
            "f3d9b8 fdf3df b9c9a6 6fa08f 2f7474 1d4f5c 102c38",
            "f6cfc0 fff1e6 d8a5b4 9a7fae 5c5a97 343c73 1d2146",
        ),
    ),
    "brush": Painter(
        painted.brush,
        (
            "0b1a3d 163a7a 2f6db5 6fa9d6 a9cdb0 e6d27a f6b02c",
            "1f2a1a 37562c 6b8f3a b3b84a e8cf5a f0943a c2432d",
            "2a1033 5b1f5e a0356f e0607a f59a7a fbd38a fdf0c8",
        ),
    ),
    "glass": Painter(
        crafted.glass,
        (
            "c8202f e8912c f4d04a 2f8f4f 1f5fb5 5a2f9a 2fb5c0",
            "1b4fa0 2f8fd0 7fd0e0 e8e0b0 d0406f 6f2f8f 1f8f7f",
            "d0582c f0a83a f7dc8a 8fae3a 2f6f5a a02f3f 5a3f7f",
        ),
    ),
    "woodcut": Painter(
        crafted.woodcut,
        (
            "f0e4c8 1c1a1a d8573a e0b050",
            "ece6d6 14203a 7fb0b0 e0a088",
            "f4ead2 2a1a14 8fa860 d89a3a",
        ),
    ),
    "watercolour": Painter(
        painted.watercolour,
        (
            "faf6ec 3f7fbf 5fb0a8 e0709a f0b050 7a60b0",
            "fbf5e8 d0503f f0a03f e8c85a 7fa84f 3f7f8f",
            "f6f4f0 2f4f8f 6f6fbf b07fc0 5fa8d0 e090a0",
        ),
    ),
    "marble": Painter(
        crafted.marble,
        (
            "f2e6cf 1f3a5f c8402f e8a83a 3f8f8a f2e6cf 6f1f3a",
            "efe8dc 12202f 3f6f8f a8c8d0 efe8dc d8a86f 7f3f2f",
            "f5e4dc 5a1f4f d0508f f0a0a8 3f4f9f f5e4dc e8b84a",
        ),
    ),
    "points": Painter(
        painted.points,
        (
            "23408f 2f7fb5 3fa88f 8fc05a e8d84a f0a03a e0603f a03f7f",
            "5a2f6f a03f8f e0708a f0a87a f4dc8a a8c87a 4f9f8f 2f5f8f",
            "1f4f3f 3f8f4f 9fbf4a e8d050 f09a3f d8583a 8f3040 3f3f6f",
        ),
    ),
    "facets": Painter(
        crafted.facets,
        (
            "2a2622 6a4428 b5763a e0b060 f0dfb0 6f9a94 2f5660",
            "1f2a3a 3f5a73 7f9aa0 c0b8a0 d89a6f a8503f f0dcc0",
            "2a1f2f 5f3f5a a0607a d89a8a e8c8a0 7f9a8a f4ead8",
        ),
    ),
    "knit": Painter(
        crafted.knit,
        (
            "b5262f f2ead8 1f3f5f 3f7f6f e0a83a",
            "2f4a5a e8dcc0 c8703f 7f9f8f 8f2f3f",
            "5f3f6f f0e4e0 d0708f 3f8f9f e8b85a",
        ),
    ),
    "pastel": Painter(
        painted.pastel,
        (
            "2a2a33 e8503f f0a030 f7dc5a 5fb86f 3f8fd0 a05fc0 f0e8dc",
            "f4ecda c8304f f08f3a f2c83a 3f9f7f 2f6fb5 6f3f9f e890a8",
            "24362f f0705a f7b07a f4e08a 8fd0a0 5fb0d8 b090e0 f4f0e4",
        ),
    ),
    "weave": Painter(
        crafted.weave,
        (
            "c0303a 2f7f6f 2f4f9a f4e6bc e8a83a",
            "3f6fa0 a8ccc8 f6eedc d86a48 5a4038",
            "8f4f8f e890a0 f8dcb8 7fb08a 3f5f80",
        ),
    ),
    "halftone": Painter(
        crafted.halftone,
        (
            "fbf3dd f7c600 e8308a 1a8fd0",
            "fff6e5 ffb000 e0402f 20406f",
            "f4f6e8 ffd84a 2fb58a 5a2f8f",
        ),
    ),
}
"""Name -> painter."""


def paint(name: str, *, side: int = 512, seed: int = 0) -> Image.Image:
    """Paint a style image: RGB, `side` by `side` pixels, the same for the same arguments.

    Seeds walk through the family's palettes and change the composition. Strokes grow with `side`.
    Raises StyleError for an unknown painter.
    """
    if name not in PAINTERS:
        near = difflib.get_close_matches(name, PAINTERS, 1, 0)[0]
        raise StyleError(f"no painter is called {name!r}: did you mean {near!r}? There are {', '.join(PAINTERS)}")
    return _painted(name, side, seed).copy()


@functools.lru_cache(maxsize=32)
def _painted(name: str, side: int, seed: int) -> Image.Image:
    """Painting takes up to a second, and in a simulation many clients have the same style."""
    painter = PAINTERS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    colours = painter.palettes[seed % len(painter.palettes)].split()
    palette = np.array([[int(colour[k : k + 2], 16) / 255 for k in (0, 2, 4)] for colour in colours], np.float32)
    palette = (palette * rng.normal(1, 0.025, palette.shape).astype(np.float32)).clip(0, 1)
    return image_of(painter.draw(rng, side, palette))
