import pytest

from fedstyle.flower.cohort import sample


def test_a_cohort_depends_on_seed_and_round_alone():
    assert sample(20, 5, 7, 1) == sample(20, 5, 7, 1)
    assert sample(20, 5, 7, 1) != sample(20, 5, 7, 2)
    assert sample(20, 5, 7, 1) != sample(20, 5, 8, 1)
    assert sample(20, 5, 7, 1) == (0, 4, 9, 14, 19)  # the five least of sha256("7\0" "1\0" "<partition>"), sorted


def test_a_cohort_is_sorted_and_holds_nobody_twice():
    for number in range(50):
        cohort = sample(9, 4, 0, number)
        assert list(cohort) == sorted(set(cohort))
        assert len(cohort) == 4
        assert set(cohort) <= set(range(9))
    assert sample(9, 9, 0, 1) == tuple(range(9))


def test_everyone_is_sampled_alike():
    counts = [0] * 10
    for number in range(1000):
        for partition in sample(10, 3, 1, number):
            counts[partition] += 1
    # 300 expected each; the standard deviation of a binomial of 1000 at 0.3 is 14.5, so five of them are 72
    assert all(count == pytest.approx(300, abs=72) for count in counts)
