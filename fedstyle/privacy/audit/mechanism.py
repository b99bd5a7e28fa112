"""The aggregator and sampler of a configuration under test, as they run: conformance, seeded faults, and canaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fedstyle.config import Config
from fedstyle.params import Params
from fedstyle.privacy.accounting import delta_for, epsilon, relation, target_noise
from fedstyle.privacy.audit import canary
from fedstyle.privacy.audit.conformance import ALPHA, NAMES, Check, Terms, conformance
from fedstyle.privacy.audit.faults import FAULTS
from fedstyle.privacy.audit.users import seed_of
from fedstyle.privacy.audit.wired import Wired
from fedstyle.privacy.sampling import Fixed, Poisson, Sampler

DELTA = 1e-5
"""The delta of the canaries' bound, at most: it has no power where delta times the canaries is near 1."""
COHORT = 20
"""Users expected in a round, where the configuration does not say."""
HONEST = 20
"""Users beside the canaries who send nothing to speak of."""
SECURE = tuple(name for name in NAMES if not name.startswith("inclusion"))
"""The checks of a secure sum: it draws as any other round."""


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
        charged = _everyone(sampler) if private.secure else sampler
        noise = target_noise(private.target_epsilon, charged, max(1, config.server.rounds), _delta(config, sampler))
    return Terms(private.clip or norm, noise, sampler)


def promised(config: Config, terms: Terms) -> float:
    """Epsilon of all rounds on these terms, as a run charges it: without what sampling saves where sums are secure."""
    sampler = _everyone(terms.sampler) if config.privacy.secure else terms.sampler
    return epsilon(terms.noise, sampler, config.server.rounds, _delta(config, terms.sampler))


def _delta(config: Config, sampler: Sampler) -> float:
    return config.privacy.delta or delta_for(sampler.population)


def _everyone(sampler: Sampler) -> Sampler:
    """The sampler that takes everybody: what one is worth against a server, which knows whom it asked."""
    return dataclasses.replace(sampler, cohort=sampler.population) if isinstance(sampler, Fixed) else dataclasses.replace(sampler, rate=1.0)


def _sampler(config: Config, population: int, rate: float) -> Sampler:
    if config.privacy.sampler == "fixed":
        return Fixed(population, max(1, round(rate * population)))
    return Poisson(population, rate)


def measure(config: Config, terms: Terms, canaries: int, watch: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Checks, faults and canaries of a run's own rounds on these terms, as plain values.

    The rounds go through Flower: see `wired`. With secure sums those are checked too; their draws are those of any other round.
    """
    seed, total = seed_of(config, "mechanism") % (1 << 31), len(FAULTS) + 4
    watch("aggregator", 0, total)
    checks = [_row(check, "noise by the server") for check in conformance(Wired(terms, config, seed), terms, seed=seed)]
    watch("aggregator", 1, total)
    if config.privacy.secure:
        summed = conformance(Wired(terms, config, seed, secure=True), terms, seed=seed, only=SECURE)
        checks += [_row(check, "secure sum") for check in summed]
    faults = []
    for number, fault in enumerate(FAULTS, 2):
        watch("aggregator", number, total)
        (check,) = conformance(Wired(terms, config, seed, fault=fault), terms, seed=seed, only=[fault.caught_by])
        faults.append({"name": fault.name, "size": fault.size, "check": fault.caught_by, "found": check.found, "wanted": check.wanted,
                       "chance": check.chance, "caught": not check.passed})  # fmt: skip
    bounds: list[dict[str, Any]] = []
    for about, share, times in (("as configured", terms.sampler.rate, config.server.rounds), ("one round, every user in it", 1.0, 1)):
        watch("aggregator", len(FAULTS) + 2 + len(bounds), total)
        bounds.append({"about": about, "rounds": times, "rate": share, **_canaries(config, terms, canaries, share, times, seed)})
    watch("aggregator", total, total)
    return {
        "clip": terms.clip,
        "clip from": "privacy.clip" if config.privacy.clip else "the median norm of the audit's users",
        "noise": terms.noise,
        "population": terms.sampler.population,
        "cohort": terms.denominator,
        "rate": terms.sampler.rate,
        "sampler": config.privacy.sampler,
        "secure": config.privacy.secure,
        "rounds": config.server.rounds,
        "epsilon": promised(config, terms),
        "delta": _delta(config, terms.sampler),
        "accountant": "rdp",
        "neighbours": relation(terms.sampler),
        "false alarms": ALPHA,
        "checks": checks,
        "faults": faults,
        "canaries": bounds,
    }


def _row(check: Check, path: str) -> dict[str, Any]:
    return {**dataclasses.asdict(check), "found": float(check.found), "path": path}


def _canaries(config: Config, terms: Terms, canaries: int, share: float, times: int, seed: int) -> dict[str, Any]:
    """The canaries' bound over rounds of a run, in which the canaries that were drawn and are in reply, and the honest that were drawn."""
    sampler, delta = _sampler(config, canaries + HONEST, share), min(_delta(config, terms.sampler), DELTA)
    claimed, wired = epsilon(terms.noise, sampler, times, delta), Wired(terms, config, seed + 1)
    honest: list[Params] = [{name: 0 * value for name, value in wired.like.items()}] * HONEST
    guesses = canary.plan_guesses(canaries, terms.noise, times, share, delta)
    bound = canary.audit(
        wired.aggregate, sampler.draw, wired.like, honest, canaries=canaries, guesses=guesses, clip=terms.clip, rounds=times,
        claimed=claimed, delta=delta, seed=seed,
    )  # fmt: skip
    return {**dataclasses.asdict(bound), "alarm": bound.chance < ALPHA}


def faults_found(mechanism: dict[str, Any]) -> list[str]:
    """The names of the checks that the aggregator fails, canaries among them."""
    failed = [str(check["name"]) for check in mechanism["checks"] if not check["passed"]]
    return failed + [f"canaries, {bound['about']}" for bound in mechanism["canaries"] if bound["alarm"]]


def unseen_faults(mechanism: dict[str, Any]) -> list[str]:
    """The seeded faults that their checks missed: then a silent check means nothing."""
    return [str(fault["name"]) for fault in mechanism["faults"] if not fault["caught"]]
