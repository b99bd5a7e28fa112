"""What an attacker sees of a user, as data: seven releases side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from fedstyle.base import Base
from fedstyle.methods import Method
from fedstyle.net import is_norm

Mask = NDArray[np.bool_]


class Release(Enum):
    """What is seen of a user: its name, and what it is in a sentence."""

    def __init__(self, key: str, about: str) -> None:
        self.key, self.about = key, about

    NOTHING = ("nothing", "No update leaves the device; the attacker sees the bases alone.")
    NORMS = ("norms only", "The change of the instance-norm scales and shifts.")
    SHARED = ("shared only", "The change of the parameters that the configured method shares; the rest stays on the device.")
    FULL = ("full", "The change of every parameter.")
    NOISED = (
        "clipped and noised",
        "The shared change, clipped, with all of a round's noise: the noisy sum less all other users' changes, taken as known.",
    )
    SUMMED = ("securely summed", "The sum of a cohort's shared changes, clipped, with no single one seen and no noise.")
    FILTER = ("exported filter", "The personal filter itself against the base, in fp16, as a user shares it.")


@dataclass(frozen=True)
class Lens:
    """Which numbers and tensors of a whole change, in `flatten`'s order, a release tells something of."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    norm_tensors: Mask
    shared_tensors: Mask

    @classmethod
    def of(cls, base: Base, method: Method) -> Lens:
        """The lens of a base's architecture under a method."""
        whole = base.transform()
        names = tuple(sorted(whole))

        def mask(chosen: Callable[[str], bool]) -> Mask:
            return np.array([chosen(name) for name in names])

        return cls(names, tuple(whole[name].numel() for name in names), mask(is_norm), mask(method.shares))

    @property
    def cuts(self) -> list[int]:
        """Where each tensor ends."""
        return [int(end) for end in np.cumsum(self.sizes)]

    @property
    def norms(self) -> Mask:
        """Which numbers are norms."""
        return np.repeat(self.norm_tensors, self.sizes)

    @property
    def shared(self) -> Mask:
        """Which numbers are shared."""
        return np.repeat(self.shared_tensors, self.sizes)

    def tensors(self, release: Release) -> Mask:
        """Which tensors a release tells something of."""
        partial = {Release.NOTHING: np.zeros_like(self.norm_tensors), Release.NORMS: self.norm_tensors}
        if release in (Release.SHARED, Release.NOISED, Release.SUMMED):
            return self.shared_tensors
        return partial.get(release, np.ones_like(self.norm_tensors))

    def parts(self, release: Release) -> list[Mask]:
        """The same, norms and the rest apart: they are trained at other rates."""
        seen = self.tensors(release)
        return [part for part in (seen & self.norm_tensors, seen & ~self.norm_tensors) if part.any()]

    def mask(self, release: Release) -> Mask:
        """Which numbers a release tells something of."""
        return np.repeat(self.tensors(release), self.sizes)
