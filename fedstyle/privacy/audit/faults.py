"""Six faults of stated size, as aggregators and samplers: what the checks must catch, or be worth nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fedstyle.params import Params
from fedstyle.privacy.audit.conformance import Aggregate, Select, Terms
from fedstyle.privacy.clipping import clip
from fedstyle.privacy.gaussian import Draw
from fedstyle.privacy.noise import noisy_mean
from fedstyle.privacy.sampling import Poisson


@dataclass(frozen=True)
class Fault:
    """A mistake, how large it is, and the check that is there for it."""

    name: str
    size: str
    caught_by: str
    aggregate: Callable[[Terms, Params, Draw], Aggregate] | None = None
    select: Callable[[Terms], Select] | None = None


def _sum(updates: Sequence[Params], like: Params, weights: Sequence[float]) -> dict[str, torch.Tensor]:
    return {
        name: sum((w * update[name] for w, update in zip(weights, updates, strict=True)), torch.zeros_like(value))
        for name, value in like.items()
    }


def _noise(terms: Terms, like: Params, draw: Draw) -> dict[str, torch.Tensor]:
    return noisy_mean([], like, clip=terms.clip, noise=terms.noise, denominator=terms.denominator, draw=draw)


def _plus(one: Params, other: Params) -> Params:
    return {name: one[name] + other[name] for name in one}


def _weighted(terms: Terms, like: Params, draw: Draw) -> Aggregate:
    def aggregate(updates: Sequence[Params], counts: Sequence[int]) -> Params:
        whole = max(1, sum(counts))
        return _plus(_sum([clip(u, terms.clip) for u in updates], like, [n / whole for n in counts]), _noise(terms, like, draw))

    return aggregate


def _silent(terms: Terms, like: Params, draw: Draw) -> Aggregate:  # noqa: ARG001  it draws nothing, which is the fault
    return lambda updates, _: _sum([clip(u, terms.clip) for u in updates], like, [1 / terms.denominator] * len(updates))


def _shared_out(terms: Terms, like: Params, draw: Draw) -> Aggregate:
    def aggregate(updates: Sequence[Params], _: Sequence[int]) -> Params:
        mean = _sum([clip(u, terms.clip) for u in updates], like, [1 / terms.denominator] * len(updates))
        for _reply in updates:  # each adds the mean's noise divided by the cohort: a root of the cohort too little
            own = _noise(terms, like, draw)
            mean = {name: mean[name] + own[name] / len(updates) for name in mean}
        return mean

    return aggregate


def _unclipped(terms: Terms, like: Params, draw: Draw) -> Aggregate:
    return lambda updates, _: _plus(_sum(updates, like, [1 / terms.denominator] * len(updates)), _noise(terms, like, draw))


def _realised(terms: Terms, like: Params, draw: Draw) -> Aggregate:
    def aggregate(updates: Sequence[Params], _: Sequence[int]) -> Params:
        return noisy_mean(updates, like, clip=terms.clip, noise=terms.noise, denominator=max(1, len(updates)), draw=draw)

    return aggregate


def _eager(terms: Terms) -> Select:
    sampler = terms.sampler
    rate = 1.25 * sampler.rate if sampler.rate <= 0.8 else sampler.rate / 1.25

    def select(users: Sequence[int], rng: random.Random) -> list[int]:
        if isinstance(sampler, Poisson):
            return replace(sampler, rate=rate).draw(users, rng)
        return replace(sampler, cohort=max(1, round(rate * sampler.population))).draw(users, rng)

    return select


FAULTS = (
    Fault("weights by count", "one client claims 1,000 photos, the others 1", "equal weights", _weighted),
    Fault("no noise", "none of the noise is added", "noise variance", _silent),
    Fault(
        "noise per client",
        "each client adds the mean's noise over the cohort: the root of the cohort too little",
        "noise variance",
        _shared_out,
    ),
    Fault("clipping skipped", "an update of 10 clipping norms goes in whole", "clipping", _unclipped),
    Fault(
        "wrong denominator", "the number of replies, half of the expected cohort, in place of the expected cohort", "denominator", _realised
    ),
    Fault(
        "wrong sampling rate",
        "users are drawn 1.25 times as often as accounted; where they always are, 0.8 times",
        "inclusion frequency",
        None,
        _eager,
    ),
)
