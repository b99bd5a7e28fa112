"""A method that shares little: noise grows with the root of how many numbers are shared, so a private round may teach more by fewer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods import Memory, Rates
from fedstyle.methods.descent import RATES, train, tune
from fedstyle.net import is_norm
from fedstyle.training import Progress, Task, everything

ENDS = ("down1.", "up2.", "out.")
"""The first convolution and the last two: 7,651 of the 413,891 numbers that `fedbn` shares."""


@dataclass(frozen=True)
class Few:
    """Train and share the network's two ends; norms stay here, and all else is the base's for ever."""

    rates: Rates = RATES

    def shares(self, name: str) -> bool:
        """The convolutions at the ends."""
        return name.startswith(ENDS) and not is_norm(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on these and the norms."""
        return train(net, task, memory, self.rates, trains=lambda name: self.shares(name) or is_norm(name))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """As `fedbn`."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
