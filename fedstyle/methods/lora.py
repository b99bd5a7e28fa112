"""Low-rank adapters (LoRA: Low-Rank Adaptation of Large Language Models, Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedstyle.methods.descent import OWN, RATES, START, Memory, Rates, Through, copied, keep, kept, put, resumed, train, tune
from fedstyle.net import is_norm
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task, derive


@dataclass(frozen=True)
class LoRA:
    """Share the convolutions; keep norms and, beside each convolution W, an adapter: the device's filter has W + b a, b a of rank `rank`.

    In a round W, norms and adapter train together, so that the adapter takes what is the device's own, and W's change alone is sent. As in
    the paper a filter is tuned with W still, b begins at zero, and what comes out is W + b a merged. The paper's factor alpha / r is 1.
    Shared adapters on a base that never moves would need arrays on the wire that no base has.
    """

    rates: Rates = RATES
    rank: int = 4
    """The adapters' rank; a convolution with fewer rows or columns has a smaller one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.rank >= 1, "method.rank", self.rank, "give 1 or more")

    def shares(self, name: str) -> bool:
        """Every parameter but the norms, and but a base's predictor of norms; never the adapters."""
        return not is_norm(name) and not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters and the adapters."""
        adapted = self._adapted(net, task, memory)
        yield from train(adapted, task, memory, self.rates, anchor=copied(net, self.shares, "net."))
        keep(memory, OWN, copied(adapted.more))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on norms and adapters with the convolutions still, or, merged into one, on all parameters."""
        if full:
            if not resumed(memory):
                put(net, self._adapted(net, task, memory).weights())
            keep(memory, OWN, {})
            yield from tune(net, task, memory, iterations)
            return
        if not resumed(memory):
            keep(memory, START, copied(net, _is_kernel))
        twin = copy.deepcopy(net)
        put(twin, kept(memory, START))
        adapted = self._adapted(twin, task, memory)
        put(net, adapted.weights())
        for progress in tune(adapted, task, memory, iterations, lambda name: name.startswith("more.") or is_norm(name)):
            keep(memory, OWN, copied(adapted.more))
            put(net, adapted.weights())
            yield progress

    def _adapted(self, net: nn.Module, task: Task, memory: Memory) -> Through:
        """The network with its adapters, those in memory or new ones."""
        low = {}
        for name, value in copied(net, _is_kernel).items():
            rows, columns = value.flatten(1).shape if value.ndim > 1 else (len(value), 1)
            rank, key = min(self.rank, rows, columns), name.replace(".", "/")
            draw = torch.Generator().manual_seed(derive(task.training.seed, "adapter", name))
            low[f"{key}/a"] = torch.randn(rank, columns, generator=draw) / columns**0.5
            low[f"{key}/b"] = torch.zeros(rows, rank)
        made = Through(net, _merged, **low)
        put(made.more, kept(memory, OWN))
        return made


def _is_kernel(name: str) -> bool:
    return name.endswith(".conv.weight")


def _merged(own: Mapping[str, Tensor], low: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with b a added to each convolution."""
    whole = dict(own)
    for name in filter(_is_kernel, own):
        key = name.replace(".", "/")
        whole[name] = own[name] + (low[f"{key}/b"] @ low[f"{key}/a"]).view_as(own[name])
    return whole
