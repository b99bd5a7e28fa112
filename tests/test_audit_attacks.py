"""The attacks on toy updates whose answer is known, and what each release shows."""

import numpy as np
import pytest
import torch

from fedstyle.base import Base
from fedstyle.methods import make_method
from fedstyle.perceptual import Objective, load_features
from fedstyle.privacy.audit import inversion
from fedstyle.privacy.audit.learned import PENALTIES, Grams, Ridge, noises
from fedstyle.privacy.audit.membership import ask, scores, steps, tell
from fedstyle.privacy.audit.rebuilding import blind, gain, learn_clear, learn_hidden, learn_summed, psnrs
from fedstyle.privacy.audit.reidentification import name_clear, name_noised, name_summed
from fedstyle.privacy.audit.releases import Lens, Release
from fedstyle.privacy.audit.users import change, client_of, halves, tiles, vector

# Inner products and what is learned from them.


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


def test_inner_products_by_tensor_make_every_form():
    # Tensors of 2 and 1 numbers. User (3, 4, 2), shadow (4, -3, 1): products 0 and 2, lengths 5 and 2, 5 and 1; signs 1 - 1 = 0 and 1.
    grams = Grams.of(np.array([[3.0, 4.0, 2.0]]), np.array([[4.0, -3.0, 1.0]]), [2, 3])
    first, second = np.array([True, False]), np.array([False, True])
    assert grams.pair("whole", [first, second]) == (pytest.approx(0 + 2 / (2 * 1)), pytest.approx(2))
    assert grams.pair("whole", [first | second])[0] == pytest.approx(2 / (29**0.5 * 26**0.5))
    assert grams.pair("layers", [first | second])[0] == pytest.approx(1)
    assert grams.pair("signs", [first | second]) == (1, 3)
    # Clipped to 1 jointly: 2 / (sqrt(29) sqrt(26)); to 100: as they are.
    assert grams.clipped(first | second, 1.0)[0] == pytest.approx(2 / (29**0.5 * 26**0.5))
    assert grams.clipped(first | second, 100.0)[0] == 2


def test_a_ridge_on_inner_products_is_a_ridge(rng):
    x, y, z = rng.normal(size=(30, 5)), rng.normal(size=(30, 2)), rng.normal(size=(7, 5))
    ridge = Ridge.fit(x @ x.T, y, lambda left: -float(np.square(left - y).mean()))
    middle = x - x.mean(0)
    answers = []
    for penalty in PENALTIES:
        weight = penalty * np.trace(middle @ middle.T) / 30
        beta = np.linalg.solve(middle.T @ middle + weight * np.eye(5), middle.T @ (y - y.mean(0)))
        answers.append(y.mean(0) + (z - x.mean(0)) @ beta)
    assert any(np.allclose(ridge.predict(z @ x.T), one) for one in answers)


@pytest.mark.parametrize("group", [1, 3])
def test_what_is_left_out_is_not_learned_from(rng, group):
    # The closed form against fitting again without the group, with the centre and the penalty of all.
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 1))
    seen = []
    Ridge.fit(x @ x.T, y, lambda left: float(seen.append(left) or 0), group=group)
    middle, wanted = x - x.mean(0), y - y.mean(0)
    own = middle @ middle.T
    kept = np.arange(group, 12)
    weight = PENALTIES[2] * np.trace(own) / 12
    again = own[:group, kept] @ np.linalg.solve(own[np.ix_(kept, kept)] + weight * np.eye(12 - group), wanted[kept])
    assert seen[2][:group] - y.mean(0) == pytest.approx(again)


def test_noise_on_inner_products_is_the_noise_of_a_release(rng):
    shadows = rng.normal(size=(4, 60))
    own = shadows @ shadows.T
    drawn = noises(own, 0.5, rng, 40_000)
    assert np.cov(drawn.T) == pytest.approx(0.25 * own, abs=0.02 * own.max())


# Style re-identification.


