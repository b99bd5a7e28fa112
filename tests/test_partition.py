import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.errors import ConfigError
from fedstyle.partition import (
    AMOUNTS,
    PHOTO_SPLITS,
    STYLE_SPLITS,
    ByContent,
    Even,
    LogNormal,
    Popularity,
    Shuffled,
    Turns,
    Zipf,
    apportion,
    deal_mixed,
    make_partitioner,
)

seeds = st.integers(0, 2**32 - 1)


def rng(seed=0):
    return np.random.default_rng(seed)


class Fixed:
    """A source of draws that are known; whatever is not drawn here is an error."""

    def __init__(self, **draws):
        for name, value in draws.items():
            setattr(self, name, lambda *_, value=value, **__: value)


# Whole numbers in proportion


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),  # exact 3.33 each; the one left goes to the first of three equal fractions
        (10, [5, 3, 2], [5, 3, 2]),
        (7, [0.5, 0.3, 0.2], [4, 2, 1]),  # exact 3.5, 2.1, 1.4: whole 3 + 2 + 1, the one left to .5
        (9, [0.5, 0.3, 0.2], [4, 3, 2]),  # exact 4.5, 2.7, 1.8: whole 4 + 2 + 1, the two left to .8 and .7
        (3, [1, 0, 0], [3, 0, 0]),
        (0, [1, 2], [0, 0]),
    ],
)
def test_apportion_by_hand(total, weights, parts):
    assert apportion(total, weights) == parts


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2000), st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=40))
def test_apportioned_parts_sum_and_are_within_one_of_their_exact_share(total, weights):
    parts = apportion(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1 + 1e-6


# Styles


def test_turns_go_round():
    assert Turns().styles(5, 3, rng()) == [0, 1, 2, 0, 1]


def test_the_popularity_of_styles_by_hand():
    # q = (.62, .3, .08) of 10 clients: exact 6.2, 3, .8, so 6, 3, 0 and the one left to the third; then their order is drawn
    drawn = Fixed(dirichlet=np.array([0.62, 0.3, 0.08]), permutation=np.array([1, 0, 0, 2, 0, 0, 1, 0, 1, 0]))
    seen = []
    drawn.permutation = lambda taken: seen.append(taken.tolist()) or taken[::-1]
    assert Popularity().styles(10, 3, drawn) == [2, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert seen == [[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]


def test_the_popularity_of_styles_has_the_spread_of_a_dirichlet():
    # Var q_k = p (1 - p) / (alpha + 1) for Dir(alpha p): with 2 styles and alpha = 3 it is .25 / 4, and its root .25
    shares = [np.mean(np.array(Popularity(3.0).styles(1000, 2, rng(seed))) == 0) for seed in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)  # .25 / sqrt(400) is .0125
    assert np.std(shares) == pytest.approx(0.25, abs=0.03)


def test_alpha_goes_from_one_style_for_all_to_all_alike():
    assert len(set(Popularity(1e-3).styles(60, 6, rng()))) == 1
    assert np.bincount(Popularity(1e6).styles(60, 6, rng())).tolist() == pytest.approx([10] * 6, abs=1)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([Turns(), *(Popularity(alpha) for alpha in (1e-3, 0.1, 1.0, 100.0))]), st.integers(1, 60), st.integers(1, 20), seeds)
def test_every_client_has_a_style_and_a_seed_gives_the_same_ones(split, clients, count, seed):
    styles = split.styles(clients, count, rng(seed))
    assert len(styles) == clients
    assert set(styles) <= set(range(count))
    assert styles == split.styles(clients, count, rng(seed))


# Amounts


def test_amounts_by_hand():
    assert Even().sizes(11, 4, rng()) == [3, 3, 3, 2]
    # Ranks 2, 1, 3 weigh 1/2, 1, 1/3, in all 11/6. One photo each leaves 11: exact 3, 6, 2.
    assert Zipf(1.0).sizes(14, 3, Fixed(permutation=np.array([1, 0, 2]))) == [4, 7, 3]
    assert Zipf(0.0).sizes(9, 3, rng()) == [3, 3, 3]
    # exp(ln 2 z) = 2^z weighs 2, 4, 1/2 for z = 1, 2, -1, in all 6.5. One photo each leaves 13: exact 4, 8, 1.
    assert LogNormal(float(np.log(2))).sizes(16, 3, Fixed(standard_normal=np.array([1.0, 2.0, -1.0]))) == [5, 9, 2]


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([Even(), LogNormal(0.0), LogNormal(), LogNormal(5.0), Zipf(0.0), Zipf(), Zipf(5.0)]),
    st.integers(1, 50),
    st.integers(0, 300),
    seeds,
)
def test_everyone_has_a_photo_and_sizes_sum(amount, clients, more, seed):
    sizes = amount.sizes(clients + more, clients, rng(seed))
    assert len(sizes) == clients
    assert sum(sizes) == clients + more
    assert min(sizes) >= 1
    assert sizes == amount.sizes(clients + more, clients, rng(seed))


def test_amounts_are_as_uneven_as_their_number_says():
    def largest(amount):
        return np.mean([max(amount.sizes(500, 20, rng(seed))) for seed in range(50)])

    assert 25 == largest(Even()) < largest(LogNormal(0.5)) < largest(LogNormal(1.5))
    assert largest(Zipf(0.5)) < largest(Zipf(1.5)) < largest(Zipf(5.0))


# Photos


@st.composite
def libraries(draw):
    """Kinds of some photos, and how many each client gets."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    kinds = draw(st.lists(st.integers(0, 5), min_size=sum(sizes), max_size=sum(sizes)))
    return kinds, sizes


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([Shuffled(), ByContent(0.01), ByContent(0.5), ByContent(1e6)]), libraries(), seeds)
def test_no_photo_is_dealt_twice_and_none_is_left(split, library, seed):
    kinds, sizes = library
    parts = split.deal(kinds, sizes, rng(seed))
    assert [len(part) for part in parts] == sizes
    assert sorted(place for part in parts for place in part) == list(range(len(kinds)))
    assert all(part == sorted(part) for part in parts)
    assert parts == split.deal(kinds, sizes, rng(seed))


def test_a_deal_by_hand():
    # Photos 0 to 3 are of kind "a", 4 and 5 of "b". Mixes are drawn as (1, 0) and (.5, .5), and each draw then takes the likelier kind
    # that is left, the first of equal ones; piles are in order, and their last photo goes first.
    # Turn 1: the first client takes a (3), the second a (2). Turn 2: a (1), a (0). Turn 3: no a is left, so both take b (5 and 4).
    drawn = Fixed(dirichlet=np.array([[1.0, 0.0], [0.5, 0.5]]))
    drawn.permutation = lambda places: places
    drawn.choice = lambda _, p: int(np.argmax(p))
    assert deal_mixed(["a"] * 4 + ["b"] * 2, [3, 3], 1.0, drawn) == [[1, 3, 5], [0, 2, 4]]


def test_mixes_are_drawn_around_the_kinds_shares():
    seen = []
    drawn = Fixed()
    drawn.permutation, drawn.choice = lambda places: places, lambda _, p: int(np.argmax(p))
    drawn.dirichlet = lambda alpha, size: seen.append((alpha.tolist(), size)) or np.full((size, len(alpha)), 0.5)
    deal_mixed(["a", "a", "a", "b"], [2, 2], 8.0, drawn)
    assert seen == [([6.0, 2.0], 2)]  # alpha p = 8 x (3/4, 1/4)


def test_alpha_goes_from_one_kind_a_client_to_all_alike():
    kinds = [place % 4 for place in range(400)]

    def kinds_a_client(alpha):
        return np.mean([len({kinds[place] for place in part}) for part in deal_mixed(kinds, [10] * 40, alpha, rng(3))])

    assert kinds_a_client(0.01) < 1.6 < kinds_a_client(1.0) < 3.5 < kinds_a_client(1000.0)


# In the configuration


def test_a_partitioner_is_named_alone_or_with_its_fields():
    assert make_partitioner(AMOUNTS, "zipf", "data.amounts") == Zipf()
    assert make_partitioner(AMOUNTS, {"name": "zipf", "exponent": 2}, "data.amounts") == Zipf(2.0)
    assert make_partitioner(PHOTO_SPLITS, {"name": "content", "alpha": 0.1, "clusters": 5}, "data.photo_split") == ByContent(0.1, 5)


@pytest.mark.parametrize(
    ("known", "table", "words"),
    [
        (AMOUNTS, "zip", r"unknown k = 'zip': did you mean 'zipf'\?"),
        (AMOUNTS, {"exponent": 2.0}, r"unknown k = None: .*Known are even, lognormal, zipf"),
        (AMOUNTS, {"name": "zipf", "exponnt": 2.0}, r"unknown key k\.exponnt: did you mean 'exponent'\?"),
        (AMOUNTS, {"name": "zipf", "exponent": -1.0}, r"^k\.exponent = -1\.0: give 0"),
        (AMOUNTS, {"name": "zipf", "exponent": "much"}, r"^k\.exponent = 'much': give a number"),
        (AMOUNTS, {"name": "lognormal", "sigma": 6.0}, r"^k\.sigma = 6\.0"),
        (STYLE_SPLITS, {"name": "dirichlet", "alpha": 0.0}, r"^k\.alpha = 0\.0"),
        (PHOTO_SPLITS, {"name": "content", "clusters": 1}, r"^k\.clusters = 1: give 2 to 64"),
        (PHOTO_SPLITS, {"name": "shuffled", "alpha": 1.0}, r"unknown key k\.alpha: There is none"),
    ],
)
def test_what_is_no_partitioner_is_an_error(known, table, words):
    with pytest.raises(ConfigError, match=words):
        make_partitioner(known, table, "k")
