"""The scene that previews show when no photo is given: a landscape painted by code, and the preview pictures made from it."""

from __future__ import annotations

import contextlib
import functools
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from fedstyle.paint.canvas import UNITS, Array, blend, ease, image_of, noise, plane, ramp

if TYPE_CHECKING:
    from fedstyle.filter import Filter

STYLISED = (512, 384)
"""Width and height at which a preview is stylised, in pixels."""
PREVIEW = (256, 192)
"""Width and height at which it is kept."""


@functools.cache
def landscape() -> Image.Image:
    """A lake between hills under an evening sky, 512 x 384 pixels of RGB; no photo, no person's picture, always the same."""
    rng = np.random.default_rng(20)
    side = UNITS
    x, y = plane(side)
    sky = ramp(np.array([[0.25, 0.45, 0.75], [0.55, 0.72, 0.88], [0.97, 0.86, 0.72]], np.float32), (y / 300).clip(0, 1))
    clouds = ease(0.2, 1.7, noise(rng, side, 120, 5) + 0.5 * np.sin(y / 23 + noise(rng, side, 200)))
    picture = blend(sky, np.array([0.99, 0.96, 0.92], np.float32), 0.85 * clouds * ease(290, 120, y))
    sun = np.hypot(x - 370, y - 190)
    picture = blend(picture, np.array([1.0, 0.93, 0.7], np.float32), 0.95 * ease(34, 26, sun) + 0.4 * np.exp(-sun / 60) * (sun >= 30))
    for height, rough, far, near in (
        (235, 46, (0.52, 0.58, 0.70), (0.66, 0.68, 0.74)),
        (268, 34, (0.30, 0.40, 0.42), (0.42, 0.50, 0.46)),
        (296, 20, (0.13, 0.25, 0.16), (0.28, 0.40, 0.20)),
    ):
        line = height + rough * noise(rng, side, 150, 5)[side // 2] - 0.12 * np.abs(x - 256)
        shade = ease(0, 90, y - line)[..., None] * (np.array(near) - np.array(far)) + np.array(far)
        hill = shade * (1 + 0.13 * noise(rng, side, 14, 4))[..., None]
        picture = blend(picture, hill.astype(np.float32), ease(-0.8, 0.8, y - line))
    grain = 0.012 * rng.standard_normal((side, side, 1)).astype(np.float32)  # as a camera's sensor has it
    return image_of(_shore(rng, picture, x, y) + grain).crop((0, 64, side, 448))


def _shore(rng: np.random.Generator, picture: Array, x: Array, y: Array) -> Array:
    """The lake that mirrors what stands above it, a meadow before it, and trees."""
    side, level = len(picture), 322
    rows = np.clip(2 * level - np.arange(side) * 1.0, 0, side - 1).astype(np.intp)
    ripple = 2.5 * noise(rng, side, 10, 3) * ease(level, side, y) + 1.5 * np.sin(y * 0.9 + noise(rng, side, 60))
    columns = (x + ripple * (1 + (y - level) / 40)).clip(0, side - 1).astype(np.intp)
    water = picture[np.broadcast_to(rows[:, None], columns.shape), columns] * np.array([0.72, 0.82, 0.9], np.float32)
    picture = blend(picture, water * (1 + 0.06 * noise(rng, side, 9, 2))[..., None], ease(level - 1, level + 1, y))
    bank = 404 + 16 * noise(rng, side, 170, 3)[0] - 0.16 * x + 30
    blades = 1 + 0.24 * noise(rng, side, 5, 3) + 0.15 * noise(rng, side, 60, 2)
    meadow = ramp(np.array([[0.46, 0.55, 0.2], [0.24, 0.36, 0.12]], np.float32), ease(0, 90, y - bank)) * blades[..., None]
    blooms = ease(2.0, 2.3, noise(rng, side, 7)) * ease(8, 30, y - bank)
    meadow = blend(meadow, np.array([0.93, 0.72, 0.3], np.float32), blooms)
    picture = blend(picture, meadow, ease(-0.8, 0.8, y - bank + 2.5 * noise(rng, side, 5)))
    for centre, foot, tall in ((92, 432, 196), (146, 424, 128), (438, 384, 92)):
        part = ((foot - y) / tall).clip(0, 1)  # 0 at the foot, 1 at the tip
        wide = tall * 0.19 * (1 - part) * (0.75 + 0.25 * np.sin(part * 44)) + 3 * noise(rng, side, 9, 3)
        cover = ease(-1, 1, wide - np.abs(x - centre)) * ease(foot - tall, foot - tall + 3, y) * ease(foot, foot - 6, y)
        leaf = (
            np.array([0.10, 0.22, 0.13], np.float32) * (1.25 + 0.45 * noise(rng, side, 7, 3) + 0.25 * ease(-20, 30, x - centre))[..., None]
        )
        picture = blend(picture, leaf.astype(np.float32), cover)
        trunk = ease(3.5, 2.5, np.abs(x - centre)) * ease(foot - 10, foot - 6, y) * ease(foot + 8, foot + 6, y)
        picture = blend(picture, np.array([0.2, 0.14, 0.1], np.float32), trunk)
    return picture


def framed(photo: Image.Image) -> Image.Image:
    """A photo as a preview takes it: upright, RGB, its middle, 512 x 384 pixels, and nothing of its metadata."""
    with contextlib.suppress(Exception):  # broken EXIF says nothing about the pixels
        photo = ImageOps.exif_transpose(photo)
    middle = ImageOps.fit(photo.convert("RGB"), STYLISED, Image.Resampling.LANCZOS)
    return Image.frombytes("RGB", middle.size, middle.tobytes())


def preview(filter: Filter, photo: Image.Image | None) -> bytes:
    """What a filter makes of a framed photo, or of the landscape: a JPEG of 256 x 192 pixels."""
    return jpeg(filter(photo or landscape()).resize(PREVIEW, Image.Resampling.LANCZOS), 82)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """An RGB image as a JPEG file."""
    image.save(file := io.BytesIO(), "JPEG", quality=quality, optimize=True)
    return file.getvalue()
