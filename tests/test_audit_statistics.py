"""The audit's figures: each against a number that is worked out beside it."""

import math

import numpy as np
import pytest

from fedstyle.errors import ConfigError
from fedstyle.privacy.audit.statistics import Estimate, auc, clustered, judge, mean, proportion


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


def test_a_mean_of_clusters_counts_clusters():
    # Clusters (1, 3), (5,): mean 3; sums of deviations -2 + 0 = -2 and 2; variance 2 / 1 * (4 + 4) / 9 = 16 / 9; t(0.975, 1) = 12.706.
    found = clustered(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9]))
    assert (found.value, found.trials) == (3, 2)
    assert found.high - 3 == pytest.approx(12.706 * 4 / 3, abs=1e-3)
    assert clustered(np.array([2.0, 2.5]), np.array([1, 1])) == Estimate(2.25, -math.inf, math.inf, 1)


def test_shares_of_one_trial_a_cluster_are_exact():
    hits = np.array([1.0, 0.0, 0.0, 1.0])
    assert clustered(hits, np.arange(4)) == proportion(2, 4)
    assert clustered(np.zeros(30), np.repeat(np.arange(3), 10)) == proportion(0, 3)  # nothing differs: as many trials as clusters


def test_the_interval_of_clusters_covers_what_it_says_and_one_of_trials_does_not():
    # 40 users of 25 draws each, whose own chance is 0 or 1/8 alike often: the mean is 1/16. 300 repeats; 0.95 +- 4 sqrt(0.95 x 0.05 / 300).
    rng, clusters = np.random.default_rng(2), np.repeat(np.arange(40), 25)
    covered = narrow = 0
    for _ in range(300):
        hits = (rng.random(1000) < np.repeat(rng.choice([0, 1 / 8], 40), 25)) * 1.0
        found, plain = clustered(hits, clusters), proportion(int(hits.sum()), 1000)
        covered += found.low <= 1 / 16 <= found.high
        narrow += plain.low <= 1 / 16 <= plain.high
    assert covered / 300 == pytest.approx(0.95, abs=0.05)
    assert narrow < covered


def test_an_auc_of_clusters_of_one_is_delongs_by_students_law():
    rng = np.random.default_rng(3)
    members, others = rng.normal(0.5, 1, 60), rng.normal(0, 1, 200)
    plain, by_one = auc(members, others), auc(members, others, clusters=(np.arange(60), np.arange(60, 260)))
    assert by_one.value == plain.value
    assert by_one.high - by_one.value == pytest.approx(plain.high - plain.value, rel=0.03)
    # every score ten times over, in clusters of ten: the same interval, and no narrower one
    often = auc(np.repeat(members, 10), np.repeat(others, 10), clusters=(np.repeat(np.arange(60), 10), np.repeat(np.arange(60, 260), 10)))
    assert often.high == pytest.approx(by_one.high)


def test_a_figure_is_unresolved_when_its_interval_holds_the_limit():
    assert judge(Estimate(0.05, 0.01, 0.10, 9), 0.10) == "met"
    assert judge(Estimate(0.05, 0.01, 0.11, 9), 0.10) == "unresolved"
    assert judge(Estimate(0.20, 0.11, 0.40, 9), 0.10) == "not met"
    assert judge(Estimate(0.20, 0.10, 0.40, 9), 0.10) == "unresolved"
