"""The attacks on toy updates whose answer is known, and what each release shows."""

import numpy as np
import pytest
import torch

from fedstyle.base import Base
from fedstyle.methods import make_method
from fedstyle.perceptual import Objective, load_features
from fedstyle.privacy.audit import inversion
from fedstyle.privacy.audit.membership import measure, scores, steps
from fedstyle.privacy.audit.reidentification import accuracy, guess, templates
from fedstyle.privacy.audit.reidentification import scores as likeness
from fedstyle.privacy.audit.releases import Lens, Release
from fedstyle.privacy.audit.users import Trace, change, client_of, halves, tiles, vector
from fedstyle.privacy.gaussian import seeded

# Style re-identification.


def test_templates_are_what_is_left_of_the_styles_without_what_they_have_in_common():
    # Two styles, (3, 4, 0) and (3, -4, 0) drawn once each: common (3/5, 0, 0); apart (0, +-4/5, 0); unit (0, +-1, 0).
    found = templates(np.array([[[3.0, 4.0, 0.0]], [[3.0, -4.0, 0.0]]]))
    assert found == pytest.approx(np.array([[0, 1, 0], [0, -1, 0]]))
    # The cosine of (1, 2, 2), 3 long, with each.
    assert likeness(np.array([1.0, 2.0, 2.0]), found) == pytest.approx([2 / 3, -2 / 3])
    assert likeness(np.zeros(3), found).tolist() == [0, 0]


def test_rounds_add_up_and_ties_are_broken_by_chance():
    rng = np.random.default_rng(0)
    assert guess([np.array([0.2, 0.1, 0.0]), np.array([0.0, 0.2, 0.0])], rng) == 1
    ties = [guess([np.zeros(16)], rng) for _ in range(640)]
    assert np.bincount(ties, minlength=16).min() > 9  # 40 expected, 5 deviations are 31
    assert (accuracy([1, 2, 3], [1, 0, 3]).value, accuracy([1, 2, 3], [1, 0, 3]).trials) == (2 / 3, 3)


def test_a_style_is_found_in_noise_and_not_in_nothing():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(16, 200)) + 5 * rng.normal(size=200)
    rows = templates(centres[:, None] + 0.5 * rng.normal(size=(16, 3, 200)))
    truths = [k % 16 for k in range(160)]
    found = [guess([likeness(centres[k] + rng.normal(size=200), rows)], rng) for k in truths]
    blind = [guess([likeness(rng.normal(size=200), rows)], rng) for _ in truths]
    assert accuracy(found, truths).low > 0.9
    assert accuracy(blind, truths).low < 1 / 16 < accuracy(blind, truths).high


# Membership.


def test_members_score_by_the_cosine_of_their_own_step():
    # Steps (1, 0), (0, 2), (-1, 0); seen (3, 4): cosines 0.6, 0.8, -0.6; mean 4/15, deviation sqrt(86/225).
    found = scores(np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]), [np.array([3.0, 4.0])])
    deviation = ((0.36 + 0.64 + 0.36) / 3 - (0.8 / 3) ** 2) ** 0.5
    assert found == pytest.approx((np.array([0.6, 0.8, -0.6]) - 0.8 / 3) / deviation)
    assert scores(np.zeros((4, 2)), [np.zeros(2)]).tolist() == [0, 0, 0, 0]
    told = measure(np.array([2.0, 3.0]), np.array([0.0, 1.0, 2.5]))
    assert (told.auc.value, told.members, told.others) == (pytest.approx(5 / 6), 2, 3)


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
    assert found.shape == (3, sum(value.numel() for value in narrow.weights.values()))
    assert scores(found, [found[1]]).argmax() == 1
    assert scores(found, [np.sign(found[2])]).argmax() == 2  # as Adam's first step


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


# Releases.


@pytest.fixture
def lens(narrow):
    return Lens.of(narrow, make_method({"name": "fedbn"}), clip=1.0, noise=0.5, cohort=3)


def test_releases_show_what_they_say(lens, narrow):
    count = len(lens.norms)
    norms = sum(value.numel() for name, value in narrow.weights.items() if ".norm" in name)
    assert (lens.norms.sum(), lens.shared.sum()) == (norms, count - norms)  # fedbn shares all but the norms
    user = Trace(0, (0,), (np.ones(count, np.float32), np.full(count, 2, np.float32)), (np.zeros(count, np.float32),) * 2)
    other = Trace(1, (1,), (np.full(count, 3, np.float32),) * 2)
    seen = {one: lens.see(one, user, [other, other], seeded(1), rounds=2) for one in Release}
    assert [len(one) for one in seen[Release.NOTHING]] == [0, 0]
    assert [len(one) for one in seen[Release.NORMS]] == [norms] * 2
    assert [float(one.mean()) for one in seen[Release.FULL]] == [1, 2]
    assert [float(one.max()) for one in seen[Release.SUMMED]] == [7, 8]
    assert [len(one) for one in seen[Release.FILTER]] == [count]
    assert len(lens.see(Release.SHARED, user, [], seeded(1), rounds=1)) == 1


def test_the_noised_release_is_clipped_and_has_the_whole_noise(lens):
    count = int(lens.shared.sum())
    user = Trace(0, (0,), (np.full(len(lens.norms), 10, np.float32),))
    (seen,) = lens.see(Release.NOISED, user, [], seeded(2), rounds=1)
    # Clipped to 1: each number 1 / sqrt(count); around it noise of 0.5.
    assert float(seen.mean()) == pytest.approx(count**-0.5, abs=5 * 0.5 / count**0.5)
    assert float(seen.std()) == pytest.approx(0.5, rel=5 / (2 * count) ** 0.5)


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

    # A photo whose pixels tell their place: 128 x 96 has 12 squares of 32, each of another colour.
    for k in range(2):
        y, x = np.mgrid[0:96, 0:128]
        Image.fromarray(np.stack([x // 32 * 40, y // 32 * 40, x * 0 + 100 * k], -1).astype(np.uint8)).save(tmp_path / f"{k}.png")
    photos = Photos.open(tmp_path)
    found = tiles(photos, 20, 32, seed=0)
    assert found.shape == (20, 3, 32, 32)
    colours = {tuple(one[:, 16, 16].tolist()) for one in found}
    assert len(colours) == 20
    assert all(one.flatten(1).float().std(1).max() == 0 for one in found)
    one, other = halves(photos, 0)
    assert not set(one.paths) & set(other.paths)
    assert len(one) == len(other) == 1