def users_of(rng, styles, each, apart, noise=1.0, numbers=300):
    centres = apart * np.random.default_rng(5).normal(size=(styles, numbers))  # styles are the same for users and attacker
    changes = np.repeat(centres, each, axis=0) + noise * rng.normal(size=(styles * each, numbers))
    return changes, np.repeat(np.arange(styles), each)


@pytest.fixture(scope="module")
def named(rng):
    shadows, styles = users_of(rng, 8, 6, 0.5)
    users, truths = users_of(rng, 8, 10, 0.5)
    return [Grams.of(users, shadows, [100, 300])], [np.array([True, True])], styles.tolist(), truths


def test_a_style_is_found_where_it_shows_and_not_where_it_does_not(rng, named):
    moments, parts, styles, truths = named
    assert (name_clear(moments, parts, styles, 8) == truths).mean() > 0.9
    shadows, blind = users_of(rng, 8, 6, 0.0), users_of(rng, 8, 10, 0.0)
    found = name_clear([Grams.of(blind[0], shadows[0], [100, 300])], parts, styles, 8)
    assert (found == truths).mean() < 0.3  # 10 of 80 expected, 4 deviations are 22


def test_noise_hides_it_by_its_size(rng, named):
    moments, parts, styles, truths = named
    hits = [
        float((name_noised(moments, parts[0], styles, 8, clip=1.0, noise=noise, draws=5, rng=rng) == truths).mean()) for noise in (0.01, 10)
    ]
    assert hits[0] > 0.9
    assert hits[1] < 0.25


def test_of_a_sum_all_of_a_cohort_are_named_alike(rng, named):
    moments, parts, styles, truths = named
    cohorts = [truths.argsort(kind="stable")[k * 10 : (k + 1) * 10].tolist() for k in range(7)]  # each of one style
    found = name_summed(moments, parts[0], styles, 8, cohorts, clip=1.0, rng=rng)
    assert (found[70:] == -1).all()
    assert all(len(set(found[members])) == 1 for members in cohorts)
    assert (found[:70] == truths[:70]).mean() > 0.8


# Membership.


def pile_of(user, steps, vector, expected, members=1):
    views = {"a": (np.array([True, True, False]), np.asarray(vector), np.asarray(expected))}
    return ask(user, members, np.array(steps), views, np.array([True, True, False]))


def test_members_score_by_their_own_step():
    # Steps (3, 4) and (1, 0) of what is shared, at length 1, with (1, 1): 7/5 and 1; less (0, 1): 3/5 and 1.
    pile = pile_of(0, [[3.0, 4.0, 9.0], [1.0, 0.0, 9.0]], [1.0, 1.0], [0.0, 1.0])
    one = pile.shown[False, "a"]
    assert (one.seen, one.expected) == (pytest.approx([1.4, 1.0]), pytest.approx([0.8, 0.0]))
    assert (one.length, one.rest) == (pytest.approx(2**0.5), 1)
    assert pile.own[False] == pytest.approx(np.array([[1, 0.6], [0.6, 1]]))
    assert pile.shown[True, "a"].seen == pytest.approx([2**0.5, 1.0])
    rng = np.random.default_rng(0)
    assert scores(pile, (False, False), ["a"], 0.0, 1, rng) == pytest.approx(np.array([[1, -1]]))
    assert scores(pile, (False, True), ["a"], 0.0, 1, rng) == pytest.approx(np.array([[-1, 1]]))


