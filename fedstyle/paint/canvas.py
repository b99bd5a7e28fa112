"""What the painters share: a plane of 512 units, noise, cells, colour ramps, light and strokes; numpy and Pillow only.

A picture is float32 (side, side, 3) in [0, 1]. Lengths are in units of 1/512 of the side, and no random draw depends on the side, so that
a larger picture shows the same strokes in more detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[Any]
UNITS = 512


def plane(side: int) -> tuple[Array, Array]:
    """The x and y of each pixel's centre, in units."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * np.float32(UNITS / side)
    return np.broadcast_to(axis, (side, side)), np.broadcast_to(axis[:, None], (side, side))


def noise(rng: np.random.Generator, side: int, scale: float, octaves: int = 1) -> Array:
    """Smooth noise with bumps about `scale` units wide, each further octave half as wide and half as high; mean 0, deviation 1."""
    total: Array = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        cells = UNITS / scale * 2**octave
        lattice = rng.standard_normal((int(cells) + 4,) * 2).astype(np.float32)
        smooth = Image.fromarray(lattice).resize((side, side), Image.Resampling.BICUBIC, box=(1, 1, 1 + cells, 1 + cells))
        total += np.asarray(smooth) / 2**octave
    even: Array = (total - total.mean()) / total.std()
    return even


def ease(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = ((x - low) / (high - low)).clip(0, 1)
    smooth: Array = t * t * (3 - 2 * t)
    return smooth


def ranked(x: Array) -> Array:
    """`x` bent so that its values are spread evenly over [0, 1]: each colour of a ramp then covers the same area."""
    levels = np.quantile(x, np.linspace(0, 1, 65))
    return np.interp(x, levels, np.linspace(0, 1, 65)).astype(np.float32)


def ramp(palette: Array, t: Array) -> Array:
    """The colours of a palette (n, 3) from first to last as `t` goes from 0 to 1, blended."""
    places = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(t, places, palette[:, c]) for c in range(3)], -1).astype(np.float32)


def blend(below: Array, above: Array, cover: Array) -> Array:
    """`above` over `below` where `cover` is 1; a colour (3,) or a picture each."""
    mixed: Array = below + (above - below) * cover[..., None]
    return mixed


def lit(picture: Array, height: Array, strength: float) -> Array:
    """A picture under light from the top left, its relief given by `height` in units."""
    step = UNITS / height.shape[0]
    slope = (height - np.roll(height, (1, 1), (0, 1))) / step
    seen: Array = picture * (1 + strength * np.tanh(slope))[..., None]
    return seen


def cells(rng: np.random.Generator, x: Array, y: Array, size: float, jitter: float = 1.0) -> tuple[NDArray[np.intp], Array]:
    """Voronoi cells about `size` wide: the number of each pixel's cell, and its distance to the cell's edge in units.

    The sites sit on a lattice, each moved by up to half of `jitter`; the distance is the exact one to the bisector with the second
    nearest site.
    """
    n = int(UNITS * 1.6 / size) + 8
    sites = (rng.random((2, n, n)).astype(np.float32) - 0.5) * jitter + 0.5
    px, py = x / size + n * 0.15 + 2, y / size + n * 0.15 + 2
    column, row = np.floor(px).astype(np.intp), np.floor(py).astype(np.intp)
    near = np.full((2, *x.shape), np.inf, np.float32)  # squared distances to the nearest and second nearest site
    where = np.zeros((2, 2, *x.shape), np.float32)
    number = np.zeros(x.shape, np.intp)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            i, j = (row + dy) % n, (column + dx) % n
            sx, sy = column + dx + sites[0, i, j], row + dy + sites[1, i, j]
            far = (sx - px) ** 2 + (sy - py) ** 2
            first, second = far < near[0], (far >= near[0]) & (far < near[1])
            near[1] = np.where(first, near[0], np.where(second, far, near[1]))
            where[1] = np.where(first, where[0], np.where(second, np.stack([sx, sy]), where[1]))
            near[0] = np.where(first, far, near[0])
            where[0] = np.where(first, np.stack([sx, sy]), where[0])
            number = np.where(first, i * n + j, number)
    apart = np.hypot(*(where[1] - where[0])) + 1e-6
    return number, ((near[1] - near[0]) / (2 * apart) * size).astype(np.float32)


