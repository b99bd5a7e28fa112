import json

import pytest
import torch

from fedstyle.base import Base, build
from fedstyle.errors import BaseError, ParamsError


@pytest.fixture
def saved(base, tmp_path):
    base.save(tmp_path / "base")
    return tmp_path / "base"


def alter(folder, **values):
    head = json.loads((folder / "base.json").read_text())
    (folder / "base.json").write_text(json.dumps({key: value for key, value in {**head, **values}.items() if value != "gone"}))


def test_a_base_comes_back_as_it_was(base, saved):
    again = Base.load(saved)
    assert (again.arch, again.padding, again.sha256, again.record) == ("cnnLite", "reflect", base.sha256, {"seed": 0, "round": 0})
    assert Base.load(str(saved)).sha256 == base.sha256
    assert sorted(path.name for path in saved.iterdir()) == ["base.json", "base.safetensors"]
    assert json.loads((saved / "base.json").read_text())["base_sha256"] == base.sha256


def test_the_record_takes_no_part_in_the_identity(base):
    assert Base(base.arch, base.padding, base.weights, {"strategy": "FedAvg"}).sha256 == base.sha256


def test_a_newer_base_takes_the_place_of_an_older_one(saved):
    other = Base.new(width=4, seed=1)
    other.save(saved)
    assert Base.load(saved).sha256 == other.sha256
    assert [path.name for path in saved.parent.iterdir()] == ["base"]


def test_the_network_holds_the_weights_and_is_a_copy(base):
    before = base.sha256
    net = base.net()
    assert all(torch.equal(value, base.weights[name]) for name, value in net.named_parameters())
    with torch.no_grad():
        net.down1.conv.weight.fill_(0)
    assert base.sha256 == before


def test_a_half_precision_base_is_widened(base):
    net = build(base.arch, base.padding, {name: value.half() for name, value in base.weights.items()})
    assert {value.dtype for value in net.parameters()} == {torch.float32}


def test_tensors_of_another_architecture_are_errors(base):
    with pytest.raises(ParamsError, match=r"no cnn network: 'down1.conv.weight' is missing"):
        build("cnn", "reflect", {})
    with pytest.raises(ParamsError, match="no cnn network"):
        build("cnn", "reflect", {"down1.conv.weight": torch.zeros(3)})
    with pytest.raises(ParamsError, match=r"the cnnLite network: 1 tensors are missing, 'out.conv.bias' first"):
        build("cnnLite", "reflect", {name: value for name, value in base.weights.items() if name != "out.conv.bias"})
    with pytest.raises(ParamsError, match=r"'up2.norm.bias' has shape"):
        build("cnnLite", "reflect", {**base.weights, "up2.norm.bias": torch.zeros(1)})


def test_what_is_no_base_is_an_error(tmp_path, base):
    with pytest.raises(BaseError, match=r"is no base: it has no readable base.json. Give a folder that fedstyle wrote as a base"):
        Base.load(tmp_path)
    (tmp_path / "base.json").write_text("{")
    with pytest.raises(BaseError, match=r"no readable base.json"):
        Base.load(tmp_path)
    for text in ("[]", "{}", '{"format": "fedstyle-filter-1"}'):
        (tmp_path / "base.json").write_text(text)
        with pytest.raises(BaseError, match=r"base.json is not of the format fedstyle-base-1"):
            Base.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "cnn2"}, "unknown architecture 'cnn2'"),
        ({"padding": "gone"}, "base.json has no entry 'padding': it was altered"),
        ({"file_sha256": "gone"}, "base.json has no entry 'file_sha256'"),
        ({"file_sha256": "0" * 64}, "altered or damaged"),
        ({"file_sha256": None}, "altered or damaged"),
        ({"base_sha256": "0" * 64}, "the weights are not those of base 000000000000: take a fresh copy"),
        ({"base_sha256": "gone"}, "the weights are not those of base None"),
    ],
)
def test_an_altered_description_is_an_error(saved, change, says):
    alter(saved, **change)
    with pytest.raises(BaseError, match=says):
        Base.load(saved)


def test_an_altered_or_missing_weight_file_is_an_error(saved):
    file = saved / "base.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BaseError, match=r"base.safetensors was altered or damaged"):
        Base.load(saved)
    file.unlink()
    with pytest.raises(BaseError, match=r"cannot read .*base.safetensors: No such file"):
        Base.load(saved)
