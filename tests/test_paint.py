import hashlib
import itertools

import numpy as np
import pytest
from PIL import Image

from fedstyle.errors import StyleError
from fedstyle.paint import PAINTERS, _painted, paint
from fedstyle.paint.canvas import averaged, cells, ease, noise, plane, ramp, streams


def array(image):
    return np.asarray(image, np.float64) / 255


@pytest.fixture(scope="module")
def gallery():
    return {name: paint(name, side=128) for name in PAINTERS}


def test_there_are_enough_painters():
    assert len(PAINTERS) >= 10
    assert list(PAINTERS)[:4] == ["mosaic", "waves", "brush", "glass"]


@pytest.mark.parametrize("name", PAINTERS)
def test_a_painter_is_deterministic_and_follows_its_seed(name, gallery):
    again = _painted.__wrapped__(name, 128, 0)  # anew, not as it is kept
    assert again.mode == "RGB"
    assert again.size == (128, 128)
    np.random.seed(0)
    assert again.tobytes() == gallery[name].tobytes()
    paint(name, side=128).paste((0, 0, 0), (0, 0, 128, 128))  # a caller's picture is its own
    assert paint(name, side=128).tobytes() == again.tobytes()
    other = array(paint(name, side=128, seed=1))
    assert np.abs(other - array(gallery[name])).mean() > 0.04
    assert np.abs(other.mean((0, 1)) - array(gallery[name]).mean((0, 1))).max() > 0.01  # another palette


@pytest.mark.parametrize("name", PAINTERS)
def test_a_larger_picture_shows_the_same_strokes(name, gallery):
    # Half-tone dots and thin lines shift by a fraction of a pixel, so compare what is left at 20 x 20, against another picture's distance.
    def rough(image):
        return array(image.resize((20, 20), Image.Resampling.BOX))

    small = rough(gallery[name])
    large = rough(paint(name, side=192))
    assert np.abs(small - large).mean() < 0.5 * np.abs(small - small[::-1, ::-1]).mean()


@pytest.mark.parametrize("name", PAINTERS)
def test_a_style_has_texture_at_fine_and_middle_scales(name):
    side = 256
    grey = array(paint(name, side=side).convert("L"))

    def blurred(pixels):
        n = side // pixels
        return grey.reshape(n, pixels, n, pixels).mean((1, 3)).repeat(pixels, 0).repeat(pixels, 1)

    assert (grey - blurred(4)).std() > 0.04  # up to 8 units wide
    assert (blurred(4) - blurred(32)).std() > 0.015  # 8 to 64 units
    flat = (grey - blurred(8)).reshape(32, 8, 32, 8).std((1, 3)) < 0.008
    assert flat.mean() < 0.15  # few squares of 16 units are empty


def test_painters_differ_from_each_other(gallery):
    def look(image):  # mean colour, and the strength and direction of edges: what a Gram matrix would see first
        pixels = array(image)
        down, across = np.diff(pixels.mean(2), axis=0), np.diff(pixels.mean(2), axis=1)
        return np.array([*pixels.mean((0, 1)), *pixels.std((0, 1)), 2 * down.std(), 2 * across.std()])

    for (a, first), (b, second) in itertools.combinations(gallery.items(), 2):
        assert np.abs(look(first) - look(second)).max() > 0.03, (a, b)
    assert len({hashlib.sha256(image.tobytes()).digest() for image in gallery.values()}) == len(PAINTERS)


def test_an_unknown_painter_names_the_nearest_and_all():
    with pytest.raises(StyleError) as caught:
        paint("mosiac")
    assert str(caught.value) == f"no painter is called 'mosiac': did you mean 'mosaic'? There are {', '.join(PAINTERS)}"


# ----------------------------------------------------------------------------------------------------------------- canvas


def test_the_plane_has_512_units_for_any_side():
    x, y = plane(4)
    assert x[0].tolist() == [64, 192, 320, 448]  # centres of four pixels of 128 units
    assert y[:, 0].tolist() == [64, 192, 320, 448]


def test_noise_is_even_and_does_not_depend_on_the_side():
    small, large = (noise(np.random.default_rng(1), side, 128) for side in (64, 256))
    assert abs(small.mean()) < 1e-5
    assert abs(small.std() - 1) < 1e-4
    assert np.abs(large.reshape(64, 4, 64, 4).mean((1, 3)) - small).max() < 0.05


def test_a_ramp_blends_between_its_colours():
    palette = np.array([[0, 0, 0], [1, 0.5, 0], [1, 1, 1]], np.float32)
    assert np.allclose(ramp(palette, np.array([0, 0.25, 0.5, 1])), [[0, 0, 0], [0.5, 0.25, 0], [1, 0.5, 0], [1, 1, 1]])
    assert ease(0, 2, np.array([-1, 0, 0.5, 1, 2, 3])).tolist() == [0, 0, 0.15625, 0.5, 1, 1]  # t = 1/4: 1/16 x (3 - 1/2)


def test_cells_without_jitter_are_squares_with_exact_edges():
    x, y = plane(512)
    number, edge = cells(np.random.default_rng(0), x, y, 32, jitter=0)
    inside = number[100:400, 100:400]
    assert 81 <= len(np.unique(inside)) <= 121  # 300 / 32 = 9.4 squares each way, and those that are cut
    # The distance to the side of a square is 0 at its border and half of 32 at its centre.
    assert edge.min() < 1
    assert 15 < edge.max() <= 16
    assert np.unique(np.bincount(inside.ravel())[np.unique(inside)]).max() == 32 * 32


def test_averaged_gives_each_cell_its_mean():
    picture = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]]], np.float32)
    result = averaged(picture, np.array([[0, 0], [2, 3]]))
    assert result.tolist() == [[[0.5, 0, 0], [0.5, 0, 0]], [[0, 1, 0], [0, 0, 1]]]


def test_streams_follow_the_angle():
    angle = np.full((8, 8), np.pi / 2)  # down
    path = streams(angle, np.array([[10.0, 20.0]]), 3, 5.0)
    assert np.allclose(path, [[[10, 20], [10, 25], [10, 30], [10, 35]]], atol=1e-4)
