"""Local training alone, the baseline of every federation, and the two descents that most methods are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from fedstyle.tables import need
from fedstyle.training import Progress, Task, descend, everything


class Rates(Protocol):
    """The hyper-parameters of a round of plain descent."""

    @property
    def steps(self) -> int:
        """Iterations a round."""

    @property
    def lr(self) -> float:
        """Adam's rate for convolutions."""

    @property
    def norm_lr(self) -> float:
        """Adam's rate for norms."""

    @property
    def decay_rounds(self) -> int:
        """Rounds over which both rates fall linearly, to a twentieth; 0 keeps them."""

    @property
    def keep_moments(self) -> bool:
        """Whether Adam goes on where it stood in the round before."""

    def shares(self, name: str) -> bool:
        """Whether a parameter is sent."""


def check_rates(rates: Rates) -> None:
    """Raise ConfigError unless the hyper-parameters of a round can be used."""
    need(rates.steps >= 1, "method.steps", rates.steps, "give 1 or more iterations a round")
    need(0 < rates.lr <= 1, "method.lr", rates.lr, "a learning rate lies over 0 and up to 1")
    need(rates.decay_rounds >= 0, "method.decay_rounds", rates.decay_rounds, "give a number of rounds, or 0 for constant rates")
    need(0 < rates.norm_lr <= 1, "method.norm_lr", rates.norm_lr, "a learning rate lies over 0 and up to 1")


def round_descent(net: nn.Module, task: Task, memory: MutableMapping[str, Tensor], rates: Rates) -> Iterator[Progress]:
    """Descent on all parameters for `rates.steps` iterations, with FedProx's term when the server asks for it."""
    memory.pop("iteration", None)
    if not rates.keep_moments:
        memory.clear()
    anchor = None
    if task.proximal:
        anchor = {name: value.detach().clone() for name, value in net.named_parameters() if rates.shares(name)}
    scale = max(0.05, 1 - task.round / rates.decay_rounds) if rates.decay_rounds else 1.0
    return descend(net, task, memory, iterations=rates.steps, rate=scale * rates.lr, norm_rate=scale * rates.norm_lr, anchor=anchor)


def personal_descent(
    net: nn.Module, task: Task, memory: MutableMapping[str, Tensor], iterations: int, trains: Callable[[str], bool] = everything
) -> Iterator[Progress]:
    """Descent at the rates of `[training]` on the parameters that `trains` accepts."""
    training = task.training
    return descend(net, task, memory, iterations=iterations, rate=training.rate, norm_rate=training.norm_rate, trains=trains)


@dataclass(frozen=True)
class Local:
    """Share nothing: each client trains alone, and keeps its whole network from round to round."""

    steps: int = 10
    lr: float = 1e-3
    norm_lr: float = 1e-2
    decay_rounds: int = 0
    keep_moments: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        check_rates(self)

    def shares(self, name: str) -> bool:  # noqa: ARG002  nothing leaves, whatever its name
        """Nothing."""
        return False

    def fit(self, net: nn.Module, task: Task, memory: MutableMapping[str, Tensor]) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return round_descent(net, task, memory, self)

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: MutableMapping[str, Tensor],
        iterations: int,
        full: bool,  # noqa: ARG002  the whole network is private
    ) -> Iterator[Progress]:
        """Descent on all parameters."""
        return personal_descent(net, task, memory, iterations)
