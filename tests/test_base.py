import json

import pytest
import torch

from fedstyle import params
from fedstyle.base import SHIPPED, Base, build
from fedstyle.config import Training
from fedstyle.errors import BaseError, ParamsError
from fedstyle.net import ARCHITECTURES, WIDTH


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
        ({"record": ["round", 3]}, "record is no table: it was altered"),
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


# ------------------------------------------------------------------------------------------------------ with a predictor, in fp16


def test_a_base_with_a_predictor_comes_back_as_it_was(predictive, tmp_path):
    predictive.save(tmp_path / "base")
    again = Base.load(tmp_path / "base")
    assert again.predicts
    assert (again.sha256, again.record) == (predictive.sha256, predictive.record)
    assert again.net().predictor.out.weight.shape == (388, 64)
    code = torch.linspace(-1, 1, len(again.weights["predictor.centre"]))
    assert params.fingerprint(again.transform(code)) == params.fingerprint(predictive.transform(code))
    assert params.fingerprint(again.transform()) == params.fingerprint({k: v for k, v in again.weights.items() if "predictor" not in k})


def test_a_predictor_that_does_not_fit_is_an_error(predictive):
    with pytest.raises(ParamsError, match=r"1 tensors are missing, 'predictor.out.bias' first"):
        build("cnnLite", "reflect", {name: value for name, value in predictive.weights.items() if name != "predictor.out.bias"})
    with pytest.raises(ParamsError, match=r"'predictor.out.bias' has shape \(3,\), expected \(388,\)"):
        build("cnnLite", "reflect", {**predictive.weights, "predictor.out.bias": torch.zeros(3)})
    with pytest.raises(ParamsError, match=r"tensors are missing, 'predictor.hidden.bias' first"):
        build("cnnLite", "reflect", {**Base.new(width=4).weights, "predictor.centre": torch.zeros(416)})


def test_a_base_may_lie_in_fp16_and_is_the_same_base(predictive, tmp_path):
    predictive.save(tmp_path / "half", half=True)
    predictive.save(tmp_path / "whole")
    stored = params.load(tmp_path / "half" / "base.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    sizes = [(tmp_path / kind / "base.safetensors").stat().st_size for kind in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    half, whole = (Base.load(tmp_path / kind) for kind in ("half", "whole"))
    assert {value.dtype for value in half.weights.values()} == {torch.float32}
    # The identity is that of the widened weights, whatever the type on disk.
    assert half.sha256 == whole.sha256 == json.loads((tmp_path / "half" / "base.json").read_text())["base_sha256"]


def test_fp16_never_changes_a_weight_unasked(base, tmp_path):
    with pytest.raises(BaseError, match=r"the weights are not all fp16 numbers: save base.halved\(\)"):
        base.save(tmp_path / "base", half=True)
    assert not (tmp_path / "base").exists()
    base.halved().save(tmp_path / "base", half=True)
    again = Base.load(tmp_path / "base")
    assert again.sha256 == base.halved().sha256 != base.sha256
    assert again.record == base.record
    # 1/3 has eleven bits in fp16: 1365/4096.
    third = Base(base.arch, base.padding, {**base.weights, "out.conv.bias": torch.full((3,), 1 / 3)})
    assert third.halved().weights["out.conv.bias"].tolist() == [1365 / 4096] * 3


# ----------------------------------------------------------------------------------------------------------- what fedstyle carries


def test_the_base_that_fedstyle_carries_is_found_by_its_architecture(shipped):
    found = Base.shipped("cnnLite")
    assert (found.sha256, found.record) == (shipped.sha256, shipped.record)
    assert Base.shipped().sha256 == shipped.sha256
    with pytest.raises(BaseError, match=r"fedstyle carries no base for 'cnn': give the folder of another base, or start from nothing"):
        Base.shipped("cnn")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_carried_base_is_whole(arch):
    if not (SHIPPED / arch).is_dir():
        pytest.skip(f"no base for {arch} is there yet")
    base = Base.shipped(arch)
    assert (base.arch, base.net().width) == (arch, WIDTH[arch])
    assert base.predicts
    assert {value.dtype for value in params.load(SHIPPED / arch / "base.safetensors").values()} == {torch.float16}
    assert base.record.keys() - {"mean_of_last", "predictor"} == {"strategy", "seed", "stages", "personal"}
    assert base.record.get("mean_of_last", 1) <= len(base.record["stages"])
    assert all(stage.keys() == {"method", "rounds", "cohort", "crops", "features"} for stage in base.record["stages"])
    Training.for_base(base.record)
    assert "/" not in json.dumps(base.record)  # no path
