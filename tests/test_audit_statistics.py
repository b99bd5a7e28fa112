"""The audit's figures: each against a number that is worked out beside it."""

import math

import numpy as np
import pytest

from fedstyle.errors import ConfigError
from fedstyle.privacy.audit.statistics import Estimate, auc, judge, mean, proportion, tpr_at


def test_a_share_has_the_exact_interval():
    # No hit in n: the upper end p solves (1 - p)^n = 0.025; all hits: the lower end solves p^n = 0.025.
    none = proportion(0, 20)
    assert (none.value, none.low, none.high) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 20)))
    every = proportion(20, 20)
    assert (every.value, every.low, every.high) == (1, pytest.approx(0.025 ** (1 / 20)), 1)
    # One hit in two: at the lower end P(1 or more) = 1 - (1 - p)^2 = 0.025, at the upper P(1 or fewer) = 1 - p^2 = 0.025.
    one = proportion(1, 2)
    assert (one.low, one.high) == (pytest.approx(1 - math.sqrt(0.975)), pytest.approx(math.sqrt(0.975)))
    assert proportion(0, 0) == Estimate(0, 0, 1, 0)
    for hits in (-1, 3):
        with pytest.raises(ConfigError, match="number of hits"):
            proportion(hits, 2)


def test_the_exact_interval_covers_what_it_says():
    # At 100 trials of chance 1/16, over every outcome with its binomial chance: at least 95 %.
    covered = 0.0
    for hits in range(101):
        found = proportion(hits, 100)
        if found.low <= 1 / 16 <= found.high:
            covered += math.comb(100, hits) * (1 / 16) ** hits * (15 / 16) ** (100 - hits)
    assert 0.95 <= covered < 0.99


def test_a_mean_has_students_interval():
    # 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027.
    found = mean(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.high, found.trials) == (2, pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4), 3)
    assert mean(np.array([5.0])) == Estimate(5, -math.inf, math.inf, 1)


def test_auc_is_the_share_of_pairs_in_order():
    # Members 2, 4; others 1, 2, 3: pairs 2>1, 2=2, 2<3, 4>1, 4>2, 4>3 count 1 + 1/2 + 0 + 3 = 4.5 of 6.
    # Placements: of members 0.5 and 1 (variance 1/8), of others 1, 0.75, 0.5 (variance 1/16): error sqrt(1/16 + 1/48) = sqrt(1/12).
    found = auc(np.array([2.0, 4.0]), np.array([1.0, 2.0, 3.0]), confidence=0.5)
    assert found.value == pytest.approx(0.75)
    assert found.low == pytest.approx(0.75 - 0.67449 * math.sqrt(1 / 12), abs=1e-4)
    assert (found.high, found.trials) == (pytest.approx(0.75 + 0.67449 * math.sqrt(1 / 12), abs=1e-4), 2)


def test_auc_of_a_perfect_separation_still_has_a_width():
    found = auc(np.arange(10.0) + 100, np.arange(50.0))
    assert (found.value, found.low, found.high) == (1, pytest.approx(0.025 ** (1 / 10)), 1)
    with pytest.raises(ConfigError, match="2 and more"):
        auc(np.array([1.0]), np.arange(5.0))


def test_the_interval_of_auc_covers_what_it_says():
    # Normal scores one apart: AUC = Phi(1 / sqrt(2)) = 0.7602. 400 seeded draws; 0.95 +- 4.5 sqrt(0.95 x 0.05 / 400).
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        found = auc(rng.normal(1, 1, 60), rng.normal(0, 1, 300))
        covered += found.low <= 0.7602 <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.049)


def test_true_positives_are_counted_where_one_in_a_hundred_others_passes():
    # Others 0..199: two may pass, so the threshold is 197; of the members 197 (not over it), 197.5, 198 and 300, three pass.
    members = np.array([197.0, 197.5, 198.0, 300.0])
    assert tpr_at(members, np.arange(200.0)).value == 0.75
    assert tpr_at(members, np.arange(50.0) + 160).value == 0.25  # with 50 none may pass: the threshold is 209


def test_a_figure_is_unresolved_when_its_interval_holds_the_limit():
    assert judge(Estimate(0.05, 0.01, 0.10, 9), 0.10) == "met"
    assert judge(Estimate(0.05, 0.01, 0.11, 9), 0.10) == "unresolved"
    assert judge(Estimate(0.20, 0.11, 0.40, 9), 0.10) == "not met"
    assert judge(Estimate(0.20, 0.10, 0.40, 9), 0.10) == "unresolved"
