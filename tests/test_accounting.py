import builtins
import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.errors import ConfigError, FederationError, FedstyleError
from fedstyle.privacy import accounting
from fedstyle.privacy.accounting import Mechanism, check_strategy, delta_for, epsilon, relation, target_noise, total_epsilon
from fedstyle.privacy.ledger import Budget, Ledger, statement
from fedstyle.privacy.sampling import Fixed, Poisson

# Noise multiplier, Poisson rate, rounds, delta, epsilon by RDP and by PLD. The first four are published with Opacus (RDP 7.32911 and PRV
# 6.7774; "epsilon 8" at 1.416 by RDP, at 1.34766 by PRV and at 1.3562 by RDP), the fifth and sixth are exact (Balle, Wang 2018).
ROWS = [
    (1.5, 0.04, 2250, 1e-5, 7.3293, 6.7688),
    (1.416, 0.04, 2250, 1e-5, 7.999, 7.388),
    (1.34766, 0.04, 2250, 1e-5, 8.644, 7.983),
    (1.3562, 0.04, 2000, 1e-5, 8.000, 7.383),
    (1.0, 1.0, 1, 1e-5, 4.7285, 4.3772),
    (4.0, 1.0, 50, 1e-3, 7.184, 6.452),
    (4.0, 0.01, 10_000, 1e-5, 1.0355, 0.947),
    (1.0, 0.1, 50, 1e-3, 4.021, 3.314),
    (1.0, 0.01, 200, 4e-5, 1.16, 0.78),
]


def poisson(rate, population=1000):
    return Poisson(population, rate)


@pytest.mark.parametrize(("noise", "rate", "rounds", "delta", "rdp", "pld"), ROWS)
def test_reference_rows_hold_to_1_percent(noise, rate, rounds, delta, rdp, pld):
    assert epsilon(noise, poisson(rate), rounds, delta) == pytest.approx(rdp, rel=0.01)
    assert epsilon(noise, poisson(rate), rounds, delta, accountant="pld") == pytest.approx(pld, rel=0.01)


def test_no_amplification_costs_what_the_facts_say():
    assert epsilon(1.0, poisson(1.0), 50, 1e-3) == pytest.approx(49.4, rel=0.01)


def exact(noise, delta):
    """Epsilon of one Gaussian release, from its exact curve (Balle, Wang 2018, theorem 8), by bisection."""

    def curve(e):
        def phi(x):
            return math.erfc(-x / math.sqrt(2)) / 2

        return phi(1 / (2 * noise) - e * noise) - math.exp(e) * phi(-1 / (2 * noise) - e * noise)

    low, high = 0.0, 100.0
    for _ in range(60):
        low, high = (low, (low + high) / 2) if curve((low + high) / 2) <= delta else ((low + high) / 2, high)
    return high


def test_replacing_one_user_halves_the_noise():
    # A fixed cohort of all users is no sampling; replacing a user moves the sum by 2 C, so that z = 1 counts as 1/2: exactly 9.997.
    assert exact(0.5, 1e-5) == pytest.approx(9.997, abs=1e-3)
    rdp = epsilon(1.0, Fixed(100, 100), 1, 1e-5)
    assert exact(0.5, 1e-5) <= rdp <= 1.1 * exact(0.5, 1e-5)
    assert epsilon(1.0, Fixed(100, 100), 1, 1e-5) == pytest.approx(epsilon(0.5, poisson(1.0), 1, 1e-5))
    assert relation(Fixed(100, 10)) == "replace one user"
    assert relation(poisson(0.1)) == "add or remove one user"


def test_a_fixed_cohort_is_amplified_and_costs_more_than_poisson():
    with_cohort = epsilon(2.0, Fixed(100, 10), 20, 1e-3)
    assert epsilon(2.0, poisson(0.1), 20, 1e-3) < with_cohort < epsilon(1.0, poisson(1.0), 20, 1e-3)


@pytest.mark.parametrize(("wanted", "noise"), [(8, 0.723), (4, 1.003), (2, 1.467), (1, 2.329)])
def test_calibration_finds_the_noise_of_the_facts(wanted, noise):
    found = target_noise(wanted, poisson(0.1), 50, 1e-3)
    assert found == pytest.approx(noise, rel=0.01)
    assert epsilon(found, poisson(0.1), 50, 1e-3) <= wanted
    assert epsilon(found / 1.001, poisson(0.1), 50, 1e-3) > wanted


@settings(max_examples=5, deadline=None)
@given(st.floats(0.2, 20), st.floats(0.005, 1), st.integers(1, 300), st.floats(1e-9, 1e-2))
def test_calibration_never_overshoots(wanted, rate, rounds, delta):
    assert epsilon(target_noise(wanted, poisson(rate), rounds, delta), poisson(rate), rounds, delta) <= wanted


def test_calibration_by_pld_needs_less_noise():
    by_pld = target_noise(3.0, poisson(1.0), 1, 1e-3, accountant="pld")
    assert exact(by_pld, 1e-3) == pytest.approx(3.0, rel=1e-3)
    assert by_pld < target_noise(3.0, poisson(1.0), 1, 1e-3)


def test_a_target_out_of_reach_and_numbers_out_of_range_are_errors():
    with pytest.raises(ConfigError, match="no noise multiplier"):
        target_noise(1e-5, poisson(1.0), 100, 1e-9)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="noise multiplier"):
            epsilon(bad, poisson(0.1), 1, 1e-5)
    with pytest.raises(ConfigError, match="delta"):
        epsilon(1.0, poisson(0.1), 1, 0.0)
    with pytest.raises(ConfigError, match="PLD accounts for Poisson"):
        epsilon(1.0, Fixed(100, 10), 1, 1e-5, accountant="pld")
    with pytest.raises(ConfigError, match="no common promise"):
        total_epsilon([(Mechanism(1.0, poisson(0.1)), 1), (Mechanism(1.0, Fixed(100, 10)), 1)], 1e-5)
    assert epsilon(1.0, poisson(0.1), 0, 1e-5) == 0.0


