"""FedBABU: the head never trains in a round (FedBABU: Towards Enhanced Representation, Oh et al. 2022, arXiv:2106.06042)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, check_parts, copied, train, tune, within
from fedstyle.prediction import is_predictor
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedBABU:
    """Share all but the head, which stays as the base has it until a filter is made; then the head is tuned.

    So all bodies learn for one and the same head. From a base that predicts norms, the head's norms begin as predicted for the style.
    """

    rates: Rates = RATES
    head: tuple[str, ...] = ("up1", "up2", "out")
    """The parts of the network that rest in the rounds, by the names of its layers."""

    def __post_init__(self) -> None:
        """Check names."""
        check_parts(self.head, "method.head")

    def shares(self, name: str) -> bool:
        """Every parameter outside the head."""
        return not within(name, self.head) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on the body."""
        return train(net, task, memory, self.rates, trains=self.shares, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the head alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else lambda name: within(name, self.head))
