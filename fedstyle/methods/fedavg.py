"""FedAvg: all is shared (Communication-Efficient Learning of Deep Networks, McMahan et al. 2017, arXiv:1602.05629)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, copied, train, tune
from fedstyle.net import is_norm
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedAvg:
    """Share all parameters; a personal filter is the base with its norms tuned.

    The paper has no personal model: that is the filter at 0 iterations. Adam takes the place of SGD, as in every method here, for its steps
    do not depend on the scale of a style loss.
    """

    rates: Rates = RATES

    def shares(self, name: str) -> bool:  # noqa: ARG002  every name is shared
        """Everything."""
        return True

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
