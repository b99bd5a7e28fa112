"""The fixed test picture that exports are proved on: drawn by formulas and a frozen random stream, the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRAIN = 10.0
"""Standard deviation of the grain, of 255: that of a phone's photo in the evening."""


def _scene(height: int, width: int) -> NDArray[np.float64]:
    """A sky, a disc, a striped field, and flat blocks near black, near white and in pure colours."""
    y, x = np.mgrid[0:height, 0:width]
    v, u = (y + 0.5) / height, (x + 0.5) / width
    picture = np.stack([0.35 + 0.4 * v, 0.55 + 0.2 * u, 0.95 - 0.5 * v])
    disc = (u - 0.7) ** 2 + (v - 0.25) ** 2 < 0.02
    picture[:, disc] = np.array([[1.0], [0.9], [0.3]])
    field = v > 0.6
    stripes = 0.5 + 0.4 * np.sin(60 * u + 25 * v * v)
    picture[:, field] = (np.array([0.3, 0.7, 0.2])[:, None, None] * stripes)[:, field]
    fine = (u < 0.25) & (v > 0.3) & (v < 0.6)
    picture[:, fine] = ((x + y) % 2)[fine] * 0.8 + 0.1
    colors = [(0.01, 0.01, 0.01), (0.99, 0.99, 0.99), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    for place, color in enumerate(colors):
        block = (u >= place / 5) & (u < (place + 1) / 5) & (v > 0.82)
        picture[:, block] = np.array(color)[:, None]
    return picture


def _noise(height: int, width: int) -> NDArray[np.float64]:
    """Noise of five octaves, coarse to fine, each half as strong as the one before: detail at every scale, as in a photo."""
    stream = np.random.RandomState(2015)  # the legacy generator's stream is frozen for good
    picture = np.zeros((3, height, width))
    for octave in range(5):
        cells = 4 << octave
        grid = stream.uniform(-1, 1, (3, cells, cells))
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        picture += grid[:, rows[:, None], columns[None]] / 2**octave
    return 0.5 + 0.45 * picture


def testcard(height: int, width: int) -> Tensor:
    """The test picture at a size: (1, 3, height, width) whole numbers 0..255, as floats, RGB."""
    drawn = _scene(height, width)
    area = (slice(None), slice(height * 3 // 10, height * 6 // 10), slice(width * 4 // 10, None))
    drawn[area] = _noise(height, width)[area]
    # Grain as a camera has it. On a gradient without any, a strongly textured filter builds its texture out of rounding errors: with a
    # trained halftone filter the 99.99th percentile in fp16 was 8.4 levels off there, 5.1 with grain of 6, and 0.4 to 2.9 on nine photos.
    # With this grain the card is about as hard as the hardest of those photos.
    drawn += np.random.RandomState(1965).normal(0, GRAIN / 255, drawn.shape)
    return torch.from_numpy(np.rint(drawn.clip(0, 1) * 255).astype(np.float32))[None]
