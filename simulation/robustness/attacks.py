"""Clients who lie, at the edge of the study: each stands in a client's place and changes its reply. The product has no such option."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedstyle import Base, Client, Style, Update
from fedstyle.population import Clients

LOUD = 10.0
"""How many times as large as an honest update a liar's is, unless the server drops what is over a bound."""
ATTACKS = {
    "none": "everybody is honest",
    "flip": "each liar sends its own update with the other sign",
    "sybil": "all liars send copies of one update, trained to a style that no user has",
    "poison": "all liars send the mean of their own updates with the other sign (inner product manipulation, Xie et al. 2019)",
}


def length(delta: Mapping[str, Tensor]) -> float:
    """The joint L2 norm of an update, as the server's bound measures it."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in delta.values()))


@dataclass
class Crowd:
    """The clients of a run, of whom those in `liars` lie; it stands where `population.Clients` stands.

    With a `bound` a liar's update is as long as that lets it be; without (0), it is LOUD times an honest one's.
    """

    clients: Clients
    attack: str
    liars: tuple[int, ...]
    bound: float
    foreign: Path
    """The style that Sybils push."""

    def home(self, partition: int) -> Path:
        """The client's own folder."""
        return self.clients.home(partition)

    def __call__(self, partition: int) -> Client | Liar:
        """The client, or the liar in its place."""
        honest = self.clients(partition)
        return Liar(self, honest) if self.attack != "none" and partition in self.liars else honest

    def puppet(self) -> Client:
        """Whom all Sybils copy: a liar's photos with the foreign style. Asked again in a round, it gives what it gave."""
        first = self.clients(self.liars[0])
        look = Style(self.foreign, strength=first.look.strength, density=first.look.density)
        return dataclasses.replace(first, style=look)


@dataclass(frozen=True)
class Liar:
    """A client whose reply is another than its training gave."""

    crowd: Crowd
    honest: Client

    def fit(self, base: Base, *, round: int, proximal: float) -> Update:
        """The false update."""
        crowd, attack = self.crowd, self.crowd.attack
        if attack == "sybil":
            true, sign = dict(crowd.puppet().fit(base, round=round, proximal=proximal).delta), 1.0
        elif attack == "flip":
            true, sign = dict(self.honest.fit(base, round=round, proximal=proximal).delta), -1.0
        else:  # a liar that is asked again gives its own update from its disk, so that this trains each of them once
            all_of_them = [crowd.clients(liar).fit(base, round=round, proximal=proximal).delta for liar in crowd.liars]
            true, sign = {name: sum(one[name] for one in all_of_them) / len(all_of_them) for name in all_of_them[0]}, -1.0
        times = 0.99 * crowd.bound / max(length(true), 1e-12) if crowd.bound else LOUD  # a little less, for the wire rounds
        return Update({name: sign * times * value for name, value in true.items()})
