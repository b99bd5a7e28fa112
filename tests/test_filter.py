import json

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from fedstyle.errors import FilterError, OutputError
from fedstyle.filter import Filter


@pytest.fixture
def filter(base):
    return Filter(base.arch, base.padding, base.weights, {"strength": 5, "loss": {"layers": [1.0, 1.0, 1.0]}})


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 4), (5, 4), (8, 4), (9, 30), (97, 64), (2, 300)])
def test_an_image_of_any_size_comes_back_in_its_size(filter, size):
    result = filter(Image.new("RGB", size, "teal"))
    assert (result.size, result.mode) == (size, "RGB")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_an_image_of_any_kind_is_taken_as_rgb(filter, mode):
    image = picture(0).convert(mode)
    assert filter(image).tobytes() == filter(image.convert("RGB")).tobytes()


def test_the_result_is_the_network_rounded_to_bytes(filter, base):
    image = picture(1, (24, 16))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        y = base.net()(x)[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(filter(image)) - y * 255).max() <= 0.5 + 1e-3


def test_a_margin_that_is_cut_again_does_not_shift_the_image(filter):
    x = torch.rand(1, 3, 30, 46, generator=torch.Generator().manual_seed(0))
    by_hand = torch.cat([x, x[..., -1:, :], x[..., -1:, :]], 2)
    by_hand = torch.cat([by_hand, by_hand[..., -1:], by_hand[..., -1:]], 3)
    assert torch.equal(filter.stylise(x), filter.stylise(by_hand)[..., :30, :46])


def test_a_large_image_is_stylised_small_and_comes_back_in_its_size(filter, monkeypatch):
    seen = []
    monkeypatch.setattr(filter.net, "forward", lambda x: seen.append(x.shape) or x)
    assert filter(picture(0, (1200, 800))).size == (1200, 800)
    # 1200 * 512 / 800 = 768: both are multiples of 4 already
    assert seen == [(1, 3, 512, 768)]
    assert filter(picture(0, (768, 512))).tobytes() == picture(0, (768, 512)).tobytes()  # nothing is added to one that is not large


@pytest.mark.parametrize(("able", "size", "half"), [(True, (32, 24), True), (True, (36, 24), False), (False, (32, 24), False)])
def test_bfloat16_is_for_processors_that_have_it_and_pictures_that_are_not_large(able, size, half, filter, monkeypatch):
    monkeypatch.setattr("fedstyle.filter.has_fast_bf16", lambda device: able)
    monkeypatch.setattr("fedstyle.filter.LARGE", 32 * 24)
    seen = []
    monkeypatch.setattr(filter.net, "forward", lambda x: seen.append(torch.is_autocast_enabled("cpu")) or x)
    filter(picture(0, size))
    assert seen == [half]


def test_exif_orientation_is_applied_and_nothing_of_it_stays(filter):
    image = picture(0, (40, 30))
    image.getexif()[0x0112] = 6
    assert filter(image).tobytes() == filter(picture(0, (40, 30)).transpose(Image.Transpose.ROTATE_270)).tobytes()
    assert filter(image).info == {}


def test_a_filter_comes_back_as_it_was_and_says_nothing_of_time_or_place(filter, tmp_path):
    filter.save(tmp_path / "a")
    filter.save(tmp_path / "b" / "c")
    for name in ("filter.json", "filter.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / "c" / name).read_bytes()
    again = Filter.load(tmp_path / "a")
    assert (again.arch, again.padding, again.sha256, again.facts) == (filter.arch, filter.padding, filter.sha256, filter.facts)
    assert again(picture(2)).tobytes() == filter(picture(2)).tobytes()
    assert str(tmp_path) not in (tmp_path / "a" / "filter.json").read_text()


def test_a_filter_is_not_overwritten_unless_told_to(filter, tmp_path):
    filter.save(tmp_path / "a")
    with pytest.raises(OutputError, match="exists already"):
        filter.save(tmp_path / "a")
    filter.save(tmp_path / "a", replace=True)
    assert Filter.load(tmp_path / "a").sha256 == filter.sha256


def test_what_is_no_filter_or_was_altered_is_an_error(filter, base, tmp_path):
    with pytest.raises(FilterError, match=r"is no filter: it has no readable filter.json"):
        Filter.load(tmp_path)
    base.save(tmp_path / "base")
    with pytest.raises(FilterError, match="is no filter"):
        Filter.load(tmp_path / "base")
    filter.save(tmp_path / "a")
    head = json.loads((tmp_path / "a" / "filter.json").read_text())
    (tmp_path / "a" / "filter.json").write_text(json.dumps(head | {"architecture": "resnet"}))
    with pytest.raises(FilterError, match="unknown architecture 'resnet'"):
        Filter.load(tmp_path / "a")
    (tmp_path / "a" / "filter.json").write_text(json.dumps(head))
    tensors = bytearray((tmp_path / "a" / "filter.safetensors").read_bytes())
    tensors[len(tensors) // 2] ^= 64
    (tmp_path / "a" / "filter.safetensors").write_bytes(tensors)
    with pytest.raises(FilterError, match="altered or damaged"):
        Filter.load(tmp_path / "a")
