"""The noisy mean of a round: the noise's law and size, the denominator, clipping, and the samplers' frequencies.

All seeds are fixed: a check passes or fails for good. Bounds are 5 standard deviations and more, a false alarm in 1.7 million seeds.
"""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.errors import ConfigError, FederationError, ParamsError
from fedstyle.privacy.gaussian import discrete_gaussian, noise_std, seeded, shorten
from fedstyle.privacy.grid import Grid, sensitivity
from fedstyle.privacy.noise import flatten, noisy_mean, unflatten
from fedstyle.privacy.sampling import Fixed, Poisson
from fedstyle.privacy.secagg.terms import Terms
from fedstyle.privacy.shares import multiplier, private_terms

LIKE = {"b": torch.zeros(3, 20), "a": torch.zeros(40)}


def update(value=0.0):
    return {name: torch.full_like(zero, value) for name, zero in LIKE.items()}


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5, 7.0])
def test_discrete_noise_has_its_law(std):
    # Chi-square against exp(-n^2 / 2 s^2) over its sum; values seen fewer than ten times in expectation are taken together.
    count = 200_000
    drawn = discrete_gaussian(count, std, seeded(1))
    reach = np.arange(-math.ceil(12 * std), math.ceil(12 * std) + 1)
    share = np.exp(-(reach**2) / (2 * std * std))
    expected = count * share / share.sum()
    found = np.array([(drawn == n).sum() for n in reach])
    assert found.sum() == count
    common = expected >= 10
    statistic = ((found[common] - expected[common]) ** 2 / expected[common]).sum()
    rest = expected[~common].sum()
    statistic += (found[~common].sum() - rest) ** 2 / max(rest, 1.0)
    freedom = common.sum()
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 12.5  # room for the skew of few degrees of freedom


@pytest.mark.parametrize("std", [1e3, 2.0**20, 1e9])
def test_wide_discrete_noise_has_its_moments(std):
    count = 100_000
    drawn = discrete_gaussian(count, std, seeded(2)) / std
    assert drawn.mean() == pytest.approx(0, abs=5 / math.sqrt(count))
    assert (drawn**2).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    assert (drawn**4).mean() == pytest.approx(3, abs=5 * math.sqrt(96 / count))
    edges = [-math.inf, -2.0, -1.0, -0.3, 0.3, 1.0, 2.0, math.inf]
    chance = np.diff([math.erfc(-e / math.sqrt(2)) / 2 for e in edges])
    found = np.array([((drawn > a) & (drawn <= b)).sum() for a, b in pairwise(edges)])
    assert ((found - count * chance) ** 2 / (count * chance)).sum() < 40.0  # 1 in 2 million at 6 degrees of freedom


def test_noise_is_whole_and_new_each_time():
    one, other = discrete_gaussian(1000, 50.0), discrete_gaussian(1000, 50.0)
    assert one.dtype == np.int64
    assert (one != other).any()
    assert discrete_gaussian(10, 5.0, seeded(3)).tolist() == discrete_gaussian(10, 5.0, seeded(3)).tolist()
    assert discrete_gaussian(0, 5.0).tolist() == []
    for bad in (0.0, -1.0, math.nan, math.inf, 2.0**41):
        with pytest.raises(ConfigError, match="standard deviation"):
            discrete_gaussian(1, bad)


def test_noise_of_the_mean_has_the_accounted_size():
    # 100 numbers, 400 releases of 3 updates: std of the mean's error = z (C + C sqrt(100) / (2 levels)) / denominator.
    clip, noise, denominator = 2.0, 1.5, 4.0
    draw = seeded(4)
    errors = []
    for _ in range(400):
        mean = noisy_mean([update(0.01)] * 3, LIKE, clip=clip, noise=noise, denominator=denominator, levels=1000, draw=draw)
        errors.append(flatten(mean) - 3 * 0.01 / denominator)
    wanted = noise * clip * (1 + 10 / 2000) / denominator
    count = 400 * 100
    assert np.std(errors) == pytest.approx(wanted, rel=5 / math.sqrt(2 * count))
    assert np.mean(errors) == pytest.approx(0, abs=5 * wanted / math.sqrt(count) + 0.002 / denominator)


