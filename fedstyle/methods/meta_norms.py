"""Meta norms, fedstyle's own: ANIL's inner loop on norms (Rapid Learning or Feature Reuse?, Raghu et al. 2020, arXiv:1909.09157)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Drawer, Memory, Rates, copied, count, put, train, tune
from fedstyle.net import is_norm
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task, derive, everything


@dataclass(frozen=True)
class MetaNorms:
    """Share the convolutions; each round they learn at norms that `inner` steps made from the same start as a new user's.

    A round puts the norms back to where a filter begins (as the base predicts them for the style, or its own), trains them alone as
    `personalize` does, on batches of their own, then trains the convolutions with the norms still. The convolutions so learn to be good
    after a short personal training, for users who never took part too, while FedBN's learn to go with norms that many rounds made.
    It is ANIL with norms for the head and its first-order slope.

    Not measured yet. Fixed beforehand: the metric is the mean held-out total loss of unseen clients' filters after 25 personal
    iterations, against FedBN's with as many iterations in all (its `steps` = inner + steps), seeds 11, 12 and 13, as a paired
    difference by client and seed with a 95 % bootstrap interval over clients; it wins only if the interval lies below 0.
    """

    rates: Rates = RATES
    inner: int = 10
    """Iterations on the norms before the convolutions' `steps`, at the rate and warm-up of `[training]`."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.inner >= 1, "method.inner", self.inner, "give 1 or more")

    def shares(self, name: str) -> bool:
        """Every parameter but the norms, and but a base's predictor of norms, whose update would tell of the style."""
        return not is_norm(name) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """First the norms from their start, then the convolutions; the norms go back to their start in the end."""
        return count(self._phases(net, task, memory), self.inner + self.rates.steps)

    def _phases(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        start = copied(net, is_norm)
        yield from tune(net, dataclasses.replace(task, seed=derive(task.seed, "inner")), {}, self.inner, is_norm)
        yield from train(net, task, Drawer(memory, "outer/"), self.rates, trains=self.shares, anchor=copied(net, self.shares))
        put(net, start)

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
