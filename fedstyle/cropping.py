"""A photo as a square of pixels, for training and for looking: Create ML's three ways."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedstyle.config import PROCESSING
from fedstyle.errors import ConfigError

__all__ = ["PROCESSING", "cut", "known"]


def known(processing: str) -> None:
    """Raise ConfigError for a word that is not in PROCESSING."""
    if processing not in PROCESSING:
        raise ConfigError(f"processing = {processing!r} is unknown: choose {', '.join(PROCESSING[:-1])} or {PROCESSING[-1]}")


def cut(photo: Image.Image, size: int, processing: str, zoom: float, x: float, y: float) -> Tensor:
    """What `processing` shows of a photo: uint8 (3, size, size).

    A square crop has sides of 1/`zoom` of the photo's short side, and lies at x, y: 0 is left or top, 1 is right or bottom.
    """
    if processing == "scale-fit":
        return _fitted(photo, size)
    if processing == "centre-crop":
        x = y = 0.5
    return _square(photo, size, min(photo.size) / zoom, x, y)


def _fitted(photo: Image.Image, size: int) -> Tensor:
    """The whole photo, centred, and its mirror image on both sides of it."""
    width, height = (max(1, round(edge * size / max(photo.size))) for edge in photo.size)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    beside = [((size - edge) // 2, size - edge - (size - edge) // 2) for edge in (height, width)]
    return torch.from_numpy(np.pad(pixels, [*beside, (0, 0)], mode="symmetric")).permute(2, 0, 1)


def _square(photo: Image.Image, size: int, edge: float, x: float, y: float) -> Tensor:
    """The square with sides of `edge` pixels at the place x, y (0 = left or top, 1 = right or bottom), resized to `size`."""
    left, top = x * (photo.width - edge), y * (photo.height - edge)
    box = (left, top, min(left + edge, photo.width), min(top + edge, photo.height))
    pixels = np.asarray(photo.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
