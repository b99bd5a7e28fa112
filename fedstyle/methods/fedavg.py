"""FedAvg: every parameter is shared (McMahan et al. 2017, arXiv:1602.05629)."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedstyle.methods.local import check_rates, personal_descent, round_descent
from fedstyle.net import is_norm
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedAvg:
    """Share all parameters; a personal filter is the base fine-tuned."""

    steps: int = 10
    lr: float = 1e-3
    norm_lr: float = 1e-2
    decay_rounds: int = 0
    keep_moments: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        check_rates(self)

    def shares(self, name: str) -> bool:  # noqa: ARG002  every name is shared
        """Everything."""
        return True

    def fit(self, net: nn.Module, task: Task, memory: MutableMapping[str, Tensor]) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return round_descent(net, task, memory, self)

    def personalize(
        self, net: nn.Module, task: Task, memory: MutableMapping[str, Tensor], iterations: int, full: bool
    ) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters."""
        return personal_descent(net, task, memory, iterations, everything if full else is_norm)
