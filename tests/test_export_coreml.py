"""Conversion to Core ML, what `inspect` shows of it, and the evaluator's operations by hand."""

import dataclasses
import errno
import subprocess
import sys

import coremltools as ct
import export_files as spoil
import numpy as np
import pytest
import torch

from fedstyle.errors import ConfigError, ExportError, OutputError
from fedstyle.export import Sizes, coreml, export, inspect, verify
from fedstyle.export.evaluator import OPERATIONS, run
from fedstyle.export.program import Program, Ref, Step
from fedstyle.export.testcard import testcard as card


def test_importing_the_package_loads_no_converter():
    code = "import sys, fedstyle.export; print({'coremltools', 'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_package_shows_what_xcode_shows(exports):
    shown = inspect(exports["fp16.mlpackage"])
    assert shown["format"] == "ML program"
    assert shown["storage"] == "Float16"
    assert shown["availability"] == "iOS 15, macOS 12 or later"
    assert shown["bytes"] == sum(file.stat().st_size for file in exports["fp16.mlpackage"].rglob("*") if file.is_file())
    for side, name in (("inputs", "image"), ("outputs", "stylizedImage")):
        (feature,) = shown[side]
        words = feature.pop("description")
        assert words.endswith(".")
        assert feature == {"name": name, "type": "image", "color": "RGB", "height": 64, "width": 64}
    own = shown["metadata"]["userDefined"]
    assert {key: own[key] for key in ("algorithm", "styleStrength", "textelDensity")} == {
        "algorithm": "cnnLite",
        "styleStrength": "5",
        "textelDensity": "256",
    }
    # 15 convolutions each with a pad, 14 norms, ReLU after 4 of the down and up ones and the first of each of 5 blocks
    counts = {"conv": 15, "pad": 15, "instance_norm": 14, "relu": 9, "add": 5, "upsample_nearest_neighbor": 2, "sigmoid": 1}
    assert shown["operations"] == dict(sorted({**counts, "mul": 2, "clip": 1, "cast": 2}.items()))


def test_the_classic_form_is_a_neural_network(exports):
    shown = inspect(exports["fp32.mlmodel"])
    assert (shown["format"], shown["storage"], shown["availability"]) == ("neural network", "Float32", "iOS 13, macOS 10.15 or later")
    assert shown["operations"]["batchnorm"] == 14


@pytest.mark.parametrize("kind", ["fp16.mlpackage", "fp32.mlmodel", "fp32.onnx"])
def test_an_export_names_no_place_on_this_machine(exports, kind):
    import getpass
    from pathlib import Path

    path = exports[kind]
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    content = b"".join(file.read_bytes() for file in files)
    places = [str(Path(coreml.__file__).parents[2]), str(Path.home()), str(path.parent), "site-packages", ".py", getpass.getuser() + "/"]
    assert [place for place in places if place.encode() in content] == []
    assert [file.name for file in files if file.suffix == ".json"] in (["Manifest.json"], [])


@pytest.mark.parametrize(
    ("padding", "suffix"),
    [
        ("zeros", ".mlmodel"),
        ("replicate", ".mlpackage"),
        pytest.param("zeros", ".mlpackage", marks=pytest.mark.soak),
        pytest.param("replicate", ".mlmodel", marks=pytest.mark.soak),
    ],
)
def test_every_padding_converts_in_silence(tmp_path, capfd, padding, suffix):
    small = spoil.small_filter(padding)
    path = export(small, tmp_path / f"a{suffix}", size=(64, 96))
    assert verify(path, small).problems == ()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ranged", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_several_sizes(tmp_path, small, ranged):
    sizes = Sizes(((64, 64), (96, 128)), ranged=ranged)
    assert ("Neural Engine" in (sizes.warning or "")) == ranged
    path = export(small, tmp_path / "a.mlpackage", size=sizes)
    assert verify(path, small).problems == ()
    (feature,) = inspect(path)["inputs"]
    assert (feature["height"], feature["width"]) == ((96, 128) if ranged else (64, 64))
    if ranged:
        assert (feature["smallest"], feature["largest"]) == ([64, 64], [96, 128])
    else:
        assert feature["sizes"] == [[64, 64], [96, 128]]