def averaged(picture: Array, number: NDArray[np.intp]) -> Array:
    """Each cell in its mean colour."""
    area = np.bincount(number.ravel()).clip(1)
    return np.stack([(np.bincount(number.ravel(), picture[..., c].ravel()) / area)[number] for c in range(3)], -1).astype(np.float32)


def each(rng: np.random.Generator, number: NDArray[np.intp], spread: float = 1.0) -> Array:
    """A random value for each cell, normal with this deviation."""
    return (rng.standard_normal(8192) * spread).astype(np.float32)[number % 8192]


def scene(rng: np.random.Generator, side: int) -> Array:
    """A large-scale composition in [0, 1] for the painters that need something to paint: curving fields and a sun with rings."""
    x, y = plane(side)
    field = noise(rng, side, 190, 2) + 0.8 * np.sin(y / 70 + 1.2 * noise(rng, side, 240))
    cx, cy, radius = rng.uniform(110, 400), rng.uniform(90, 250), rng.uniform(50, 90)
    far = np.hypot(x - cx, y - cy) + 6 * noise(rng, side, 60)
    sun = 1.6 * np.cos(far / radius * np.pi) * np.exp(-far / (2.2 * radius))
    return ranked((field + 2 * sun).astype(np.float32))


def image_of(picture: Array) -> Image.Image:
    """A picture as 8-bit RGB."""
    return Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8))


def shrunk(picture: Array, side: int) -> Array:
    """A picture that was computed on a finer grid, at `side`."""
    return _floats(image_of(picture).resize((side, side), Image.Resampling.BOX))


def _floats(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / np.float32(255)


class Sheet:
    """Pillow's pen on a sheet twice as fine as the picture, in units."""

    def __init__(self, side: int, below: Array) -> None:
        """`below` is a colour (3,) or a picture (side, side, 3)."""
        self.side, self.unit = side, 2 * side / UNITS
        filled = image_of(np.broadcast_to(below, (side, side, 3)))
        self.image = filled.resize((2 * side, 2 * side), Image.Resampling.NEAREST)
        self.pen = ImageDraw.Draw(self.image)

    def line(self, points: Array, colour: Array, width: float, joint: str | None = "curve") -> None:
        """A line through `points` (n, 2); without a joint it is drawn much faster and cracks where it turns sharply."""
        self.pen.line((points * self.unit).ravel().tolist(), ink(colour), max(1, round(width * self.unit)), joint)

    def polygon(self, points: Array, colour: Array) -> None:
        """A filled polygon with corners `points` (n, 2)."""
        self.pen.polygon((points * self.unit).ravel().tolist(), ink(colour))

    def dot(self, place: Array, radius: float, colour: Array) -> None:
        """A filled disc around `place` (2,)."""
        x, y = place * self.unit
        r = radius * self.unit
        self.pen.ellipse((x - r, y - r, x + r, y + r), ink(colour))

    def picture(self) -> Array:
        """What was drawn, as a picture."""
        return _floats(self.image.resize((self.side, self.side), Image.Resampling.BOX))


def ink(colour: Sequence[float] | Array) -> tuple[int, int, int]:
    """A colour in [0, 1] as Pillow takes it."""
    red, green, blue = (round(min(max(float(c), 0.0), 1.0) * 255) for c in colour)
    return red, green, blue


def streams(angle: Array, starts: Array, steps: int, step: float) -> Array:
    """Lines that follow a field of angles (side, side) from `starts` (n, 2), in units: (n, steps + 1, 2)."""
    side = angle.shape[0]
    points: list[Array] = [starts.astype(np.float32)]
    for _ in range(steps):
        at = (points[-1] * (side / UNITS)).astype(np.intp).clip(0, side - 1)
        turn = angle[at[:, 1], at[:, 0]]
        points.append(points[-1] + step * np.stack([np.cos(turn), np.sin(turn)], -1))
    return np.stack(points, 1)


def sample(picture: Array, points: Array) -> Array:
    """The values of a picture at points (n, 2) in units."""
    side = picture.shape[0]
    at = (points * (side / UNITS)).astype(np.intp).clip(0, side - 1)
    found: Array = picture[at[:, 1], at[:, 0]]
    return found
