"""Ditto: a second network, near the shared one (Ditto: Fair and Robust FL Through Personalization, Li et al. 2021, arXiv:2012.04221)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import OWN, RATES, Drawer, Memory, Rates, copied, count, keep, kept, put, train, tune_own
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task


@dataclass(frozen=True)
class Ditto:
    """Share one network, and keep a second that is trained beside it and pulled to the base by (lam/2) ‖v - base‖².

    Each round takes `steps` for the shared network and as many for the device's own. The own one begins as the first base that came, and is
    pulled, as in the paper, to the base that the round began with.
    """

    rates: Rates = RATES
    lam: float = 0.1
    """The paper's lambda: 0 trains alone, a large one stays at the base."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.lam >= 0, "method.lam", self.lam, "give 0 or more")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train; never the second network."""
        return not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """First the shared network, then the own one."""
        return count(self._phases(net, task, memory), 2 * self.rates.steps)

    def _phases(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        base = copied(net)
        yield from train(net, task, memory, self.rates, anchor=base)
        shared = copied(net)
        put(net, {**base, **kept(memory, OWN)})
        pulled = dataclasses.replace(task, proximal=self.lam)
        yield from train(net, pulled, Drawer(memory, "second/"), self.rates, anchor=base)
        keep(memory, OWN, copied(net))
        put(net, shared)

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  the second network is private as a whole
    ) -> Iterator[Progress]:
        """Descent on the own network, pulled to the base."""
        return tune_own(net, task, memory, iterations, self.lam)