def test_the_way_is_chosen_on_the_attackers_own_and_draws_are_one_users():
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(5, 3)) for _ in range(24)]
    piles = [pile_of(k, step, 2 * step[0, :2] + [30.0, 0], [30.0, 0]) for k, step in enumerate(steps)]
    told = tell(piles[:16], piles[16:], ["a"], 0.0, 1, rng, range(16))
    assert told.auc.value > 0.8  # calibrated: plainly, what all show drowns it
    assert (told.members, told.others, told.auc.trials) == (16, 64, 16)
    hidden = tell(piles[:16], piles[16:], ["a"], 1000.0, 50, rng, range(16))
    assert hidden.auc.value == pytest.approx(0.5, abs=0.06)  # 4 standard errors
    assert (hidden.members, hidden.auc.trials) == (16, 16)
    blind = tell(piles[:16], piles[16:], [], 0.0, 50, rng, range(16))
    assert blind.auc.value == pytest.approx(0.5, abs=0.06)


@pytest.fixture(scope="module")
def objective():
    features = load_features("tiny")
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    from fedstyle.perceptual import gram

    with torch.no_grad():
        return Objective(features, tuple(gram(tap)[0] for tap in features(pixels)), 1.0, 10.0)


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


@pytest.fixture(scope="module")
def narrow():
    return Base.new("cnnLite", seed=0, width=2)


def test_the_photo_of_a_single_step_is_told_from_others(narrow, objective, pixels):
    found = steps(narrow, objective, pixels)
    count = sum(value.numel() for value in narrow.weights.values())
    assert found.shape == (3, count)
    mask = np.ones(count, bool)
    views = {"own": (mask, found[1], 0 * found[1]), "adam": (mask, np.sign(found[2]), 0 * found[2])}
    pile, rng = ask(0, 1, found, views, mask), np.random.default_rng(0)
    assert scores(pile, (False, False), ["own"], 0.0, 1, rng).argmax() == 1
    assert scores(pile, (True, False), ["adam"], 0.0, 1, rng).argmax() == 2  # as Adam's first step


# Reconstruction.


def test_the_positive_control_rebuilds_a_picture_that_must_leak():
    y, x = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
    picture = torch.stack([x, y, 0.5 + torch.sin(6 * x + 3 * y) / 3])[None]
    assert inversion.control(picture, torch.full_like(picture, 0.5), 0) >= inversion.CONTROL


def test_the_step_that_is_matched_is_the_one_that_is_seen(narrow, objective, pixels):
    # One function in 64 bits that can be differentiated twice, one in 32 bits on the fast kernels.
    mask = np.arange(len(vector(narrow.transform()))) % 3 == 0
    found = inversion.step_of(narrow, objective, mask)(pixels[:1].double() / 255).detach().numpy()
    wanted = steps(narrow, objective, pixels[:1])[0][mask]
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.9999


def test_the_gain_is_over_the_best_that_knows_nothing():
    assert inversion.Rebuilt(12.0, 9.0, 11.5, 10.0).gain == pytest.approx(0.5)
    assert inversion.psnr(torch.full((1, 3, 4, 4), 0.6), torch.full((1, 3, 4, 4), 0.5)) == pytest.approx(20, abs=1e-4)  # 0.01 squared error
    assert inversion.psnr(torch.ones(2), torch.ones(2)) == 99


def test_both_controls_must_hold():
    assert inversion.holds([24.0, 26.0, 30.0], [1.0, 2.0], 1.0)
    assert not inversion.holds([24.0, 24.9, 30.0], [1.0, 2.0], 1.0)
    assert not inversion.holds([40.0], [0.0, 0.1, 5.0], 1.0)


def test_smoothing_lowers_variation_and_keeps_the_mean():
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    found = inversion.smoothed(noise)
    assert inversion.variation(found) < 0.6 * inversion.variation(noise)
    assert float(found.mean()) == pytest.approx(float(noise.mean()), abs=0.02)


