"""The checks of an aggregator: silent on the right one, and each seeded fault caught by the check that is there for it."""

import functools
import math

import numpy as np
import pytest
import torch

from fedstyle.privacy.audit.canary import audit, chance, lower_bound, plan_guesses
from fedstyle.privacy.audit.conformance import ALPHA, LIKE, NAMES, Arithmetic, Terms, conformance
from fedstyle.privacy.audit.faults import FAULTS
from fedstyle.privacy.audit.wired import Wired
from fedstyle.privacy.gaussian import seeded
from fedstyle.privacy.sampling import Fixed, Poisson

POISSON = Terms(0.5, 1.0, Poisson(100, 0.2))
FIXED = Terms(2.0, 0.7, Fixed(60, 15))
WIRED = Terms(0.5, 0.5, Poisson(16, 0.25))  # small: every reply is a Flower message


def subject(terms, seed, fault=None):
    aggregate = fault.aggregate(terms, LIKE, seeded(seed)) if fault and fault.aggregate else None
    return Arithmetic(terms, seeded(seed), aggregate, fault.select(terms) if fault and fault.select else None)


# The arithmetic alone.


@pytest.mark.parametrize("terms", [POISSON, FIXED], ids=["poisson", "fixed"])
@pytest.mark.parametrize("seed", range(2))
def test_the_right_arithmetic_passes_every_check(terms, seed):
    checks = conformance(subject(terms, seed), terms, releases=20, draws=400, seed=seed)
    assert tuple(check.name for check in checks) == NAMES
    assert all(check.passed for check in checks), checks
    assert min(check.chance for check in checks) > 1e-4  # far from an alarm; one in 1,400 runs of 7 checks would fail this line


def test_alarms_are_as_rare_as_their_chances_say():
    # 40 seeds of 5 checks, whose statistics are continuous, so that chances are uniform: of 200, 10 are expected below 0.05, +- 5 x 3.1.
    chances = []
    for seed in range(40):
        chances += [check.chance for check in conformance(subject(POISSON, seed), POISSON, seed=seed, only=NAMES[:5])]
    assert sum(one < 0.05 for one in chances) < 26
    assert min(chances) > ALPHA / 7


@functools.cache
def checks_of(fault, terms):
    return {check.name: check for check in conformance(subject(terms, 1, fault), terms, seed=1)}


@pytest.mark.parametrize("terms", [POISSON, FIXED], ids=["poisson", "fixed"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_seeded_fault_is_caught_by_its_check(terms, fault):
    check = checks_of(fault, terms)[fault.caught_by]
    assert not check.passed
    assert check.chance < ALPHA / 7


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        ("no noise", 0),
        ("noise per client", 1 / 20),  # 20 shares whose standard deviation is a twentieth each
        ("clipping skipped", 200),  # 20 updates of 10 clipping norms
        ("wrong denominator", 19.8),  # 10 updates of 0.99 over 10, as a sum over 20
        ("weights by count", 0.99 * 20 * 1000 / 1019),
        ("wrong sampling rate", 0.25),
    ],
)
def test_the_found_size_of_a_fault_is_the_stated_one(fault, size):
    one = next(one for one in FAULTS if one.name == fault)
    # 5 standard deviations: of a projection 1 / sqrt(2), of a variance sqrt(2 / 2,000) of itself, of a rate sqrt(0.25 x 0.75 / 5,200)
    wide = 3.6 if size >= 1 else 0.2 * size
    assert checks_of(one, POISSON)[one.caught_by].found == pytest.approx(size, abs=max(1e-9, wide))


def test_as_many_releases_are_made_as_the_smallest_fault_needs():
    # Half of 20 replies: a wrong denominator doubles their sum, 10 clipping norms off. At noise 6 that is 9 deviations of 29.16 releases.
    assert Terms(1.0, 6.0, Poisson(100, 0.2)).releases() == 30
    assert Terms(1.0, 0.1, Poisson(100, 0.2)).releases() == 2
    assert Terms(1.0, 1.0, Poisson(100, 0.2)).draws() == 52  # 36^2 x 0.8 / 20 = 51.84


def test_clipping_of_each_tensor_alone_is_seen():
    terms = Terms(0.5, 0.4, Poisson(100, 0.2))
    right = terms.aggregate(LIKE, seeded(3))

    def by_tensor(updates, counts):
        cut = [{name: value * min(1.0, 0.5 / max(1e-9, float(value.norm()))) for name, value in update.items()} for update in updates]
        noise = right([], [])
        return {name: sum((one[name] for one in cut), torch.zeros_like(value)) / 20 + noise[name] for name, value in LIKE.items()}

    (check,) = conformance(Arithmetic(terms, seeded(3), by_tensor), terms, only=["clipping"])
    assert check.found == pytest.approx(20 * 2**0.5, abs=1.5)  # 5 x 0.4 / sqrt(2)
    assert not check.passed


# The rounds of a run, through Flower.


