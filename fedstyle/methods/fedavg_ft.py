"""FedAvg and fine-tuning (Federated Evaluation of On-device Personalization, Wang et al. 2019, arXiv:1910.10252)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, copied, train, tune
from fedstyle.prediction import is_predictor
from fedstyle.training import Progress, Task


@dataclass(frozen=True)
class FedAvgFT:
    """Share all parameters in the rounds; a personal filter is the base with every parameter tuned, and nothing is kept between rounds."""

    rates: Rates = RATES

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train."""
        return not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  it tunes all in any case
    ) -> Iterator[Progress]:
        """Descent on all parameters."""
        return tune(net, task, memory, iterations)
