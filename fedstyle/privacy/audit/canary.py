"""A lower bound on epsilon from one run of the aggregator itself (Steinke, Nasr, Jagielski 2023, "Privacy auditing with one training run").

Canaries are users whose update is the clipping norm long in a random direction of its own. Each is in the federation with chance 1/2. From
the released means alone the auditor scores every canary by its inner product with them, guesses the highest "in" and the lowest
"out", and abstains on the rest. So many right guesses are unlikely under a small epsilon: that gives the bound. It finds faults and proves
no safety, and cannot exceed about the logarithm of a third of the guesses. How many guesses is fixed before the run, from the noise that
is claimed. Canaries misbehave as they may: they claim a thousand photos, and send ten times the clipping norm.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedstyle.params import Params
from fedstyle.privacy.audit.conformance import Aggregate, Select
from fedstyle.privacy.audit.statistics import scipy_stats
from fedstyle.privacy.noise import flatten, unflatten


@dataclass(frozen=True)
class Bound:
    """What the guesses say: epsilon is at least `low` with 95 % confidence, if delta is as claimed."""

    low: float
    claimed: float
    delta: float
    canaries: int
    guesses: int
    right: int
    chance: float
    """Of so many right guesses, at most, if the claim holds."""


def chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The largest chance, under epsilon and delta, of so many right guesses or more: theorem 5.2 and appendix D of the paper.

    P(W >= v) + 2 m delta max_i P(v > W >= v - i) / i over i = 1..v, with W binomial of r guesses at e^epsilon / (1 + e^epsilon).
    """
    binom, sure = scipy_stats().binom, 1 / (1 + math.exp(-epsilon))
    near = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, sure)) / np.arange(1, right + 1)
    excess = float(near.max(initial=0.0))
    return min(1.0, float(binom.sf(right - 1, guesses, sure)) + 2 * canaries * delta * excess)


def lower_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon, to 0.001, under which so many right guesses have a chance of at most 1 - confidence; 0 where none has."""

    def refuted(epsilon: float) -> bool:
        return chance(canaries, guesses, right, epsilon, delta) <= 1 - confidence

    low, high = 0.0, 50.0
    if not refuted(low):
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


@lru_cache(maxsize=32)
def plan_guesses(canaries: int, noise: float, rounds: int, rate: float, delta: float) -> int:
    """How many guesses promise the best bound if the mechanism is as claimed.

    By a normal model of the scores: each canary that is in moves its score by about rate sqrt(rounds) / noise standard deviations.
    """
    norm = scipy_stats().norm
    shift = max(1e-3, rate * math.sqrt(rounds) / noise)
    grid = np.linspace(-6, shift + 6, 4001)
    best, most = 0.0, 2
    for guesses in {max(2, 2 * round(canaries * share / 2)) for share in (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)}:
        over = norm.sf(grid) / 2 + norm.sf(grid - shift) / 2  # the share of all canaries over a threshold; half of the guesses are there
        threshold = grid[int(np.abs(over - guesses / canaries / 2).argmin())]
        sure = norm.sf(threshold - shift) / (norm.sf(threshold) + norm.sf(threshold - shift))
        found = lower_bound(canaries, guesses, math.floor(guesses * sure), delta)
        best, most = max((best, most), (found, guesses))
    return most


def audit(
    aggregate: Aggregate,
    select: Select,
    like: Params,
    honest: Sequence[Params],
    *,
    canaries: int,
    guesses: int,
    clip: float,
    rounds: int,
    claimed: float,
    delta: float,
    seed: int,
) -> Bound:
    """Run the aggregator for so many rounds over a population of canaries and honest users, and guess which canaries were in.

    The population is `canaries` + the honest; a canary that is out sends nothing when it is drawn. `claimed` is the accounted epsilon.
    """
    rng = np.random.default_rng(seed)
    inside = rng.random(canaries) < 0.5
    size = sum(value.numel() for value in like.values())
    directions = rng.standard_normal((canaries, size), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    users, choose, total = range(canaries + len(honest)), random.Random(seed), np.zeros(canaries)
    for _ in range(rounds):
        drawn = select(users, choose)
        present = [user for user in drawn if user >= canaries or inside[user]]
        updates = [honest[user - canaries] if user >= canaries else unflatten(directions[user] * (10 * clip), like) for user in present]
        mean = aggregate(updates, [1000 if user < canaries else 1 for user in present])
        total += directions @ flatten(mean)
    order = np.argsort(total)
    half = guesses // 2
    right = int(inside[order[-half:]].sum() + (~inside[order[:half]]).sum()) if half else 0
    return Bound(
        lower_bound(canaries, 2 * half, right, delta), claimed, delta, canaries, 2 * half, right,
        chance(canaries, 2 * half, right, claimed, delta),
    )  # fmt: skip
