"""LG-FedAvg: the first layers stay here (Think Locally, Act Globally, Liang et al. 2020, arXiv:2001.01523)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, check_parts, copied, train, tune, within
from fedstyle.prediction import is_predictor
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class LGFedAvg:
    """Share all but the local representation, the layers nearest to the photo; both train together.

    The paper's local part may have another shape on each device, or learn without labels; here it is the first layers of one network.
    """

    rates: Rates = RATES
    local: tuple[str, ...] = ("down1", "down2", "down3")
    """The private parts of the network, by the names of its layers."""

    def __post_init__(self) -> None:
        """Check names."""
        check_parts(self.local, "method.local")

    def shares(self, name: str) -> bool:
        """Every parameter outside the local representation."""
        return not within(name, self.local) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the local representation alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else lambda name: within(name, self.local))
