"""FedProx: training is pulled to the base (Federated Optimization in Heterogeneous Networks, Li et al. 2020, arXiv:1812.06127)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, copied, train, tune
from fedstyle.net import is_norm
from fedstyle.tables import need
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedProx:
    """Share all parameters and add (mu/2) ‖w - base‖² to the local loss; a server that names its own mu may only raise it."""

    rates: Rates = RATES
    mu: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.mu >= 0, "method.mu", self.mu, "give 0 or more")

    def shares(self, name: str) -> bool:  # noqa: ARG002  every name is shared
        """Everything."""
        return True

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters, pulled back to the base."""
        task = dataclasses.replace(task, proximal=max(self.mu, task.proximal))
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters, without the pull."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
