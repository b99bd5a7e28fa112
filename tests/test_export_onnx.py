import onnx
import onnxruntime
import pytest
import torch

from fedstyle import Base, Filter
from fedstyle.export import export, inspect, parity, verify

SIZES = [(64, 64), (32, 100), (100, 32), (20, 36), (16, 16), (28, 60), (196, 148)]
"""Multiples of 4, of 8 and not, tall, wide, and the smallest: cnnLite halves the picture in its first convolution, and once more after."""


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("arch", ["cnnLite", "cnn"])
def test_onnx_takes_any_size_in_multiples_of_four(exports, small, tmp_path, arch):
    path = exports["fp32.onnx"]
    if arch == "cnn":
        base = Base.new("cnn", seed=1, width=4)
        small = Filter(base.arch, base.padding, base.weights)
        path = export(small, tmp_path / "cnn.onnx")
        assert verify(path, small).problems == ()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        photo = torch.rand(1, 3, height, width)
        (result,) = session.run(["stylizedImage"], {"image": photo.numpy()})
        assert result.shape == (1, 3, height, width)
        assert result.min() >= 0
        assert result.max() <= 1
        assert float((torch.from_numpy(result) - small.stylise(photo)).abs().max()) < 0.01 / 255


def test_onnx_is_verified_at_a_larger_size_too(exports, small, monkeypatch):
    assert verify(exports["fp32.onnx"], small).faithful
    monkeypatch.setattr(parity, "ONNX_DRIFT", -1.0)
    assert "difference at 256x384 pixels" in " ".join(verify(exports["fp32.onnx"], small).problems)


def test_onnx_shows_its_tensors_and_metadata(exports):
    shown = inspect(exports["fp32.onnx"])
    (source,), (result,) = shown["inputs"], shown["outputs"]
    assert (source["name"], result["name"]) == ("image", "stylizedImage")
    assert source["type"] == result["type"] == "float tensor (1, 3, 4*h, 4*w)"
    assert shown["metadata"]["userDefined"] == {"algorithm": "cnnLite", "styleStrength": "5", "textelDensity": "256"}
    assert shown["operations"]["InstanceNormalization"] == 14
    assert shown["bytes"] == exports["fp32.onnx"].stat().st_size


def test_onnx_is_one_valid_file(exports):
    onnx.checker.check_model(str(exports["fp32.onnx"]), full_check=True)
    assert not list(exports["fp32.onnx"].parent.glob("*.data"))


@pytest.mark.parametrize("field", ["metadata_props", "doc_string"])
def test_onnx_carries_no_notes_of_the_machine(exports, field):
    model = onnx.load(exports["fp32.onnx"])
    assert [node.name for node in model.graph.node if getattr(node, field)] == []
