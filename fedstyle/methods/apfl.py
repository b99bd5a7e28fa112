"""APFL: a mixture of an own and the shared network (Adaptive Personalized Federated Learning, Deng et al. 2020, arXiv:2003.13461)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedstyle.methods.descent import OWN, RATES, Drawer, Memory, Rates, Through, copied, count, keep, kept, put, resumed, train, tune
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task

V, ALPHA = f"{OWN}v/", f"{OWN}alpha"


@dataclass(frozen=True)
class APFL:
    """Share w, keep v and alpha; the personal network has the weights alpha v + (1 - alpha) w, and v and alpha learn through it.

    As in the paper w, v and alpha take their steps together, v and alpha at the mixture of the step before; alpha learns at `lr`, between 0
    and 1. A filter is that mixture of weights, trained on as one network.
    """

    rates: Rates = RATES
    alpha: float = 0.5
    """The own network's part at the start."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(0 <= self.alpha <= 1, "method.alpha", self.alpha, "give 0 to 1")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train: w; never v or alpha."""
        return not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """Steps on w, and as many on v and alpha; the losses are the mixture's."""
        return count(self._steps(net, task, memory), self.rates.steps)

    def _steps(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        net.to(task.device)

        def mixed(v: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return _mix(more["alpha"], v, {name: value.detach() for name, value in net.named_parameters()})

        own = copy.deepcopy(net)
        put(own, kept(memory, V))
        mixture = Through(own, mixed, alpha=memory.get(ALPHA, torch.tensor(self.alpha)))
        shared = train(net, task, memory, self.rates, anchor=copied(net))
        for progress in train(mixture, task, Drawer(memory, "second/"), self.rates):
            next(shared)
            with torch.no_grad():
                mixture.more["alpha"].clamp_(0, 1)
            yield progress
        keep(memory, V, copied(own))
        memory[ALPHA] = mixture.more["alpha"].detach().clone()

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  the mixture is private as a whole
    ) -> Iterator[Progress]:
        """Descent on the mixture as one network."""
        if ALPHA in memory and not resumed(memory):
            own = copy.deepcopy(net)
            put(own, kept(memory, V))
            put(net, _mix(memory[ALPHA].to(next(own.parameters()).device), copied(own), copied(net)))
        keep(memory, OWN, {})
        yield from tune(net, task, memory, iterations)


def _mix(alpha: Tensor, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: alpha * value + (1 - alpha) * shared[name] for name, value in own.items()}
