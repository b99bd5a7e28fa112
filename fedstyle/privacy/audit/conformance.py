"""Does an aggregator, and a sampler, do what is accounted? Checks by name, with one false alarm in a million runs of all of them.

What is checked is a `Subject`: the arithmetic alone (`Arithmetic`), or the rounds of a run as Flower drives them (`wired.Wired`). It gets
a round's updates and the number of photos that each client *says* it has, which a right aggregator ignores. Each check takes a statistic
of many releases whose law is known for the right mechanism, and gives the chance of one so far out. It fails where that is below ALPHA
over the number of checks. Noise is taken as normal, which on a fine grid it is to 12 digits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedstyle.params import Params
from fedstyle.privacy.audit.statistics import scipy_stats
from fedstyle.privacy.gaussian import Draw
from fedstyle.privacy.noise import flatten, noisy_mean, unflatten
from fedstyle.privacy.sampling import Sampler

Aggregate = Callable[[Sequence[Params], Sequence[int]], Params]
"""(updates, claimed numbers of photos) -> the noisy mean."""
Select = Callable[[Sequence[int], random.Random], list[int]]
"""(users, randomness) -> the users of a round: a sampler's `draw`."""

ALPHA = 1e-6
"""The chance that a right aggregator and sampler fail any check at all."""
LIKE = {"a": torch.zeros(400), "b": torch.zeros(20, 30)}
"""What the updates of a check of the arithmetic look like: two tensors, so that clipping of each alone is seen."""
SURE = 9.0
"""Standard deviations that the seeded faults' shifts should be apart by: over 5.7, where a check fails."""
EDGE = 0.99
"""Of the clipping norm: the length of an update that is not to be clipped, whatever the wire rounds."""


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
    def cohort(self) -> int:
        """The expected cohort as a number of replies."""
        return max(2, round(self.denominator))

    def aggregate(self, like: Params, draw: Draw) -> Aggregate:
        """The library's own aggregator on these terms."""
        return lambda updates, _: noisy_mean(updates, like, clip=self.clip, noise=self.noise, denominator=self.denominator, draw=draw)

    def releases(self, fewest: int = 0) -> int:
        """Releases that show the smallest of the seeded faults' shifts, a wrong denominator's, at SURE standard deviations; 2 at least."""
        shift = min(self.cohort - _half(self, fewest), 0.9 * (self.cohort - 1))
        return min(2000, max(2, math.ceil((SURE * self.noise / max(shift, 0.5)) ** 2)))

    def draws(self) -> int:
        """Rounds that show a sampling rate which is 1.25 times too high at SURE standard deviations; 5 at least."""
        return min(2000, max(5, math.ceil((4 * SURE) ** 2 * (1 - self.sampler.rate) / self.denominator)))


class Subject(Protocol):
    """An aggregator and sampler under test."""

    @property
    def like(self) -> Params:
        """What updates look like."""

    @property
    def fewest(self) -> int:
        """The fewest replies of which a release is made."""

    def release(self, updates: Sequence[Params], counts: Sequence[int], times: int) -> NDArray[np.float64]:
        """So many releases of the same updates, a row each by `flatten`, times the expected cohort: the noisy sums."""

    def spread(self, replies: int) -> float:
        """The standard deviation, in clipping norms, of the noise in one number of a sum of so many replies."""

    def drawn(self, times: int, seed: int) -> NDArray[np.int64]:
        """How often each user was asked in so many rounds."""


@dataclass(frozen=True)
class Arithmetic:
    """The library's functions alone, or faulty ones in their place."""

    terms: Terms
    draw: Draw
    aggregate: Aggregate | None = None
    select: Select | None = None
    like: Params = field(default_factory=lambda: LIKE)
    fewest: int = 0

    def release(self, updates: Sequence[Params], counts: Sequence[int], times: int) -> NDArray[np.float64]:
        """As `Subject`."""
        made = self.aggregate or self.terms.aggregate(self.like, self.draw)
        return np.stack([flatten(made(updates, counts)) for _ in range(times)]) * self.terms.denominator

    def spread(self, replies: int) -> float:  # noqa: ARG002  noise is added once, whoever replies
        """As `Subject`."""
        return self.terms.noise

    def drawn(self, times: int, seed: int) -> NDArray[np.int64]:
        """As `Subject`."""
        users, rng = range(self.terms.sampler.population), random.Random(seed)
        taken = np.zeros(len(users), np.int64)
        for _ in range(times):
            taken[(self.select or self.terms.sampler.draw)(users, rng)] += 1
        return taken


