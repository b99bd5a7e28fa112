"""IFCA: clusters of users (An Efficient Framework for Clustered Federated Learning, Ghosh et al. 2020, arXiv:2006.04088)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedstyle.methods.descent import RATES, Drawer, Memory, Rates, copied, keep, kept, put, resumed, train, tune
from fedstyle.net import is_norm
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task, derive, everything

JUDGED = 8
"""Training crops, at most, on which a client compares the networks."""
ROBUST = ("Bulyan", "FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum")


@dataclass(frozen=True)
class IFCA:
    """Share `clusters` whole networks; a client trains the one that has the least loss on its own photos, and sends the others unchanged.

    The plain average of that is the paper's Algorithm 1 with averaged gradients: a network moves by the mean over all of a round's
    clients, of whom those that chose another count as 0. Cluster 0 is the base itself. Norms are shared too, for a style lives there and
    clusters are to be of users who like similar ones; a filter begins with the network that suits it best.

    An update tells the server which cluster its user chose, and so whose tastes are alike: the other networks' changes are all 0. Secure
    sums hide that (the server then learns how far each network moved in all), and nothing else does. The choice is sent in no other way.
    A round sends and fetches `clusters` times FedAvg's bytes; a choice costs JUDGED forward passes for each cluster.
    Nothing makes clients part: a network that is a little ahead is taken by all and gets further ahead, and one that nobody takes rests.
    Four clients from an untrained base all took cluster 1 in every one of 8 rounds. What a run calls the base's loss is cluster 0's.
    """

    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(ROBUST, "it leaves out what only a small cluster sends: use one that averages")
    rates: Rates = RATES
    clusters: int = 2
    """The networks: the paper's k."""
    spread: float = 0.1
    """How far from the base the other networks start: the deviation of noise on each tensor, over its root mean square."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.clusters >= 2, "method.clusters", self.clusters, "give 2 or more")
        need(0 < self.spread <= 10, "method.spread", self.spread, "give a number over 0 and up to 10")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train; of `clusters` networks."""
        return not is_predictor(name)

    def companions(self, net: nn.Module) -> dict[str, Tensor]:
        """The networks but the first, each the base with noise that its number alone draws."""
        beside = {}
        for number in range(1, self.clusters):
            for name, value in copied(net).items():
                noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(derive(number, "cluster", name)))
                beside[f"{number}.{name}"] = value + self.spread * value.square().mean().sqrt() * noise
        return beside

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters of the chosen network; each network has moments of its own."""
        first = copied(net)
        chosen = self._choose(net, task)
        yield from train(net, task, Drawer(memory, f"{chosen}/"), self.rates, anchor=copied(net))
        if chosen:
            keep(task.beside, f"{chosen}.", copied(net))
            put(net, first)

    @torch.no_grad()
    def _choose(self, net: nn.Module, task: Task) -> int:
        """The number of the network with the least loss here, the first of equals; `net` is that network then."""
        networks = [copied(net.to(task.device)), *(kept(task.beside, f"{number}.") for number in range(1, self.clusters))]
        pixels, content = task.content.batch(JUDGED, derive(task.seed, "choice"))
        crops = list(zip(torch.split(pixels, 1), torch.split(content, 1), strict=True))  # one at a time, for memory
        losses = []
        for weights in networks:
            put(net, weights)
            losses.append(sum(float(task.losses(net, *crop, 0).total.mean()) for crop in crops))
        chosen = losses.index(min(losses))
        put(net, networks[chosen])
        return chosen

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """The choice, then descent on the norms alone, or on all parameters."""
        if not resumed(memory):
            self._choose(net, task)
        yield from tune(net, task, memory, iterations, everything if full else is_norm)
