"""Each fault that an export can have is made on a copy of a good file, and `verify` has to find it."""

import dataclasses
import json
import re
import shutil

import coremltools as ct
import export_files as spoil
import numpy as np
import pytest
import torch

from fedstyle.errors import ConfigError, ExportError
from fedstyle.export import inspect, verify
from fedstyle.export.parity import _bounds, _difference
from fedstyle.export.program import Constant

CORE = ["fp16.mlpackage", "fp32.mlpackage", "fp32.mlmodel"]
ALL = [*CORE, "fp32.onnx"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def copy(exports, tmp_path):
    return lambda kind: spoil.copied(exports[kind], tmp_path)


@pytest.mark.parametrize("kind", ALL)
def test_a_good_export_is_faithful(exports, small, kind):
    parity = verify(exports[kind], small)
    assert parity.problems == ()
    assert parity.faithful
    # 15 convolutions with weight and bias, 14 norms with scale and shift
    assert parity.constants == 58
    assert parity.precision == kind[:4]
    assert parity.max <= (8 if kind.startswith("fp16") else 0.01)
    assert json.loads(json.dumps(parity.as_dict(), allow_nan=False))["faithful"] is True


FAULTS = {
    "swapped weights": (spoil.swap_weights, "down1.conv.weight", ALL),
    "swapped colours": (spoil.swap_colors, "colours are BGR", CORE),
    "no 1/255": (spoil.drop_scale, "the stored mul differs", CORE),
    "gamma": (spoil.stretch_gamma, "blocks.0.first.norm.weight", ALL),
    "cut short": (spoil.truncate, "cut short or altered", ALL),
    "renamed": (spoil.rename_output, "named 'picture'", ALL),
    "resized": (spoil.resize, "pixels|expected a float tensor", ALL),
    "relabelled": (spoil.relabel, "styleStrength is '7', the filter's is '5'", ALL),
}


@pytest.mark.parametrize(("fault", "kind"), [(fault, kind) for fault, (_, _, kinds) in FAULTS.items() for kind in kinds])
def test_a_fault_is_caught(copy, small, fault, kind):
    spoiled, (change, words, _) = copy(kind), FAULTS[fault]
    change(spoiled)
    parity = verify(spoiled, small)
    assert not parity.faithful
    assert re.search(words, " ".join(parity.problems)), parity.problems


def test_swapped_colours_show_in_the_picture_too(copy, small):
    spoiled = copy("fp16.mlpackage")
    spoil.swap_colors(spoiled)
    assert verify(spoiled, small).psnr < 50


@pytest.mark.parametrize("kind", ["fp32.mlpackage", "fp32.mlmodel"])
def test_a_missing_scale_shows_in_an_fp32_picture(copy, small, kind):
    spoiled = copy(kind)
    spoil.drop_scale(spoiled)
    assert verify(spoiled, small).max > 0.01


@pytest.mark.parametrize("kind", ["fp16.mlpackage", "fp32.mlpackage"])
def test_every_flipped_byte_of_a_weight_file_is_caught(copy, exports, small, kind):
    """The head, the heads of entries, data and the gaps between them; padding, too, holds nothing unseen."""
    spoiled = copy(kind)
    size = len(spoil.weight_file(spoiled).read_bytes())
    for offset in [0, 5, 30, 64, 70, 73, 81, 100, 128, size // 2, size - 1, *np.random.default_rng(0).integers(0, size, 4).tolist()]:
        spoil.flip(spoiled, offset)
        parity = verify(spoiled, small)
        assert not parity.faithful, offset
        spoil.flip(spoiled, offset)
    assert verify(spoiled, small).faithful


@pytest.mark.parametrize("kind", ["fp32.mlmodel", "fp32.onnx"])
def test_a_flipped_byte_among_the_weights_is_caught(copy, small, kind):
    spoiled, name = copy(kind), "blocks.1.first.conv.weight"
    spoil.flip(spoiled, spoiled.read_bytes().index(small.weights[name].numpy().tobytes()) + 100)
    assert name in " ".join(verify(spoiled, small).problems)


def test_a_weight_file_that_holds_more_is_caught(copy, small):
    spoiled = copy("fp16.mlpackage")
    file = spoil.weight_file(spoiled)
    file.write_bytes(file.read_bytes() + b"something else")
    assert not verify(spoiled, small).faithful


def test_a_filter_of_other_weights_or_another_shape_is_caught(exports, small):
    other = dataclasses.replace(small, weights={**small.weights, "up2.conv.bias": small.weights["up2.conv.bias"] + 1e-3})
    parity = verify(exports["fp16.mlpackage"], other)
    assert parity.constants == 57
    assert "up2.conv.bias" in parity.problems[0]


def test_a_consistently_wrong_size_is_caught(copy, small):
    """Input and output agree with each other, but not with the program."""
    spoiled = copy("fp16.mlpackage")

    def apply(spec):
        for feature in (*spec.description.input, *spec.description.output):
            feature.type.imageType.height = feature.type.imageType.width = 128

    spoil.change(spoiled, apply)
    assert "its program takes 64x64" in " ".join(verify(spoiled, small).problems)


def test_an_array_output_is_caught(copy, small):
    spoiled = copy("fp16.mlpackage")

    def apply(spec):
        spec.description.output[0].type.multiArrayType.shape.extend([1, 3, 64, 64])

    spoil.change(spoiled, apply)
    parity = verify(spoiled, small)
    assert "multiArray, expected an image" in " ".join(parity.problems)
    assert parity.as_dict()["psnr"] is None


def test_a_compressed_model_is_held_to_35_db(exports, small, tmp_path):
    import coremltools.optimize.coreml as cto

    from fedstyle.export.program import quiet

    with quiet():
        model = ct.models.MLModel(str(exports["fp16.mlpackage"]), skip_model_load=True)
        config = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
        path = tmp_path / "int8.mlpackage"
        cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config)).save(str(path))
    parity = verify(path, small)
    assert parity.precision == "compressed"
    assert parity.faithful, parity.problems
    assert 35 <= parity.psnr < 70
    # All convolutions but up2 and out have 512 weights or more, 13 of the 15: what is not compressed is still held to equality
    assert 45 <= parity.constants < 58
    assert "Int8" in inspect(path)["storage"]


