"""Named partitioners: how photos and styles are spread over clients, each a frozen value that draws from a seed alone.

`[data]` asks three questions, and each has a table of answers by name: STYLE_SPLITS (who has which style image), AMOUNTS (how many photos
each client has) and PHOTO_SPLITS (which ones). A partitioner's fields are the keys of its table in the configuration.

Label skew follows Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification"
(arXiv:1909.06335): a mix over kinds is q ~ Dir(alpha p), where p is how often each kind is in the whole and sums to 1. As alpha grows, q
comes to p; as it falls to 0, q is one kind alone. Other papers and libraries draw from Dir(a, ..., a) instead: with K equally frequent
kinds that is alpha = a K here.

Draws are of numpy's default generator: the same on every machine with the same numpy, not promised from one release of it to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedstyle.errors import ConfigError
from fedstyle.tables import nearest, need, read


class StyleSplit(Protocol):
    """Who has which style image."""

    def styles(self, clients: int, count: int, rng: np.random.Generator) -> list[int]:
        """The number of each client's style, 0 to count - 1."""


class Amount(Protocol):
    """How many photos each client has."""

    def sizes(self, photos: int, clients: int, rng: np.random.Generator) -> list[int]:
        """A whole number a client, 1 or more, which sum to `photos`."""


class PhotoSplit(Protocol):
    """Which photos each client has."""

    def deal(self, kinds: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
        """The places of each client's photos, sorted: as many as `sizes` says, none twice. `kinds` holds the kind of each photo."""


# ------------------------------------------------------------------------------------------------------------------- styles


@dataclass(frozen=True)
class Turns:
    """Client i has style i, round and round: no style has more than one client more than another."""

    def styles(self, clients: int, count: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        """See StyleSplit."""
        return [client % count for client in range(clients)]


@dataclass(frozen=True)
class Popularity:
    """Some styles are more popular: the share of clients that have each is q ~ Dir(alpha p), p the same for every style.

    One mix is drawn for the whole population, for a client has one style image. The numbers of clients are the whole numbers nearest to
    q x clients (`apportion`), and which clients they are is drawn. A style may be left with none.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        _check_alpha(self.alpha)

    def styles(self, clients: int, count: int, rng: np.random.Generator) -> list[int]:
        """See StyleSplit."""
        shares = rng.dirichlet(np.full(count, self.alpha / count))
        taken = np.repeat(np.arange(count), apportion(clients, shares))
        return rng.permutation(taken).tolist()  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------------------ amounts


@dataclass(frozen=True)
class Even:
    """Sizes that differ by at most one, the larger ones first."""

    def sizes(self, photos: int, clients: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        """See Amount."""
        return [photos // clients + (client < photos % clients) for client in range(clients)]


@dataclass(frozen=True)
class LogNormal:
    """One photo each, and the others in proportion to exp(sigma z), z ~ N(0, 1) for each client."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        need(0 <= self.sigma <= 5, "sigma", self.sigma, "give a standard deviation of the logarithm, 0 to 5")

    def sizes(self, photos: int, clients: int, rng: np.random.Generator) -> list[int]:
        """See Amount."""
        return _from_one(photos, np.exp(self.sigma * rng.standard_normal(clients)))


@dataclass(frozen=True)
class Zipf:
    """One photo each, and the others in proportion to 1 / rank^exponent; which client has which rank is drawn."""

    exponent: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        need(0 <= self.exponent <= 5, "exponent", self.exponent, "give 0 (all alike) to 5")

    def sizes(self, photos: int, clients: int, rng: np.random.Generator) -> list[int]:
        """See Amount."""
        ranks = rng.permutation(clients) + 1
        return _from_one(photos, ranks ** -float(self.exponent))


def _from_one(photos: int, weights: np.ndarray[Any, Any]) -> list[int]:
    return [1 + more for more in apportion(photos - len(weights), weights)]


def apportion(total: int, weights: Sequence[float] | np.ndarray[Any, Any]) -> list[int]:
    """Whole numbers that sum to `total`, as near to the proportion of `weights` as they can be, by the method of largest remainders.

    Each gets the whole part of its exact share; what is left goes, one each, to the largest fractions, the first of equal ones first.
    """
    given = np.asarray(weights, dtype=np.float64)
    exact = total * (given / given.sum())
    whole = np.floor(exact).astype(int)
    for place in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[place] += 1
    return whole.tolist()  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------------------- photos


@dataclass(frozen=True)
class Shuffled:
    """Any photo to any client: the photos of all clients are alike but for chance."""

    def deal(self, kinds: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
        """See PhotoSplit; kinds do not matter."""
        order = rng.permutation(len(kinds))
        return [sorted(part.tolist()) for part in np.split(order, np.cumsum(sizes)[:-1])]


@dataclass(frozen=True)
class ByFolder:
    """A photo's kind is the sub-folder that it lies in, and each client prefers some kinds: see `deal_mixed`."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        """Check the range."""
        _check_alpha(self.alpha)

    def deal(self, kinds: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
        """See PhotoSplit."""
        return deal_mixed(kinds, sizes, self.alpha, rng)


@dataclass(frozen=True)
class ByContent(ByFolder):
    """A photo's kind is the cluster of its colours and edges (`content.cluster`), and each client prefers some: see `deal_mixed`."""

    clusters: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        need(2 <= self.clusters <= 64, "clusters", self.clusters, "give 2 to 64")


def deal_mixed(kinds: Sequence[int], sizes: Sequence[int], alpha: float, rng: np.random.Generator) -> list[list[int]]:
    """Give every client photos of its own mix of kinds, q ~ Dir(alpha p), p the kinds' shares of all photos.

    Clients take one photo each in turns until they have as many as `sizes` says, so that none gets only what others left. Each time the
    kind is drawn from the client's mix over the kinds that are left; where the mix has none of these, as often as they are left. Within
    a kind any photo is as good. A client's actual mix so comes near to its q where there are photos enough.
    """
    found, labels = np.unique(np.asarray(kinds), return_inverse=True)
    piles = [rng.permutation(np.flatnonzero(labels == kind)).tolist() for kind in range(len(found))]
    shares = np.array([len(pile) for pile in piles]) / len(labels)
    mixes = rng.dirichlet(alpha * shares, len(sizes))
    parts: list[list[int]] = [[] for _ in sizes]
    for turn in range(max(sizes)):
        for part, size, mix in zip(parts, sizes, mixes, strict=True):
            if turn < size:
                left = np.array([len(pile) for pile in piles])
                weights = mix * (left > 0)
                weights = weights if weights.sum() > 0 else left
                part.append(piles[rng.choice(len(piles), p=weights / weights.sum())].pop())
    return [sorted(part) for part in parts]


STYLE_SPLITS: dict[str, type[Any]] = {"turns": Turns, "dirichlet": Popularity}
AMOUNTS: dict[str, type[Any]] = {"even": Even, "lognormal": LogNormal, "zipf": Zipf}
PHOTO_SPLITS: dict[str, type[Any]] = {"shuffled": Shuffled, "content": ByContent, "folder": ByFolder}


def make_partitioner(known: Mapping[str, type[Any]], given: str | Mapping[str, Any], key: str) -> Any:
    """The partitioner that a key of `[data]` names: by its name alone, or by a table of `name` and its own fields.

    Raises ConfigError for an unknown name or field, or a value out of range.
    """
    table = {"name": given} if isinstance(given, str) else dict(given)
    name = table.pop("name", None)
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"unknown {key} = {name!r}{nearest(str(name), known)}")
    try:
        return read(known[name], table, key)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(("unknown", key)) else f"{key}.{error}") from None


def _check_alpha(alpha: float) -> None:
    need(1e-3 <= alpha <= 1e6, "alpha", alpha, "give 0.001 (each its own kind) to 1000000 (all alike)")
