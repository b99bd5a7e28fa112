"""Gaussian noise in whole steps of a grid, from secure randomness.

Why whole steps: a Gaussian drawn in floating point leaves gaps between the numbers that it can reach, and where a released number lies
among these gaps can tell the secret below the noise (Mironov 2012, "On significance of the least significant bits for differential
privacy", for Laplace noise; Jin et al. 2022 for Gaussian noise). Here every update is rounded to a grid first, sums are of whole
numbers, and the noise is a discrete Gaussian (Canonne, Kamath, Steinke 2020), so a release has no lower bits that could tell anything.

What is not exact: chances of acceptance are computed in 64-bit floats and compared with 53 random bits, an error below 1e-15 of each
chance. Timing is not constant: how long a draw took depends on the noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedstyle.privacy.grid import Grid, sensitivity
from fedstyle.tables import need

Draw = Callable[[int], bytes]
"""Gives so many random bytes: os.urandom wherever a secret or a promise hangs on them, and `seeded(n)` in simulations."""

LARGEST = float(1 << 40)
"""The largest standard deviation, in steps, that the sampler draws."""


def seeded(seed: int) -> Draw:
    """Bytes that a seed repeats, for simulations and tests; who knows the seed can take the noise off again."""
    return np.random.default_rng(seed).bytes


def discrete_gaussian(count: int, std: float, draw: Draw = os.urandom) -> NDArray[np.int64]:
    """Draw whole numbers n with a chance in proportion to exp(-n^2 / (2 std^2)).

    Algorithms 2 and 3 of Canonne, Kamath, Steinke 2020, over arrays: a discrete Laplace number of scale t = floor(std) + 1, kept with
    chance exp(-(|n| - std^2 / t)^2 / (2 std^2)). `std` is over 0 and at most 2^40 steps; raises ConfigError otherwise.
    """
    need(0 < std <= LARGEST, "the noise's standard deviation in steps", std, "give a number over 0, at most 2^40")
    found: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        kept = _candidates(2 * missing + 64, std, draw)[:missing]
        found.append(kept)
        missing -= len(kept)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _candidates(tries: int, std: float, draw: Draw) -> NDArray[np.int64]:
    scale = math.floor(std) + 1
    words = np.frombuffer(draw(8 * tries), np.uint64)
    offset = (words[words <= np.uint64((1 << 64) // scale * scale - 1)] % np.uint64(scale)).astype(np.int64)
    offset = offset[_uniform(len(offset), draw) < np.exp(-offset / scale)]
    whole = offset + scale * np.floor(-np.log1p(-_uniform(len(offset), draw))).astype(np.int64)  # P(floor(-ln u) = v) = (1 - 1/e) e^-v
    negative = np.frombuffer(draw(len(whole)), np.uint8) & 1 == 1
    once = ~(negative & (whole == 0))  # so that zero is not drawn as +0 and as -0
    whole, negative = whole[once], negative[once]
    kept = _uniform(len(whole), draw) < np.exp(-((whole - std * std / scale) ** 2) / (2 * std * std))
    signed: NDArray[np.int64] = np.where(negative, -whole, whole)[kept]
    return signed


def _uniform(count: int, draw: Draw) -> NDArray[np.float64]:
    """Numbers in [0, 1) of 53 random bits each."""
    return (np.frombuffer(draw(8 * count), np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def noise_std(noise: float, grid: Grid, clip: float, length: int) -> float:
    """The standard deviation, in steps, of noise `noise` times as large as what one user can move the sum by (see `sensitivity`)."""
    need(math.isfinite(noise) and noise > 0, "the noise multiplier", noise, "give a finite number over 0")
    return noise * sensitivity(grid, clip, length)


def shorten(vector: NDArray[np.float64], norm: float) -> NDArray[np.float64]:
    """Scale a vector so that its L2 norm is at most `norm`; in 64-bit floats, whose last bit the rounding to a grid covers."""
    largest = float(np.abs(vector).max(initial=0.0))
    length = largest * float(np.linalg.norm(vector / largest)) if largest else 0.0  # so that no square overflows
    return vector * (norm / length) if length > norm else vector