@pytest.mark.parametrize("kind", CORE)
def test_an_unknown_operation_is_named(copy, small, kind):
    def apply(spec):
        if kind.endswith("mlmodel"):
            next(
                layer for layer in spec.neuralNetwork.layers if layer.WhichOneof("layer") == "activation"
            ).activation.softplus.SetInParent()
            return
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        next(step for step in block.operations if step.type == "relu").type = "softplus"

    spoiled = copy(kind)
    spoil.change(spoiled, apply)
    with pytest.raises(ExportError, match="operation 'softplus'"):
        verify(spoiled, small)


def test_what_is_no_model_is_an_error(small, tmp_path, exports):
    with pytest.raises(ExportError, match="does not exist"):
        verify(tmp_path / "none.mlpackage", small)
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(ExportError, match="no Core ML package"):
        verify(tmp_path / "empty.mlpackage", small)
    (tmp_path / "file.mlpackage").write_bytes(b"x")
    with pytest.raises(ExportError, match="a folder"):
        verify(tmp_path / "file.mlpackage", small)
    with pytest.raises(ConfigError, match="suffix"):
        verify(tmp_path / "a.tflite", small)
    for name in ("text.mlmodel", "text.onnx"):
        (tmp_path / name).write_bytes(b"not a model" * 99)
        assert not verify(tmp_path / name, small).faithful
        with pytest.raises(ExportError, match="cut short or altered"):
            inspect(tmp_path / name)


def test_a_package_without_weights_is_caught(copy, small):
    spoiled = copy("fp16.mlpackage")
    shutil.rmtree(spoil.weight_file(spoiled).parent)
    assert "missing" in verify(spoiled, small).problems[0]


def test_bounds():
    near = {"max": 0.01, "p9999": 0.01, "mean": 0.0, "psnr": 90.0, "peak": 10.0}
    assert _bounds("fp32", **near) == []
    assert len(_bounds("fp32", **near | {"max": 0.0101})) == 1
    half = {"max": 8.0, "p9999": 4.0, "mean": 0.1, "psnr": 50.0, "peak": 16_384.0}
    assert _bounds("fp16", **half) == []
    for key, value in {"max": 8.1, "p9999": 4.1, "psnr": 49.9, "peak": 16_385.0}.items():
        assert len(_bounds("fp16", **half | {key: value})) == 1
    assert _bounds("compressed", **half | {"psnr": 35.0, "max": 60.0}) == []
    assert len(_bounds("compressed", **half | {"psnr": 34.9})) == 1


def test_constants_are_compared_after_the_rounding_of_their_type():
    # fp16 has 11 bits: near 1 its numbers are 2^-10 apart, so 1.0004 rounds to 1 and 1.05 does not
    wanted = Constant("instance_norm gamma", np.float32([1.0004]), "norm.weight")
    assert _difference(Constant("", np.float16([1.0]), half=True), wanted) == ""
    assert "1 of 1 values" in _difference(Constant("", np.float16([1.05]), half=True), wanted)
    assert "by up to 0.0004" in _difference(Constant("", np.float32([1.0])), wanted)
    assert "shape" in _difference(Constant("", np.float32([1.0, 2.0])), wanted)
    assert "1 of 1 values" in _difference(Constant("", np.float32([np.nan])), wanted)


def test_a_number_that_fp16_rounds_to_zero_may_be_its_smallest_one():
    # coremltools stores 2**-24 with the sign of such a number in arrays of less than 400 values; 1e-8 and -1e-10 are under half of it
    wanted = Constant("instance_norm beta", np.array([1e-8, -1e-10, 0, 0.5], np.float32), "norm.bias")
    for stored in ([2**-24, -(2**-24), 0, 0.5], [0, 0, 0, 0.5]):
        assert not _difference(Constant("instance_norm beta", np.array(stored, np.float16), half=True), wanted)
    for stored in ([-(2**-24), 0, 0, 0.5], [0, 0, 2**-24, 0.5]):
        assert "in 1 of 4 values" in _difference(Constant("instance_norm beta", np.array(stored, np.float16), half=True), wanted)
