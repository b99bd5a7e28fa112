import numpy as np
import pytest
import torch
from PIL import Image

from fedstyle.errors import StyleError
from fedstyle.perceptual import gram, load_features
from fedstyle.style import Style, fitting


def test_strength_scales_the_style_weight_around_5(style_image):
    factors = {strength: Style(style_image, strength=strength).factor for strength in (1, 4, 5, 6, 10)}
    # 2 a step: 2^-4 = 1 / 16, 2^5 = 32
    assert factors == pytest.approx({1: 1 / 16, 4: 0.5, 5: 1.0, 6: 2.0, 10: 32.0})


def test_a_strength_of_none_is_chosen_later_and_counts_as_5_until_then(style_image):
    style = Style(style_image, strength=None)
    assert (style.strength, style.factor) == (None, 1.0)
    assert style.digest() != Style(style_image, strength=5).digest()


def test_the_fitting_strength_brings_the_content_loss_to_its_aim():
    # 5 - log2(content / 0.65) / 0.3, rounded: 0.65 is the aim; 0.8 is log2(1.231) = 0.300 octaves over it, so a step down;
    # 0.52 is 0.322 under it, a step up; 1.3 is an octave over it, which would be 3.3 steps, and 3 is the least.
    assert [fitting(content) for content in (0.65, 0.8, 0.52, 1.3, 100.0, 0.1, 0.0)] == [5, 4, 6, 3, 3, 7, 7]
    assert fitting(float("nan")) == 7


def test_density_is_the_shorter_side_that_the_network_sees(style_image):
    assert Style(style_image).pixels.shape == (1, 3, 256, 256)
    assert Style(style_image, density=64).pixels.shape == (1, 3, 64, 64)
    assert Style(style_image.resize((100, 300)), density=128).pixels.shape == (1, 3, 384, 128)
    assert Style(style_image.resize((301, 100)), density=64).pixels.shape == (1, 3, 64, 192)  # 301 * 0.64 = 192.64, even
    seen = Style(style_image, density=64).pixels[0].permute(1, 2, 0).numpy()
    assert np.allclose(seen * 255, np.asarray(style_image), atol=1e-3)


def test_a_density_that_is_no_multiple_of_4_is_rounded_down_with_a_notice(style_image):
    with pytest.warns(UserWarning, match="style density 131 is no multiple of 4: taken as 128"):
        style = Style(style_image, density=131)
    assert style.density == 128
    assert style.digest() == Style(style_image, density=128).digest()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strength": 0}, "style strength 0: give a whole number from 1 to 10"),
        ({"strength": 11}, "style strength 11"),
        ({"strength": 5.0}, "style strength 5.0"),
        ({"strength": True}, "style strength True"),
        ({"density": 60}, "style density 60: give a number of pixels from 64 to 1024"),
        ({"density": 1028}, "style density 1028"),
        ({"density": "256"}, "style density '256'"),
    ],
)
def test_values_out_of_range_are_errors(style_image, options, says):
    with pytest.raises(StyleError, match=says):
        Style(style_image, **options)


@pytest.mark.parametrize("size", [(1, 1), (63, 200), (0, 5), (64, 600)])
def test_an_image_that_is_too_small_or_too_narrow_is_an_error(size):
    with pytest.raises(StyleError, match=f"the style image has {size[0]}x{size[1]} pixels: give one with 64"):
        Style(Image.new("RGB", size))


def test_a_path_is_opened_and_a_file_that_is_no_image_is_an_error(style_image, tmp_path):
    style_image.save(tmp_path / "style.png")
    opened = Style(tmp_path / "style.png")
    assert opened.digest() == Style(str(tmp_path / "style.png")).digest() == Style(style_image).digest()
    (tmp_path / "style.png").write_text("hello")
    for name in ("style.png", "nowhere.png"):
        with pytest.raises(StyleError, match=name):
            Style(tmp_path / name)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(StyleError, match="too small"):
        Style(tmp_path / "dot.png")


def test_targets_are_the_gram_matrices_of_the_taps(style_image):
    features = load_features("tiny")
    style = Style(style_image, density=64)
    targets = style.targets(features)
    assert [target.shape for target in targets] == [(48, 48), (64, 64), (96, 96)]
    assert all(torch.equal(target, gram(tap)[0]) for target, tap in zip(targets, features(style.pixels), strict=True))
    assert not any(target.requires_grad for target in targets)


def test_the_digest_tells_images_and_parameters_apart(style_image):
    flipped = style_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    styles = [Style(style_image), Style(flipped), Style(style_image, strength=6), Style(style_image, density=128)]
    assert len({style.digest() for style in styles}) == 4
    assert Style(style_image).digest() == Style(style_image.copy().convert("RGBA")).digest()
