"""FedPer: the last layers stay here (Federated Learning with Personalization Layers, Arivazhagan et al. 2019, arXiv:1912.00818)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, check_parts, copied, train, tune, within
from fedstyle.prediction import is_predictor
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedPer:
    """Share all but the head, the layers nearest to the picture; body and head train together.

    The paper's head is a classifier and up to four of the blocks before it. Here it is what paints: the last layers, their norms included.
    """

    rates: Rates = RATES
    head: tuple[str, ...] = ("up1", "up2", "out")
    """The private parts of the network, by the names of its layers."""

    def __post_init__(self) -> None:
        """Check names."""
        check_parts(self.head, "method.head")

    def shares(self, name: str) -> bool:
        """Every parameter outside the head."""
        return not within(name, self.head) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the head alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else lambda name: within(name, self.head))