@pytest.mark.parametrize("sampler", [Poisson(16, 0.25), Fixed(16, 4)], ids=["poisson", "fixed"])
def test_the_rounds_of_a_run_pass_every_check(sampler):
    terms = Terms(0.5, 0.5, sampler)
    checks = conformance(Wired(terms, seed=2), terms, draws=30)
    assert [check.name for check in checks if not check.passed] == []
    assert min(check.chance for check in checks) > 1e-4


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_seeded_fault_of_a_run_is_caught_by_its_check(fault):
    draws = WIRED.draws() if fault.select else 1
    (check,) = conformance(Wired(WIRED, seed=1, fault=fault), WIRED, draws=draws, only=[fault.caught_by])
    assert not check.passed, check
    assert check.chance < ALPHA / 7


def test_a_fault_is_gone_when_its_check_is_over():
    from fedstyle.flower import private, server

    conformance(Wired(WIRED, fault=FAULTS[0]), WIRED, only=["equal weights"])
    assert server.Promise is private.Promise


def test_a_secure_sum_passes_and_its_noise_is_what_its_threshold_leaves():
    # 4 clients of whom 1 may collude: 3 must stay, of whom 2 are relied on. All four's noise has twice the variance that is accounted.
    wired = Wired(WIRED, seed=1, secure=True)
    assert (wired.fewest, wired.spread(4)) == (3, pytest.approx(0.5 * 2**0.5))
    checks = conformance(wired, WIRED, only=NAMES[:5])
    assert [check.name for check in checks if not check.passed] == []


# The canary audit.


def test_the_chance_of_guesses_is_the_binomials_when_delta_is_zero():
    # Epsilon 0: 8 fair coins. All right 1/256, at least 7 right 9/256. At epsilon ln 3 each guess is right with 3/4.
    assert chance(100, 8, 8, 0.0, 0.0) == pytest.approx(1 / 256)
    assert chance(100, 8, 7, 0.0, 0.0) == pytest.approx(9 / 256)
    assert chance(100, 2, 2, 1.0986122886681098, 0.0) == pytest.approx(9 / 16)
    # Delta adds 2 m delta max_i P(v > W >= v - i) / i: of 2 coins and v = 2, max(P(W=1) / 1, P(W<2) / 2) = max(1/2, 3/8).
    assert chance(10, 2, 2, 0.0, 0.01) == pytest.approx(1 / 4 + 2 * 10 * 0.01 / 2)


def test_the_bound_is_where_the_chance_is_one_in_twenty():
    # 60 of 60 right: p^60 = 0.05, epsilon = ln(p / (1 - p)); about ln(60 / 3).
    p = 0.05 ** (1 / 60)
    assert lower_bound(60, 60, 60, 0.0) == pytest.approx(-math.log(1 / p - 1), abs=2e-3)
    assert lower_bound(60, 60, 30, 0.0) == 0
    assert lower_bound(60, 60, 60, 1e-3) < lower_bound(60, 60, 60, 0.0)


def test_guesses_are_planned_from_the_claim_alone():
    few, many = plan_guesses(300, 2.0, 1, 1.0, 1e-5), plan_guesses(300, 0.1, 1, 1.0, 1e-5)
    assert 2 <= few <= many <= 300


def run(aggregate, terms, seed, canaries=120):
    like = {"w": torch.zeros(3000)}
    honest = [{"w": torch.full((3000,), 0.001)}] * 10
    sampler = Poisson(canaries + 10, 1.0)
    return audit(aggregate(terms, like, seeded(seed)), sampler.draw, like, honest, canaries=canaries, guesses=40, clip=terms.clip,
                 rounds=1, claimed=4.3772, delta=1e-5, seed=seed)  # fmt: skip


def test_canaries_find_no_more_than_is_claimed_of_the_right_aggregator():
    # z = 1, every user in: epsilon is 4.377 at delta 1e-5, exactly.
    terms = Terms(0.5, 1.0, Poisson(130, 1.0))
    for seed in range(3):
        found = run(lambda terms, like, draw: terms.aggregate(like, draw), terms, seed)
        assert 0 <= found.low < found.claimed
        assert found.chance > 0.5


def test_canaries_see_missing_noise_and_are_blind_to_the_denominator():
    terms = Terms(0.5, 1.0, Poisson(130, 1.0))
    bounds = {fault.name: run(fault.aggregate, terms, 1).low for fault in FAULTS if fault.aggregate}
    right = run(lambda terms, like, draw: terms.aggregate(like, draw), terms, 1).low
    assert min(bounds["no noise"], bounds["clipping skipped"], bounds["noise per client"]) > 2 > right
    assert bounds["wrong denominator"] == pytest.approx(right, abs=0.5)


def test_a_canary_that_is_out_is_not_in_the_mean():
    seen = []

    def aggregate(updates, counts):
        seen.append((len(updates), set(counts)))
        return {"w": torch.zeros(50)}

    audit(aggregate, lambda users, _: list(users), {"w": torch.zeros(50)}, [], canaries=40, guesses=10, clip=1.0, rounds=2, claimed=1.0,
          delta=1e-5, seed=0)  # fmt: skip
    inside = int((np.random.default_rng(0).random(40) < 0.5).sum())
    assert seen == [(inside, {1000})] * 2
