"""FedProx: local training is pulled back to the base (Li et al. 2020, arXiv:1812.06127)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedstyle.methods.fedavg import FedAvg
from fedstyle.methods.local import check_rates, round_descent
from fedstyle.tables import need
from fedstyle.training import Progress, Task


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Share all parameters and add (mu/2) ‖w - base‖² to the local loss; a server that names its own mu may only raise it."""

    mu: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        check_rates(self)
        need(self.mu >= 0, "method.mu", self.mu, "give 0 or more")

    def fit(self, net: nn.Module, task: Task, memory: MutableMapping[str, Tensor]) -> Iterator[Progress]:
        """A few steps on all parameters, pulled back to the base."""
        return round_descent(net, dataclasses.replace(task, proximal=max(self.mu, task.proximal)), memory, self)