def test_noise_is_added_once_however_many_come_and_even_if_none_does():
    for replies in (0, 1, 50):
        mean = noisy_mean([update()] * replies, LIKE, clip=1.0, noise=1.0, denominator=10.0, draw=seeded(5))
        assert np.std(flatten(mean)) == pytest.approx(0.1, rel=0.36)  # 5 / sqrt(2 x 100)


def test_the_denominator_is_fixed_and_no_count_of_replies():
    quiet = {"clip": 1.0, "noise": 1e-6, "levels": 1 << 30, "denominator": 10.0}
    for replies in (1, 5, 20):
        mean = noisy_mean([update(0.05)] * replies, LIKE, **quiet)  # 0.05 sqrt(100) = 0.5 is within the norm
        assert flatten(mean) == pytest.approx(replies * 0.05 / 10, abs=1e-5)


def test_every_update_is_clipped_here_too_and_none_weighs_more():
    quiet = {"clip": 1.0, "noise": 1e-6, "levels": 1 << 30, "denominator": 1.0}
    huge = noisy_mean([update(1e30)], LIKE, **quiet)
    assert np.linalg.norm(flatten(huge)) == pytest.approx(1.0, abs=1e-3)
    assert flatten(huge) == pytest.approx(0.1, abs=1e-4)  # all 100 numbers alike: 1 / sqrt(100)
    assert shorten(np.array([3.0, 4.0]), 1.0).tolist() == pytest.approx([0.6, 0.8])
    assert shorten(np.array([3.0, 4.0]), 5.0).tolist() == [3.0, 4.0]
    assert np.linalg.norm(shorten(np.full(4, 1e300), 1.0)) == pytest.approx(1.0)


def test_bad_updates_and_numbers_are_errors():
    good = {"clip": 1.0, "noise": 1.0, "denominator": 10.0}
    for bad in ({"a": torch.zeros(40)}, {**LIKE, "c": torch.zeros(1)}, {**LIKE, "a": torch.zeros(1)}, update(math.nan), update(math.inf)):
        with pytest.raises(ParamsError):
            noisy_mean([bad], LIKE, **good)
    for key in good:
        for bad in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ConfigError):
                noisy_mean([update()], LIKE, **{**good, key: bad})


def test_a_vector_has_the_tensors_in_the_order_of_their_names():
    whole = {"b": torch.arange(60.0).reshape(3, 20), "a": torch.arange(40.0)}
    vector = flatten(whole)
    assert vector[:40].tolist() == list(range(40))
    back = unflatten(vector, LIKE)
    assert all(torch.equal(back[name], whole[name]) for name in whole)
    assert flatten({}).tolist() == []
    with pytest.raises(ConfigError, match="another net"):
        unflatten(vector[1:], LIKE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(1, 2000), st.floats(0.1, 10))
def test_rounding_never_passes_the_accounted_norm(numbers, levels, clip):
    grid = Grid(clip, levels)
    steps = grid.encode(shorten(np.array(numbers), clip))
    assert np.linalg.norm(steps) <= sensitivity(grid, clip, len(numbers)) * (1 + 1e-12)
    assert np.abs(grid.decode(steps) - shorten(np.array(numbers), clip)).max() <= grid.step / 2 * (1 + 1e-9)


# Samplers.


def test_poisson_takes_each_user_at_its_rate_and_apart_from_others():
    sampler, rng, trials = Poisson(50, 0.2), random.Random(1), 4000
    taken = np.zeros((trials, 50))
    for row in taken:
        row[sampler.draw(range(50), rng)] = 1
    assert np.abs(taken.mean(0) - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / trials)
    assert taken.sum(1).mean() == pytest.approx(sampler.cohort, abs=5 * math.sqrt(8 / trials))
    assert taken.sum(1).var() == pytest.approx(50 * 0.2 * 0.8, rel=0.12)  # binomial, not fixed: 5 sqrt(2 / trials)
    assert np.abs(np.corrcoef(taken.T)[~np.eye(50, dtype=bool)]).max() < 5.5 / math.sqrt(trials)


