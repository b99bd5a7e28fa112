"""Local training alone, as every study's baseline (LEAF: A Benchmark for Federated Settings, Caldas et al. 2018, arXiv:1812.01097)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, train, tune
from fedstyle.training import Progress, Task


@dataclass(frozen=True)
class Local:
    """Share nothing: each client trains alone, and keeps its whole network from round to round."""

    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("Bulyan", "Krum", "MultiKrum"), "it compares updates, and none is sent: use FedAvg"
    )
    rates: Rates = RATES

    def shares(self, name: str) -> bool:  # noqa: ARG002  nothing leaves, whatever its name
        """Nothing."""
        return False

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates)

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  the whole network is private
    ) -> Iterator[Progress]:
        """Descent on all parameters."""
        return tune(net, task, memory, iterations)
