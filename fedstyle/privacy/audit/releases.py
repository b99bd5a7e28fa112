"""What an attacker sees of a user, as data: seven releases side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedstyle.base import Base
from fedstyle.methods import Method
from fedstyle.net import is_norm
from fedstyle.privacy.audit.users import Trace, Vector
from fedstyle.privacy.gaussian import Draw
from fedstyle.privacy.noise import flatten, noisy_mean

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
    SUMMED = ("securely summed", "The sum of a cohort's shared changes, with no single one seen and no noise.")
    FILTER = ("exported filter", "The personal filter itself against the base, in fp16, as a user shares it.")


@dataclass(frozen=True)
class Lens:
    """How releases are made of changes: which numbers of a vector are norms and which are shared, and the round's clipping and noise."""

    norms: Mask
    shared: Mask
    clip: float
    noise: float
    cohort: int

    @classmethod
    def of(cls, base: Base, method: Method, *, clip: float, noise: float, cohort: int) -> Lens:
        """The lens of a base's architecture under a method."""
        whole = base.transform()

        def mask(chosen: Any) -> Mask:
            return flatten({name: torch.full_like(value, float(chosen(name))) for name, value in whole.items()}) > 0.5

        return cls(mask(is_norm), mask(method.shares), clip, noise, cohort)

    def mask(self, release: Release) -> Mask:
        """Which numbers of a whole change this release tells something of."""
        partial = {Release.NOTHING: np.zeros_like(self.norms), Release.NORMS: self.norms}
        if release in (Release.SHARED, Release.NOISED, Release.SUMMED):
            return self.shared
        return partial.get(release, np.ones_like(self.norms))

    def see(self, release: Release, user: Trace, others: Sequence[Trace], draw: Draw, *, rounds: int) -> list[Vector]:
        """What is seen of a user, a vector a round for the first so many rounds; of a filter one vector, made after them.

        `others` are the rest of its cohort, for the release that sums.
        """
        if release is Release.FILTER:
            return [user.filters[0 if rounds == 1 else -1]]
        mask = self.mask(release)
        seen = [change[mask] for change in user.rounds[:rounds]]
        if release is Release.SUMMED:
            return [sum((other.rounds[k][mask] for other in others), own) for k, own in enumerate(seen)]
        return [self.noisy(own, draw) for own in seen] if release is Release.NOISED else seen

    def noisy(self, change: Vector, draw: Draw) -> Vector:
        """A change through the aggregator itself, alone in its round: clipped, on the grid, with the round's whole noise."""
        own = torch.from_numpy(change)
        mean = noisy_mean([{"own": own}], {"own": torch.zeros_like(own)}, clip=self.clip, noise=self.noise, denominator=1.0, draw=draw)
        return mean["own"].numpy()
