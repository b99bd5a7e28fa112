import onnx
import onnxruntime
import pytest
import torch

from fedstyle.export import inspect


def test_onnx_takes_any_size_in_multiples_of_four(exports, small):
    session = onnxruntime.InferenceSession(str(exports["fp32.onnx"]), providers=["CPUExecutionProvider"])
    for height, width in ((64, 64), (32, 100)):
        photo = torch.rand(1, 3, height, width)
        (result,) = session.run(["stylizedImage"], {"image": photo.numpy()})
        assert result.shape == (1, 3, height, width)
        assert float((torch.from_numpy(result) - small.stylise(photo)).abs().max()) < 0.01 / 255


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
