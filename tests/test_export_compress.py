"""Compressed exports: smaller, run before they stand, and refused under 35 dB.

Measured with the Great Wave as the shipped cnnLite predicts it: fp16 880,019 bytes and 68.2 dB, int8 473,922 and 54.5 dB (both at 512
pixels), palette4 330,178 and 37.9 dB (at 256). cnn was not measured.
"""

import json

import coremltools as ct
import pytest

from fedstyle.errors import ConfigError, ExportError
from fedstyle.export import Unfaithful, coreml, export, inspect, verify
from fedstyle.filter import Filter


@pytest.fixture
def ready(exports, monkeypatch):
    """No conversion: the small filter's fp16 package is taken as what the converter gave."""
    monkeypatch.setattr(coreml, "_convert", lambda *_: ct.models.MLModel(str(exports["fp16.mlpackage"]), skip_model_load=True))


def bytes_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_int8_is_smaller_and_bounded(ready, tmp_path, small, exports):
    path = export(small, tmp_path / "a.mlpackage", size=64, compress="int8")
    parity = verify(path, small)
    assert parity.faithful, parity.problems
    assert parity.precision == "compressed"
    assert 35 <= parity.psnr < 80
    assert "Int8" in inspect(path)["storage"]
    weights = [(one / coreml.INSIDE / "weights" / "weight.bin").stat().st_size for one in (path, exports["fp16.mlpackage"])]
    assert weights[0] < 0.75 * weights[1]  # 13 of 15 convolutions at half; heads of 64 bytes weigh in a net this small
    assert [file.name for file in path.rglob("*.json")] == ["Manifest.json"]


def test_palettes_are_for_the_residual_blocks(tmp_path, small):
    """Weights that have 15 values only lose nothing by a palette of 16."""
    pytest.importorskip("sklearn")
    step = {name: float(value.abs().max()) / 7 for name, value in small.weights.items() if name.endswith("conv.weight")}
    weights = {name: (value / step[name]).round() * step[name] if name in step else value for name, value in small.weights.items()}
    coarse = Filter(small.arch, small.padding, weights, small.facts)
    path = export(coarse, tmp_path / "a.mlpackage", size=64, compress="palette4")
    parity, shown = verify(path, coarse), inspect(path)
    assert parity.faithful, parity.problems
    assert parity.psnr > 50
    assert (parity.precision, shown["availability"]) == ("compressed", "iOS 18, macOS 15 or later")
    # 10 convolutions of the blocks, and maybe down1 with its 1,176 weights, which are over half of the 2,304 of a block
    assert 58 - 11 <= parity.constants <= 58 - 10
    assert shown["operations"]["constexpr_lut_to_dense"] in (10, 11)


def test_a_filter_that_compression_changes_too_much_is_refused(tmp_path, small):
    """One palette of 16 values for all 2,304 weights of a convolution is too few for random ones: 33 dB."""
    pytest.importorskip("sklearn")
    with pytest.raises(Unfaithful, match=r"compressed as palette4 the filter is not itself, so nothing was written: .* 3[0-4]\.\d dB only"):
        export(small, tmp_path / "a.mlpackage", size=64, compress="palette4")
    assert list(tmp_path.iterdir()) == []


def test_where_compression_cannot_be(tmp_path, small):
    for name, options in [
        ("a.onnx", {"compress": "int8"}),
        ("a.mlmodel", {"compress": "palette4"}),
        ("a.mlpackage", {"compress": "int8", "precision": "fp32"}),
        ("a.mlpackage", {"compress": "zip"}),
    ]:
        with pytest.raises(ConfigError, match=r"cannot be here: int8 and palette4 are for a .mlpackage of fp16"):
            export(small, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_palettes_name_the_package_that_they_need(ready, tmp_path, small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="palette4 needs scikit-learn: install it with"):
        export(small, tmp_path / "a.mlpackage", size=64, compress="palette4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize("compress", ["int8", "palette4"])
@pytest.mark.parametrize("arch", ["cnnLite", "cnn"])
def test_shipped_bases_stand_compression(tmp_path, arch, compress):
    from fedstyle import Base

    base = Base.shipped(arch)
    made = Filter(base.arch, base.padding, base.transform())
    parity = verify(export(made, tmp_path / "a.mlpackage", size=256, compress=compress), made)
    assert json.loads(json.dumps(parity.as_dict()))["psnr"] >= 35
