"""pFedMe (Personalized Federated Learning with Moreau Envelopes, Dinh et al. 2020, arXiv:2006.08848)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fedstyle.methods.descent import OWN, RATES, Memory, Rates, copied, count, keep, put, train, tune_own
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task


@dataclass(frozen=True)
class PFedMe:
    """Share w; the personal theta minimises loss + (lam/2) ‖theta - w‖², and w goes to theta by `outer` after every `inner` steps.

    `steps` counts those on theta, so that a round costs as much as another method's. As in the authors' code theta goes on from where it is
    after a move of w; unlike theirs each step has a batch of its own. The server's step is the plain average (the paper's beta = 1).
    """

    refuses: ClassVar[Mapping[str, str]] = {"FedProx": "its mu would be a second pull beside method.lam: use FedAvg"}
    rates: Rates = RATES
    lam: float = 15.0
    """The paper's lambda, the pull of theta to w."""
    inner: int = 5
    """Steps on theta for each of w: the paper's K."""
    outer: float = 0.5
    """The part of the way to theta that w goes: eta times lambda in the paper, over 0 and up to 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.lam >= 0, "method.lam", self.lam, "give 0 or more")
        need(self.inner >= 1, "method.inner", self.inner, "give 1 or more")
        need(0 < self.outer <= 1, "method.outer", self.outer, "give a part of the way, over 0 and up to 1")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train: w; never theta."""
        return not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """Some steps on theta, then one of w, and again."""
        return count(self._phases(net, task, memory), self.rates.steps)

    def _phases(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        net.to(task.device)
        slow, task = copied(net), dataclasses.replace(task, proximal=self.lam)
        for first in range(0, self.rates.steps, self.inner):
            yield from train(net, task, memory, self.rates, anchor=slow, first=first, steps=min(first + self.inner, self.rates.steps))
            theta = copied(net)
            slow = {name: torch.lerp(value, theta[name], self.outer) for name, value in slow.items()}
        keep(memory, OWN, copied(net))
        put(net, slow)

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  theta is private as a whole
    ) -> Iterator[Progress]:
        """Descent on theta, pulled to the base."""
        return tune_own(net, task, memory, iterations, self.lam)
