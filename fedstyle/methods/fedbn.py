"""FedBN: norms stay here (Federated Learning on Non-IID Features via Local Batch Normalization, Li et al. 2021, arXiv:2102.07623)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, copied, train, tune
from fedstyle.net import is_norm
from fedstyle.prediction import is_predictor
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedBN:
    """Share the convolutions, keep instance-norm scale and shift private: a style lives there (Dumoulin et al. 2017)."""

    rates: Rates = RATES

    def shares(self, name: str) -> bool:
        """Every parameter but the norms, and but a base's predictor of norms, whose update would tell of the style."""
        return not is_norm(name) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
