"""Reptile: a start near all clients' ends (On First-Order Meta-Learning Algorithms, Nichol et al. 2018, arXiv:1803.02999)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, copied, put, train, tune
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task


@dataclass(frozen=True)
class Reptile:
    """Share all parameters; train many steps from the base, and send `outer` times the way that they led.

    The paper's server goes that part of the mean way; a plain average of shortened ways is the same. With `outer = 1` it is FedAvg and
    fine-tuning, which is Reptile's special case. Several `steps` make it more than joint training.
    """

    rates: Rates = RATES
    outer: float = 0.5
    """The part of the way that is sent: the paper's epsilon, over 0 and up to 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(0 < self.outer <= 1, "method.outer", self.outer, "give a part of the way, over 0 and up to 1")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train."""
        return not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """Steps on all parameters, then a part of the way back."""
        base = copied(net.to(task.device))
        yield from train(net, task, memory, self.rates, anchor=base)
        put(net, {name: torch.lerp(base[name], value, self.outer) for name, value in copied(net).items()})

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  the start is one for all parameters
    ) -> Iterator[Progress]:
        """Descent on all parameters."""
        return tune(net, task, memory, iterations)