@dataclass(frozen=True)
class Check:
    """A check's outcome: what was found, what should be, and the chance of so much by accident."""

    name: str
    found: float
    wanted: float
    chance: float
    passed: bool


NAMES = (
    "noise variance", "noise of fewest replies", "clipping", "denominator", "equal weights", "inclusion frequency",
    "inclusion of each user",
)  # fmt: skip


def conformance(
    subject: Subject, terms: Terms, *, releases: int = 0, draws: int = 0, seed: int = 0, only: Sequence[str] = NAMES
) -> list[Check]:
    """The checks of a subject, all or `only` some, each failing by the chance that is right for all.

    `releases` and `draws` are those of `Terms` unless given. Hardly ever missed are, with these, a sum that is 8 x noise / sqrt(releases)
    clipping norms off, and a rate that is 25 % off; a variance that is 8 sqrt(2 / (releases x numbers)) off.
    """
    rng, n = np.random.default_rng(seed), releases or terms.releases(subject.fewest)
    times, m = draws or terms.draws(), terms.cohort
    loud, quiet = _spread(rng, EDGE * terms.clip, subject.like), _spread(rng, 0.0, subject.like)
    long, part = _spread(rng, 10 * terms.clip, subject.like), _half(terms, subject.fewest)
    found: list[Row] = []
    for name in only:
        if name.startswith("noise"):
            found.append(_noise(name, subject, terms, m if name == "noise variance" else subject.fewest, min(n, 5), quiet))
        elif name == "clipping":
            found.append(_projection(name, subject, terms, [long] * m, [1] * m, float(m), n))
        elif name == "denominator":
            found.append(_projection(name, subject, terms, [loud] * part, [1] * part, EDGE * part, n))
        elif name == "equal weights":  # one client says that it has a thousand photos, the others one each
            found.append(_projection(name, subject, terms, [loud, *[quiet] * (m - 1)], [1000, *[1] * (m - 1)], EDGE, n))
    if asked := [name for name in only if name.startswith("inclusion")]:
        found += [row for row in _inclusion(subject.drawn(times, seed), terms.sampler, times) if row[0] in asked]
    return [Check(*row, passed=row[3] >= ALPHA / len(NAMES)) for row in found]


Row = tuple[str, float, float, float]


def _half(terms: Terms, fewest: int) -> int:
    """The replies of a round in which clients are missing."""
    return max(fewest, terms.cohort // 2)


def _noise(name: str, subject: Subject, terms: Terms, replies: int, times: int, quiet: Params) -> Row:
    """The noise's size, whoever comes: once is once. The sum of its squares has a chi-square law."""
    sample = subject.release([quiet] * replies, [1] * replies, times) / (terms.clip * subject.spread(replies))
    ratio, chi2 = float(np.square(sample).mean()), scipy_stats().chi2
    tail = min(float(chi2.cdf(ratio * sample.size, sample.size)), float(chi2.sf(ratio * sample.size, sample.size)))
    return (name, ratio, 1.0, min(1.0, 2 * tail))


def _projection(
    name: str, subject: Subject, terms: Terms, updates: Sequence[Params], counts: Sequence[int], wanted: float, times: int
) -> Row:
    """How far the sum reaches along the first update's direction, in clipping norms; normal around what is wanted."""
    direction = flatten(updates[0])
    direction = direction / np.linalg.norm(direction)
    reach = float((subject.release(updates, counts, times) @ direction).mean()) / terms.clip
    return (name, reach, wanted, _two_sided((reach - wanted) * math.sqrt(times) / subject.spread(len(updates))))


def _inclusion(taken: NDArray[np.int64], sampler: Sampler, draws: int) -> list[Row]:
    """How often users are drawn: all together, and the one whose number is furthest out, by exact binomial chances."""
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


def _spread(rng: np.random.Generator, norm: float, like: Params) -> Params:
    """An update of this joint norm in a random direction, all tensors alike long, so that clipping of each alone is seen."""
    parts = [rng.normal(size=value.numel()) for _, value in sorted(like.items())]
    return unflatten(np.concatenate([part * (norm / math.sqrt(len(parts)) / np.linalg.norm(part)) for part in parts]), like)
