"""Numbers of eight bits: a tensor as rows, one an output channel, each its scale and then whole numbers from -127 to 127.

Symmetric, per output channel (Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 3): a number
is scale x whole number, and the scale a row's largest magnitude / 127, rounded up to 17 significant bits, so that the product is exact in
fp32, and what was widened once packs to the same bytes again. A whole number is the nearest, half to even. Stochastic rounding (Alistarh et
al. 2017, QSGD) would have no bias, and twice the squared error; here the error is small beside an update, the next round starts from what
the server has made of it, and a device that is asked again must send the same bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import WireError

KIND: np.dtype[Any] = np.dtype("u1")
STEPS = 127
LARGEST = 512.0 * STEPS
"""The largest magnitude: 65,024, near that of fp16."""
SCALE = np.dtype("<f4")
TINY = np.finfo(np.float32).tiny
LEAST = STEPS * float(TINY)
"""The largest magnitude of a row, at least: 1.5e-36."""


def form(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of the bytes that a tensor of at least two axes, output channels first, crosses as."""
    return shape[0], SCALE.itemsize + math.prod(shape[1:])


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A tensor as bytes, a row a channel; its values are finite and at most LARGEST. A row of less than LEAST becomes zeros."""
    rows = values.reshape(len(values), -1)
    bits = (np.abs(rows).max(1, initial=0.0) / np.float32(STEPS)).astype(np.float32).view(np.uint32)
    scales = ((bits + np.uint32(0x7F)) & ~np.uint32(0x7F)).view(np.float32)
    scales[scales < TINY] = 0  # numbers of fewer bits, whose steps are too coarse for what is promised above
    whole = np.rint(rows / np.where(scales, scales, np.float32(1))[:, None]).astype(np.int8)
    return np.concatenate([scales.astype(SCALE)[:, None].view(np.uint8), whole.view(np.uint8)], axis=1)


def unpack(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor of this shape; raises WireError for a scale that is negative, not finite or too large, and for the number -128."""
    rows = data.reshape(form(shape))
    scales, whole = rows[:, : SCALE.itemsize].copy().view(SCALE), rows[:, SCALE.itemsize :].view(np.int8)
    if not ((scales >= 0) & (scales <= LARGEST / STEPS)).all():
        raise WireError(f"has a scale that is no number from 0 to {LARGEST / STEPS:.0f}")
    if (whole == -STEPS - 1).any():
        raise WireError(f"has a whole number beyond -{STEPS}")
    widened: NDArray[np.float32] = (whole.astype(np.float32) * scales.astype(np.float32)).reshape(shape)
    return widened
