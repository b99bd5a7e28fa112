"""Whole numbers for an update's numbers: the fixed point in which updates are summed, exactly and in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import ConfigError, ParamsError
from fedstyle.tables import need

LEVELS = 1 << 20
"""Steps between 0 and the limit, if nothing else is said: the sum of 2,047 clients then fits into 32 bits."""
TAIL = 20.0
"""Standard deviations of noise that a sum has room for: a normal number is beyond them with a chance of 5.5e-89."""


@dataclass(frozen=True)
class Grid:
    """A grid of 2 levels + 1 points from -limit to limit, `limit / levels` apart."""

    limit: float
    """Numbers beyond ±limit are moved to it; with joint clipping to C, a limit of C moves none."""
    levels: int = LEVELS

    def __post_init__(self) -> None:
        """Check ranges."""
        need(math.isfinite(self.limit) and self.limit > 0, "the grid's limit", self.limit, "give a finite number over 0")
        need(1 <= self.levels <= 1 << 40, "the grid's levels", self.levels, "give 1 to 2^40")
        need(self.step > 0, "the grid's limit", self.limit, "it is too small for so many levels")

    @property
    def step(self) -> float:
        """The distance of two neighbours."""
        return self.limit / self.levels

    def encode(self, vector: NDArray[np.floating]) -> NDArray[np.int64]:
        """The nearest points' numbers, -levels to levels: each is at most half a step off, and sums of n at most n / 2 steps.

        Raises ParamsError for a number that is not finite.
        """
        numbers = np.asarray(vector, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise ParamsError("the update holds a number that is not finite: leave this client out of the round")
        whole = np.rint(numbers * (1 / self.step) if math.isfinite(1 / self.step) else numbers / self.step)
        return np.clip(whole, -self.levels, self.levels).astype(np.int64)

    def decode(self, total: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers that a sum of points stands for."""
        return total.astype(np.float64) * self.step

    def bits(self, summands: int, noise: float = 0.0) -> int:
        """The width, 32 or 64 bits, of whole numbers that hold the sum of so many vectors.

        `noise` is the standard deviation, in steps, of what each adds; a sum has room for 20 standard deviations of all. Raises
        ConfigError when 64 bits do not suffice.
        """
        most = summands * self.levels + math.ceil(TAIL * noise * math.sqrt(summands))
        for width in (32, 64):
            if most < 1 << (width - 1):
                return width
        raise ConfigError(f"a sum of {summands} vectors of ±{self.levels} steps does not fit into 64 bits: use fewer levels or clients")


def sensitivity(grid: Grid, clip: float, length: int) -> float:
    """The L2 norm, in steps, that a vector of L2 norm `clip` has on the grid at most.

    Rounding to the nearest point moves each of `length` numbers by half a step at most, so the whole by sqrt(length) / 2 (the triangle
    inequality; Kairouz, Liu, Steinke 2021, proposition 4, has it for random rounding). Noise is measured against this, not against
    clip / step, so that rounding costs no privacy.
    """
    return clip / grid.step + math.sqrt(length) / 2