def test_rounds_add_up_whatever_their_order():
    a, b = Mechanism(1.0, poisson(0.1)), Mechanism(2.0, poisson(0.2))
    mixed = total_epsilon([(a, 3), (b, 5)], 1e-5)
    assert mixed == pytest.approx(total_epsilon([(b, 5), (a, 3)], 1e-5))
    assert mixed > max(total_epsilon([(a, 3)], 1e-5), total_epsilon([(b, 5)], 1e-5))


def test_little_noise_is_accounted_for_too_and_more_noise_never_costs_more():
    found = [epsilon(noise, poisson(0.02), 10, 1e-5) for noise in (0.05, 0.3, 0.59, 0.6, 0.7, 1.0, 10.0, 1000.0)]
    assert found == sorted(found, reverse=True)
    assert math.isfinite(found[0])


def test_delta_goes_with_the_population():
    assert delta_for(100) == pytest.approx(100**-1.1)
    assert delta_for(1000) < 1 / 1000


def test_privacy_stands_over_averages_only():
    for name in ("FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"):
        check_strategy(name)
    for name in ("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "FedProx", "QFedAvg", "fedavg"):
        with pytest.raises(ConfigError, match="cannot be private"):
            check_strategy(name)


def test_without_dp_accounting_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "dp_accounting":
            raise ImportError(name)
        return real(name, *rest, **more)

    accounting._epsilon.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FedstyleError, match=r"fedstyle\[dp\]"):
        epsilon(1.0, poisson(0.1), 1, 1e-5)


ROUND = Mechanism(1.0, poisson(0.1))


def test_a_ledger_is_charged_by_new_values_and_never_goes_down():
    empty = Ledger()
    one = empty.charge(ROUND)
    two = one.charge(ROUND)
    assert (empty.rounds, one.rounds, two.rounds) == (0, 1, 2)
    assert 0.0 == empty.epsilon(1e-5) < one.epsilon(1e-5) < two.epsilon(1e-5)
    assert two.epsilon(1e-5) == pytest.approx(epsilon(1.0, poisson(0.1), 2, 1e-5))
    assert two.covers(one)
    assert not one.covers(two)
    assert not Ledger().charge(Mechanism(1.1, poisson(0.1)), 5).covers(one)
    for bad in (0, -1):
        with pytest.raises(ConfigError, match="rounds to charge"):
            two.charge(ROUND, bad)
    with pytest.raises(ConfigError, match="no common promise"):
        two.charge(Mechanism(1.0, Fixed(100, 10)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        two.charges = ()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.001, 1), st.integers(1, 5)), max_size=6), st.booleans())
def test_a_ledger_comes_back_from_json_to_the_last_bit(charges, fixed):
    ledger = Ledger()
    for noise, rate, rounds in charges:
        after = ledger.charge(Mechanism(noise, Fixed(1000, max(1, int(rate * 1000))) if fixed else poisson(rate)), rounds)
        assert after.covers(ledger)
        assert after.rounds == ledger.rounds + rounds
        ledger = after
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


def test_a_damaged_ledger_stops_a_run():
    good = Ledger().charge(ROUND, 3).to_json()
    entry = good["charges"][0]
    bad = [
        {},
        {**good, "version": 2},
        {**good, "extra": 1},
        {"version": 1},
        {**good, "charges": [{**entry, "rounds": 0}]},
        {**good, "charges": [{**entry, "rounds": True}]},
        {**good, "charges": [{**entry, "rounds": 2.5}]},
        {**good, "charges": [{**entry, "noise": math.nan}]},
        {**good, "charges": [{**entry, "noise": "1.0"}]},
        {**good, "charges": [{**entry, "rate": 0}]},
        {**good, "charges": [{**entry, "sampler": "other"}]},
        {**good, "charges": [entry, entry]},
        {**good, "charges": None},
    ]
    for table in bad:
        with pytest.raises(FederationError, match="privacy ledger is damaged"):
            Ledger.from_json(table)


def test_a_budget_says_before_a_round_whether_it_may_be_run():
    delta = 1e-5
    budget = Budget(epsilon(1.0, poisson(0.1), 3, delta), delta)
    ledger = Ledger()
    for _ in range(3):
        budget.check(ledger, ROUND)
        ledger = ledger.charge(ROUND)
    assert not budget.allows(ledger, ROUND)
    with pytest.raises(FederationError, match="budget is spent: after 3 rounds"):
        budget.check(ledger, ROUND)
    assert ledger.epsilon(delta) <= budget.epsilon
    assert not budget.allows(Ledger(), ROUND, 4)
    with pytest.raises(ConfigError, match="budget"):
        Budget(0.0, delta)


def test_a_statement_says_what_an_epsilon_is_about():
    said = statement(Ledger().charge(ROUND, 2), 1e-5)
    assert said["neighbours"] == "add or remove one user"
    assert said["epsilon"] == epsilon(1.0, poisson(0.1), 2, 1e-5)
    assert said["samplers"] == [{"noise": 1.0, "population": 1000, "sampler": "poisson", "rate": 0.1, "rounds": 2}]
    assert {"unit", "accountant", "delta", "not covered", "mechanism"} <= said.keys()
    assert statement(Ledger(), 1e-5)["epsilon"] == 0.0
    json.dumps(said)
