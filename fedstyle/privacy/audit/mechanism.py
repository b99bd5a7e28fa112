"""The aggregator and sampler of a configuration under test: conformance, seeded faults, and canaries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from fedstyle.config import Config
from fedstyle.params import Params
from fedstyle.privacy.accounting import delta_for, epsilon, relation, target_noise
from fedstyle.privacy.audit import canary
from fedstyle.privacy.audit.conformance import ALPHA, LIKE, Terms, conformance
from fedstyle.privacy.audit.faults import FAULTS
from fedstyle.privacy.audit.users import seed_of
from fedstyle.privacy.gaussian import seeded
from fedstyle.privacy.sampling import Fixed, Poisson, Sampler

RELEASES, DRAWS = 100, 2000
"""Releases and draws that each check of the aggregator looks at; a fifth of the releases for a seeded fault."""
DELTA = 1e-5
"""The delta of the canaries' bound, at most: it has no power where delta times the canaries is near 1."""
COHORT = 20
"""Users expected in a round, where the configuration does not say."""


def terms_of(config: Config, norm: float) -> Terms:
    """Clipping, noise and sampling as configured; where `[privacy]` is silent, `norm`, a multiplier of 1, and Poisson sampling.

    The cohort is `server.cohort`, or 20. The population is `data.clients` where that many are named, and otherwise five cohorts.
    """
    private = config.privacy
    cohort = config.server.cohort or COHORT
    population = config.data.clients if config.data.clients >= cohort else 5 * cohort
    sampler = _sampler(config, population, cohort / population)
    noise = private.noise or 1.0
    if private.target_epsilon:
        noise = target_noise(private.target_epsilon, sampler, config.server.rounds, private.delta or delta_for(population))
    return Terms(private.clip or norm, noise, sampler)


def _sampler(config: Config, population: int, rate: float) -> Sampler:
    if config.privacy.sampler == "fixed":
        return Fixed(population, max(1, round(rate * population)))
    return Poisson(population, rate)


def measure(
    config: Config, terms: Terms, like: Params, honest: Sequence[Params], canaries: int, watch: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Checks, faults and canaries of the library's own aggregator on these terms, as plain values."""
    seed, total = seed_of(config, "mechanism"), len(FAULTS) + 3
    watch("aggregator", 0, total)
    checks = conformance(
        terms.aggregate(LIKE, seeded(seed)), terms.sampler.draw, terms, releases=_enough(terms, RELEASES), draws=DRAWS, seed=seed
    )
    faults = []
    for number, fault in enumerate(FAULTS, 1):
        watch("aggregator", number, total)
        aggregate = fault.aggregate(terms, LIKE, seeded(seed)) if fault.aggregate else terms.aggregate(LIKE, seeded(seed))
        select = fault.select(terms) if fault.select else terms.sampler.draw
        found = {
            check.name: check
            for check in conformance(aggregate, select, terms, releases=_enough(terms, RELEASES // 5), draws=DRAWS, seed=seed)
        }
        faults.append({"name": fault.name, "size": fault.size, "check": fault.caught_by, "caught": not found[fault.caught_by].passed})
    rounds, rate = config.server.rounds, terms.sampler.rate
    delta = config.privacy.delta or delta_for(terms.sampler.population)
    bounds: list[dict[str, Any]] = []
    for about, share, times in (("as configured", rate, rounds), ("one round, every user in it", 1.0, 1)):
        watch("aggregator", len(FAULTS) + 1 + len(bounds), total)
        sampler = _sampler(config, canaries + len(honest), share)
        own = dataclasses.replace(terms, sampler=sampler)
        small = min(delta, DELTA)
        claimed = epsilon(terms.noise, sampler, times, small)
        guesses = canary.plan_guesses(canaries, terms.noise, times, share, small)
        bound = canary.audit(
            own.aggregate(like, seeded(seed + 1)), sampler.draw, like, honest, canaries=canaries, guesses=guesses, clip=terms.clip,
            rounds=times, claimed=claimed, delta=small, seed=seed,
        )  # fmt: skip
        bounds.append({"about": about, "rounds": times, "rate": share, **dataclasses.asdict(bound), "alarm": bound.chance < ALPHA})
    watch("aggregator", total, total)
    return {
        "clip": terms.clip,
        "clip from": "privacy.clip" if config.privacy.clip else "the median norm of the audit's users",
        "noise": terms.noise,
        "population": terms.sampler.population,
        "cohort": terms.denominator,
        "rate": rate,
        "sampler": config.privacy.sampler,
        "rounds": rounds,
        "epsilon": epsilon(terms.noise, terms.sampler, rounds, delta),
        "delta": delta,
        "accountant": "rdp",
        "neighbours": relation(terms.sampler),
        "false alarms": ALPHA,
        "checks": [dataclasses.asdict(check) for check in checks],
        "faults": faults,
        "canaries": bounds,
    }


def _enough(terms: Terms, least: int) -> int:
    """Releases that show the smallest of the seeded faults' shifts, in clipping norms of the sum, at 8.5 standard deviations."""
    cohort = max(2, round(terms.denominator))
    shift = min(9.0, cohort - 1, 0.5 * (cohort // 2))
    return min(5000, max(least, math.ceil((8.5 * terms.noise / shift) ** 2)))


def faults_found(mechanism: dict[str, Any]) -> list[str]:
    """The names of the checks that the aggregator fails, canaries among them."""
    failed = [str(check["name"]) for check in mechanism["checks"] if not check["passed"]]
    return failed + [f"canaries, {bound['about']}" for bound in mechanism["canaries"] if bound["alarm"]]


def unseen_faults(mechanism: dict[str, Any]) -> list[str]:
    """The seeded faults that their checks missed: then a silent check means nothing."""
    return [str(fault["name"]) for fault in mechanism["faults"] if not fault["caught"]]