def test_a_learned_picture_gains_what_the_update_tells_and_nothing_from_noise(rng):
    # Updates are 20 numbers that are linear in 12 pixels; photos vary around grey.
    mix = rng.normal(size=(12, 20))
    public, photos = 0.5 + 0.1 * rng.normal(size=(80, 12)), 0.5 + 0.1 * rng.normal(size=(30, 12))
    grams, tensors = Grams.of(photos @ mix, public @ mix, [8, 20]), np.array([True, True])
    known = psnrs(np.full((30, 12), 0.5), photos)
    found, ridge = learn_clear([grams], [tensors], public)
    assert gain(found, ridge, photos, known, rng).mean() > 6
    found, ridge = learn_hidden([grams], tensors, public, clip=1.0, noise=30.0, rng=rng)
    assert abs(gain(found, ridge, photos, known, rng).mean()) < 0.3
    found, ridge = learn_summed([grams], tensors, public, clip=100.0, cohort=2, rng=rng)
    assert gain(found, ridge, photos, known, rng).mean() < 3


def test_the_gain_is_over_all_that_knows_nothing():
    public = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)  # 0.2 everywhere
    assert blind(public, np.full((1, 48), 0.3)) == pytest.approx([20])  # 0.01 squared error, whichever of the three


# Releases.


def test_releases_tell_of_what_they_say(narrow):
    lens = Lens.of(narrow, make_method({"name": "fedbn"}))
    norms = sum(value.numel() for name, value in narrow.weights.items() if ".norm" in name)
    assert list(lens.names) == sorted(narrow.weights)
    assert lens.cuts[-1] == len(lens.norms) == len(vector(narrow.transform()))
    assert (lens.norms.sum(), lens.shared.sum()) == (norms, lens.cuts[-1] - norms)  # fedbn shares all but the norms
    told = {release: int(lens.mask(release).sum()) for release in Release}
    shares = lens.cuts[-1] - norms
    assert list(told.values()) == [0, norms, shares, lens.cuts[-1], shares, shares, lens.cuts[-1]]
    assert [len(lens.parts(one)) for one in (Release.NORMS, Release.SHARED, Release.FULL)] == [1, 1, 2]


# Users.


def test_a_users_change_is_what_it_sends_and_what_it_keeps(tmp_path, narrow, style_image, pixels):
    from fedstyle.config import Config
    from fedstyle.params import load, unseal
    from fedstyle.style import Style

    path = tmp_path / "run.toml"
    path.write_text("[training]\nsize = 32\nbatch = 1\n[method]\nsteps = 1\n")
    client = client_of(Config.load(path), tmp_path / "home", pixels, Style(style_image, density=64), 1)
    found = change(client, narrow, 1)
    assert found.keys() == narrow.weights.keys()
    kept = unseal(load(tmp_path / "home" / "private.safetensors"), path)
    name = "down1.norm.weight"
    assert torch.equal(found[name], kept[f"net/{name}"] - narrow.weights[name])
    assert all(float(value.abs().max()) > 0 for name, value in found.items() if name.endswith("norm.weight"))


def test_pictures_are_disjoint_places_of_photos(tmp_path):
    from PIL import Image

    from fedstyle.photos import Photos

    # A photo whose pixels tell their place: 128 x 96 has 12 squares of 32, each with a red and a green of its own and stripes in blue.
    # One square of the first photo is without stripes: of one colour, and so left out.
    for k in range(2):
        y, x = np.mgrid[0:96, 0:128]
        blue = 100 * k + x % 2 * 40
        blue[:32, :32] = blue[:32, :32] if k else 0
        Image.fromarray(np.stack([x // 32 * 40, y // 32 * 40, blue], -1).astype(np.uint8)).save(tmp_path / f"{k}.png")
    photos = Photos.open(tmp_path)
    found = tiles(photos, 24, 32, seed=0)
    assert found.shape == (23, 3, 32, 32)
    assert tiles(photos, 20, 32, seed=0).shape == (20, 3, 32, 32)
    colours = {tuple(one[:, 16, 16].tolist()) for one in found}
    assert len(colours) == 23
    assert (0, 0, 0) not in colours
    assert all(one[:2].flatten(1).float().std(1).max() == 0 for one in found)
    one, other = halves(photos, 0)
    assert not set(one.paths) & set(other.paths)
    assert len(one) == len(other) == 1