def test_sizes_that_cannot_be():
    for listed, ranged in [
        (((64, 64),), False),
        (((64, 64), (64, 64)), False),
        (((64, 66), (64, 64)), False),
        (((128, 64), (64, 64)), True),
    ]:
        with pytest.raises(ConfigError):
            Sizes(listed, ranged=ranged)
    assert Sizes(((256, 128), (1024, 256)), ranged=True).default == (512, 256)


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, small):
    sizes = Sizes(((64, 64), (128, 128)))
    for name, options in [
        ("a.pb", {}),
        ("a.mlpackage", {"size": 66}),
        ("a.mlpackage", {"size": 8}),
        ("a.mlpackage", {"precision": "int8"}),
        ("a.mlmodel", {"precision": "fp16"}),
        ("a.onnx", {"size": sizes}),
        ("a.mlmodel", {"size": sizes}),
        ("a.mlmodel", {"metadata": {"colour": "red"}}),
    ]:
        with pytest.raises(ConfigError) as caught:
            export(small, tmp_path / name, **options)
        assert "\n" not in str(caught.value)
    (tmp_path / "b.mlpackage").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        export(small, tmp_path / "b.mlpackage")
    assert [item.name for item in tmp_path.iterdir()] == ["b.mlpackage"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[MIL FileWriter]: Unknown error")])
def test_a_full_disk_leaves_nothing(tmp_path, small, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(coreml, "_convert", fail)
    with pytest.raises(OutputError, match="full or read-only"):
        export(small, tmp_path / "a.mlpackage", size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_saving_leaves_nothing(tmp_path, small, monkeypatch, exports):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    ready = ct.models.MLModel(str(exports["fp16.mlpackage"]), skip_model_load=True)
    monkeypatch.setattr(coreml, "_convert", lambda *args: ready)
    monkeypatch.setattr(ct.models.MLModel, "save", fail)
    with pytest.raises(OutputError, match="full or read-only"):
        export(small, tmp_path / "a.mlpackage", size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_is_one_line(tmp_path, small, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("no such thing\nand a long tale about it")

    monkeypatch.setattr(coreml, "_convert", fail)
    with pytest.raises(ExportError, match="no such thing") as caught:
        export(small, tmp_path / "a.mlmodel", size=64)
    assert "tale" not in str(caught.value)


def test_metadata_can_be_set(tmp_path, small, monkeypatch, exports):
    ready = ct.models.MLModel(str(exports["fp32.mlmodel"]), skip_model_load=True)
    monkeypatch.setattr(coreml, "_convert", lambda *args: ready)
    about = {"author": "Ada", "license": "CC-BY-4.0", "version": "2", "description": "Waves"}
    shown = inspect(export(small, tmp_path / "a.mlmodel", size=64, metadata=about))["metadata"]
    assert {key: shown[key] for key in about} == about


def test_fp16_is_refused_where_activations_come_near_its_end(tmp_path, small):
    # the scale of the last norm is at least 0.5, so its output reaches 16,384 when it is multiplied by a million
    weights = {**small.weights, "up2.norm.weight": small.weights["up2.norm.weight"] * 1e6}
    hot = dataclasses.replace(small, weights=weights)
    with pytest.raises(ExportError, match="65,504"):
        export(hot, tmp_path / "a.mlpackage", size=64)
    assert list(tmp_path.iterdir()) == []
    assert coreml.peak(small, (64, 64)) < 1000


def test_activations_inside_the_network_are_seen_at_every_size(small):
    # a weight of a few thousand fits fp16, and normed values of 3 and more make 16,384 of it; a sigmoid ends the network at 1
    warm = dataclasses.replace(
        small, weights={**small.weights, "up2.norm.weight": torch.full_like(small.weights["up2.norm.weight"], 8000.0)}
    )
    for side in (64, 256):  # the second is computed by `fast` elsewhere
        assert coreml.peak(warm, (side, side)) > 16_384


def _step(op, x, half=False, **args):
    return run(Program((Step(op, {"x": Ref("in"), **args}, "out", half),), "in", "out"), torch.tensor(x)[None, None])


def test_operations_by_hand():
    row = [[1.0, 2.0, 3.0]]
    pads = {"pad": [0, 0, 0, 0, 0, 0, 1, 2], "constant_val": 7.0}
    assert _step("pad", row, mode="reflect", **pads)[0].tolist() == [[[[2, 1, 2, 3, 2, 1]]]]
    assert _step("pad", row, mode="replicate", **pads)[0].tolist() == [[[[1, 1, 2, 3, 3, 3]]]]
    assert _step("pad", row, mode="constant", **pads)[0].tolist() == [[[[7, 1, 2, 3, 7, 7]]]]
    up = _step("upsample_nearest_neighbor", row, scale_factor_height=2.0, scale_factor_width=2.0)[0]
    assert up.tolist() == [[[[1, 1, 2, 2, 3, 3]] * 2]]
    assert _step("clip", row, alpha=1.5, beta=2.5)[0].tolist() == [[[[1.5, 2, 2.5]]]]
    # mean 2, variance (1 + 0 + 1) / 3 = 2/3; with epsilon 1/3 the divisor is 1
    norm = _step("instance_norm", row, gamma=np.float32([10]), beta=np.float32([5]), epsilon=1 / 3)[0]
    assert norm.flatten().tolist() == pytest.approx([-5, 5, 15])
    # 1*3 + 2*5 and 2*3 + 3*5, plus 1
    kernel = {"weight": np.float32([[[[3, 5]]]]), "bias": np.float32([1]), "strides": [1, 1], "dilations": [1, 1], "groups": 1}
    assert _step("conv", row, pad_type="valid", **kernel)[0].tolist() == [[[[14, 22]]]]
    # a column of zeros on the left: 0*3 + 1*5 + 1
    assert _step("conv", row, pad_type="custom", pad=[0, 0, 1, 0], **kernel)[0].tolist() == [[[[6, 14, 22]]]]
    assert _step("sub", row, y=np.float32(1))[0].tolist() == [[[[0, 1, 2]]]]


def test_half_rounds_after_each_operation_and_the_peak_is_kept():
    # from 2048 on, fp16 holds even numbers only: 2048 + 1 is a tie and goes to 2048
    result, peak = _step("add", [[2047.0, 2048.0, -3000.0]], half=True, y=np.float32(1))
    assert result.flatten().tolist() == [2048, 2048, -3000]
    assert peak == 3000
    assert torch.isinf(_step("mul", [[60000.0]], half=True, y=np.float32(2))[0]).all()


def test_an_operation_that_is_none_is_named():
    with pytest.raises(ExportError, match="'gelu'"):
        _step("gelu", [[1.0]])
    assert "gelu" not in OPERATIONS


def test_the_test_card_has_dark_bright_and_detail():
    picture = card(64, 96)
    assert picture.shape == (1, 3, 64, 96)
    assert (picture == picture.round()).all()
    assert picture.min() == 0
    assert picture.max() == 255
    assert torch.equal(picture, card(64, 96))


def test_a_missing_extra_is_named(tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r"pip install 'fedstyle\[coreml\]'"):
        export(small, tmp_path / "a.mlpackage", size=64)