def test_a_fixed_cohort_has_its_size_and_takes_each_user_and_pair_alike():
    sampler, rng, trials = Fixed(20, 5), random.Random(2), 4000
    taken = np.zeros((trials, 20))
    for row in taken:
        row[sampler.draw(range(20), rng)] = 1
    assert set(taken.sum(1)) == {5.0}
    assert np.abs(taken.mean(0) - 0.25).max() < 5 * math.sqrt(0.25 * 0.75 / trials)
    pairs = (taken.T @ taken / trials)[~np.eye(20, dtype=bool)]
    chance = 5 * 4 / (20 * 19)
    assert np.abs(pairs - chance).max() < 5 * math.sqrt(chance / trials)


def test_samplers_are_secure_unless_seeded():
    poisson, fixed = Poisson(200, 0.5), Fixed(200, 100)
    for sampler in (poisson, fixed):
        assert sampler.draw(range(200)) != sampler.draw(range(200))
        assert sampler.draw(range(200), random.Random(3)) == sampler.draw(range(200), random.Random(3))
    assert isinstance(poisson.draw.__defaults__[0], random.SystemRandom)
    assert isinstance(fixed.draw.__defaults__[0], random.SystemRandom)


def test_samplers_refuse_what_would_break_the_accounting():
    with pytest.raises(FederationError, match="99 of 100 users are available"):
        Fixed(100, 10).draw(range(99))
    assert len(Poisson(100, 1.0).draw(range(99))) == 99
    for sampler in (Fixed(100, 10), Poisson(100, 0.1)):
        with pytest.raises(FederationError, match="twice"):
            sampler.draw([*range(99), 5])
        with pytest.raises(FederationError, match="of a population of 100"):
            sampler.draw(range(101))
    for make in (lambda: Poisson(0, 0.1), lambda: Poisson(10, 0.0), lambda: Poisson(10, 1.1), lambda: Fixed(10, 0), lambda: Fixed(10, 11)):
        with pytest.raises(ConfigError):
            make()
    assert Fixed(100, 10).rate == 0.1
    assert Poisson(100, 0.1).cohort == 10


# Noise in shares.


def test_shares_of_noise_add_up_to_the_whole_when_only_the_threshold_stays():
    # 12 clients, 2 of them may collude: 8 must stay, and 6 honest ones carry the noise.
    terms = private_terms("run", 0, range(12), 2000, clip=1.0, noise=2.0, colluders=2, levels=1000)
    assert (terms.threshold, terms.colluders) == (8, 2)
    whole = noise_std(2.0, Grid(1.0, 1000), 1.0, 2000)
    assert terms.noise == pytest.approx(whole / math.sqrt(6))
    assert multiplier(terms, 1.0) == pytest.approx(2.0)
    draw = seeded(6)
    total = sum(discrete_gaussian(2000, terms.noise, draw) for _ in range(6))
    assert total.std() == pytest.approx(whole, rel=5 / math.sqrt(4000))


def test_noise_goes_through_a_secure_sum():
    from fedstyle.privacy.secagg import client, server

    terms = private_terms("run", 0, range(5), 3000, clip=1.0, noise=0.5, colluders=0)
    states, replies, draw = {}, [], seeded(7)
    for one in terms.clients:
        states[one], reply = client.advertise(terms, one)
        replies.append((one, reply))
    round, message = server.collect_adverts(server.Round(terms), replies)
    steps = [(client.share, server.collect_shares), (client.mask, server.collect_masked), (client.consent, server.collect_agreements)]
    for act, collect in [*steps, (client.unmask, server.collect_unmaskings)]:
        replies = []
        for one in terms.clients:
            given_ = (message[one], np.full(3000, 0.01)) if act is client.mask else (message,)
            states[one], reply = act(states[one], *given_, **({"draw": draw} if act is client.mask else {}))
            replies.append((one, reply))
        result = collect(round, replies)
        if act is not client.unmask:
            round, message = result
    error = result.values - 5 * 0.01
    wanted = terms.noise * terms.grid.step * math.sqrt(5)
    assert error.std() == pytest.approx(wanted, rel=5 / math.sqrt(6000))
    assert wanted >= 0.5 * math.sqrt(5 / terms.threshold)  # more than accounted, for all stayed


def test_terms_without_noise_or_on_a_coarse_grid_give_no_promise():
    with pytest.raises(ConfigError, match="share of the noise"):
        multiplier(Terms.propose("run", 0, range(5), 10, Grid(1.0)), 1.0)
    with pytest.raises(ConfigError, match="share of the noise"):
        private_terms("run", 0, range(5), 10, clip=1.0, noise=0.1, levels=10)
