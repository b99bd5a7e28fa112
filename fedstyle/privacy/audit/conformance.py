"""Does an aggregator, and a sampler, do what is accounted? Checks by name, with one false alarm in a million runs of all of them.

An aggregator is a function of the round's updates and of the number of photos that each client *says* it has, which a right one ignores.
Each check releases many times, takes a statistic whose law is known for the right mechanism, and gives the chance of one so far out. It
fails where that is below ALPHA over the number of checks. Noise is taken as normal, which on a fine grid it is to 12 digits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedstyle.params import Params
from fedstyle.privacy.audit.statistics import scipy_stats
from fedstyle.privacy.gaussian import Draw
from fedstyle.privacy.noise import flatten, noisy_mean
from fedstyle.privacy.sampling import Sampler

Aggregate = Callable[[Sequence[Params], Sequence[int]], Params]
"""(updates, claimed numbers of photos) -> the noisy mean."""
Select = Callable[[Sequence[int], random.Random], list[int]]
"""(users, randomness) -> the users of a round: a sampler's `draw`."""

ALPHA = 1e-6
"""The chance that a right aggregator and sampler fail any check at all."""
LIKE = {"a": torch.zeros(400), "b": torch.zeros(20, 30)}
"""What the checks' updates look like: two tensors, so that clipping of each alone is seen."""


@dataclass(frozen=True)
class Terms:
    """What was accounted for: an aggregator and sampler should be of these terms."""

    clip: float
    noise: float
    sampler: Sampler

    @property
    def denominator(self) -> float:
        """The expected cohort."""
        return float(self.sampler.cohort)

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise in one number of the mean."""
        return self.noise * self.clip / self.denominator

    def aggregate(self, like: Params, draw: Draw) -> Aggregate:
        """The library's own aggregator on these terms."""
        return lambda updates, _: noisy_mean(updates, like, clip=self.clip, noise=self.noise, denominator=self.denominator, draw=draw)


@dataclass(frozen=True)
class Check:
    """A check's outcome: what was found, what should be, and the chance of so much by accident."""

    name: str
    found: float
    wanted: float
    chance: float
    passed: bool


def conformance(
    aggregate: Aggregate, select: Select, terms: Terms, *, releases: int = 100, draws: int = 2000, seed: int = 0
) -> list[Check]:
    """All checks of an aggregator over LIKE and of a sampler.

    With the default numbers, and 20 expected of 100 users, hardly ever missed are: a variance that is 4 % off; a sum that is
    8 x noise / sqrt(releases) clipping norms off, 0.8 for a noise multiplier of 1; a rate that is 4 % off.
    """
    rng = np.random.default_rng(seed)
    m = max(2, round(terms.denominator))
    found = [
        *_noise(aggregate, terms, m, releases),
        _projection("clipping", aggregate, terms, [_spread(rng, 10 * terms.clip)], [1], 1.0, releases),
        _projection("denominator", aggregate, terms, [_spread(rng, terms.clip / 2)] * (m // 2), [1] * (m // 2), 0.5 * (m // 2), releases),
        _weights(aggregate, terms, m, releases, rng),
        *_inclusion(select, terms.sampler, draws, random.Random(seed)),
    ]
    return [Check(*row, passed=row[3] >= ALPHA / len(found)) for row in found]


Row = tuple[str, float, float, float]


def _noise(aggregate: Aggregate, terms: Terms, cohort: int, releases: int) -> list[Row]:
    """The noise's size with a full cohort and with no reply: once is once, whoever comes. Its variance has a chi-square law."""
    rows: list[Row] = []
    for name, count in (("noise variance", cohort), ("noise without replies", 0)):
        zeros = [{key: torch.zeros_like(value) for key, value in LIKE.items()}] * count
        sample = np.concatenate([flatten(aggregate(zeros, [1] * count)) for _ in range(releases)])
        ratio = float(np.square(sample / terms.deviation).mean())
        chi2 = scipy_stats().chi2
        tail = min(float(chi2.cdf(ratio * len(sample), len(sample))), float(chi2.sf(ratio * len(sample), len(sample))))
        rows.append((name, ratio, 1.0, min(1.0, 2 * tail)))
    return rows


def _projection(
    name: str, aggregate: Aggregate, terms: Terms, updates: Sequence[Params], counts: Sequence[int], wanted: float, n: int
) -> Row:
    """How far the mean reaches along the updates' one direction, in clipping norms of the sum; normal around what is wanted."""
    direction = flatten(updates[0])
    direction = direction / np.linalg.norm(direction)
    reach = float(np.mean([flatten(aggregate(updates, counts)) @ direction for _ in range(n)])) * terms.denominator / terms.clip
    return (name, reach, wanted, _two_sided((reach - wanted) * math.sqrt(n) / terms.noise))


def _weights(aggregate: Aggregate, terms: Terms, cohort: int, releases: int, rng: np.random.Generator) -> Row:
    """One client says that it has a thousand photos, the others one each; their updates are zero."""
    loud = _spread(rng, terms.clip)
    quiet = {key: torch.zeros_like(value) for key, value in LIKE.items()}
    return _projection("equal weights", aggregate, terms, [loud, *[quiet] * (cohort - 1)], [1000, *[1] * (cohort - 1)], 1.0, releases)


def _inclusion(select: Select, sampler: Sampler, draws: int, rng: random.Random) -> list[Row]:
    """How often users are drawn: all together, and the one whose number is furthest out, by exact binomial chances."""
    users, taken = range(sampler.population), np.zeros(sampler.population, np.int64)
    for _ in range(draws):
        taken[select(users, rng)] += 1
    total, trials = int(taken.sum()), draws * len(taken)
    overall = _binomial(np.array([total]), trials, sampler.rate)[0]
    each = _binomial(taken, draws, sampler.rate)
    worst = int(each.argmin())
    return [
        ("inclusion frequency", total / trials, sampler.rate, float(overall)),
        ("inclusion of each user", taken[worst] / draws, sampler.rate, float(min(1.0, each[worst] * len(taken)))),
    ]


def _binomial(hits: NDArray[np.int64], trials: int, rate: float) -> NDArray[np.float64]:
    binom = scipy_stats().binom
    return np.asarray(np.minimum(1.0, 2 * np.minimum(binom.cdf(hits, trials, rate), binom.sf(hits - 1, trials, rate))))


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def _spread(rng: np.random.Generator, norm: float) -> dict[str, torch.Tensor]:
    """An update of this joint norm in a random direction, both tensors alike long."""
    parts = {key: torch.from_numpy(rng.normal(size=tuple(value.shape))).float() for key, value in LIKE.items()}
    return {key: value * (norm / math.sqrt(len(parts)) / float(value.norm())) for key, value in parts.items()}
