"""FedBN: normalisation parameters stay on the device (Li et al. 2021, arXiv:2102.07623)."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedstyle.methods.local import check_rates, personal_descent, round_descent
from fedstyle.net import is_norm
from fedstyle.prediction import is_predictor
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class FedBN:
    """Share the convolutions, keep instance-norm scale and shift private: a style lives there (Dumoulin et al. 2017)."""

    steps: int = 10
    lr: float = 1e-3
    norm_lr: float = 1e-2
    decay_rounds: int = 0
    """Rounds over which both rates fall linearly, to a twentieth; 0 keeps them."""
    keep_moments: bool = True
    """Whether Adam's moments stay on the device between rounds; a fresh Adam each round learns much more slowly."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_rates(self)

    def shares(self, name: str) -> bool:
        """Every parameter but the norms, and but a base's predictor of norms, whose update would tell of the style."""
        return not is_norm(name) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: MutableMapping[str, Tensor]) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return round_descent(net, task, memory, self)

    def personalize(
        self, net: nn.Module, task: Task, memory: MutableMapping[str, Tensor], iterations: int, full: bool
    ) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters."""
        return personal_descent(net, task, memory, iterations, everything if full else is_norm)
