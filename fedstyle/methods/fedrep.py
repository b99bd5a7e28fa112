"""FedRep: head, then body (Exploiting Shared Representations for Personalized FL, Collins et al. 2021, arXiv:2102.07089)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Drawer, Memory, Rates, check_parts, copied, count, train, tune, within
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedRep:
    """Share all but the head; each round trains the head with the body still, then the body with the head still.

    `steps` are the body's. The paper fits a linear head many times a round, starting where it stood; so does this one, with Adam.
    """

    rates: Rates = RATES
    head: tuple[str, ...] = ("up1", "up2", "out")
    """The private parts of the network, by the names of its layers."""
    head_steps: int = 10
    """Iterations on the head a round, before those on the body."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        check_parts(self.head, "method.head")
        need(self.head_steps >= 1, "method.head_steps", self.head_steps, "give 1 or more")

    def shares(self, name: str) -> bool:
        """Every parameter outside the head."""
        return not within(name, self.head) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """First the head, then the body."""
        return count(self._phases(net, task, memory), self.head_steps + self.rates.steps)

    def _phases(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        head, body = Drawer(memory, "head/"), Drawer(memory, "body/")
        yield from train(net, task, head, self.rates, trains=lambda name: within(name, self.head), steps=self.head_steps)
        yield from train(net, task, body, self.rates, trains=self.shares, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the head alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else lambda name: within(name, self.head))
