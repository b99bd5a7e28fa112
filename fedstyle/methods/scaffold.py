"""SCAFFOLD: local slopes without the clients' drift (Stochastic Controlled Averaging, Karimireddy et al. 2020, arXiv:1910.06378)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedstyle import params
from fedstyle.methods.descent import RATES, Memory, Rates, copied, keep, kept, slopes, train, tune
from fedstyle.net import is_norm
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task, derive, everything

CONTROL = "control."
"""The control variates' names: c in the base's companions, and a client's own c_i in its memory."""
UNIT = 2.0**-10
"""What a companion holds of a slope of 1. Slopes of this loss were 12 to 3,900 long where a round changed the weights by 0.6 to 1.9: in
this unit no norm over both, as a clip, a bound or a secure sum takes it, is c's alone."""
OTHERS = ("Bulyan", "FedAdagrad", "FedAdam", "FedAvgM", "FedMedian", "FedTrimmedAvg", "FedYogi", "Krum", "MultiKrum")


@dataclass(frozen=True)
class Scaffold:
    """Share all parameters and control variates c; each local slope gets c - c_i added, c_i being the client's own, which stays private.

    c_i is the slope at the round's base (the paper's option I), the mean of `batches`. A client sends its new c_i less c, so that c becomes
    the mean of the cohort's. Where everybody takes part that is the paper's c + mean(new c_i - c_i), which is then the same number; of a
    smaller cohort the paper takes |S|/N of it, and every device has to know N. What an answer that is lost, rounded, clipped or noised
    does to c would stay in the paper's c for ever, and passes here. A client's first round has no c_i, and is FedAvg's. Adam takes the
    corrected slopes.

    Without secure sums the server so learns each client's slope at the base, from which photos and style can be told better than from a
    change that many steps made. A round costs twice FedAvg's bytes.
    """

    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(OTHERS, "its control variates have to be a plain mean: use FedAvg or FedProx")
    rates: Rates = RATES
    batches: int = 4
    """Batches whose mean slope is c_i; each costs as much as a step."""
    part: float = 1.0
    """The part of the way that c goes to the cohort's mean: |S|/N lets it remember about as many rounds as it takes to ask everybody."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.batches >= 1, "method.batches", self.batches, "give 1 or more")
        need(0 < self.part <= 1, "method.part", self.part, "give a part of the way, over 0 and up to 1")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train; never c_i by itself."""
        return not is_predictor(name)

    def companions(self, net: nn.Module) -> dict[str, Tensor]:
        """The control variates, first 0."""
        return {f"{CONTROL}{name}": torch.zeros_like(value) for name, value in copied(net).items()}

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """The slope at the base, then a few corrected steps on all parameters."""
        shared = {name: value / UNIT for name, value in kept(task.beside, CONTROL).items()}
        own = {name: value for name, value in kept(memory, CONTROL).items() if name in shared} or shared
        params.check_alike(own, shared, "the control variates kept at home")
        fresh = self._slope(net, task)
        shift = {name: value - own[name] for name, value in shared.items()}
        yield from train(net, task, memory, self.rates, anchor=copied(net), shift=shift)
        keep(memory, CONTROL, fresh)
        keep(task.beside, CONTROL, {name: UNIT * torch.lerp(value, fresh[name], self.part) for name, value in shared.items()})

    def _slope(self, net: nn.Module, task: Task) -> dict[str, Tensor]:
        drawn = dataclasses.replace(task, seed=derive(task.seed, "control"))
        found = [slopes(net, drawn, number) for number in range(self.batches)]
        return {name: torch.stack([one[name] for one in found]).mean(0).cpu() for name in found[0]}

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
