"""The benchmarks run, at sizes that say nothing, and print the lines that their README explains."""

import argparse
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = ["training", "stylize", "to_loss"]


@pytest.fixture
def modules(monkeypatch):
    """The benchmarks as modules: they are scripts, and import each other by their own names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    import reference
    import stylize
    import to_loss
    import training

    yield argparse.Namespace(reference=reference, stylize=stylize, to_loss=to_loss, training=training)
    torch.set_num_threads(threads)
    for name in ("reference", *NAMES):
        del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example(name, modules, capsys):
    with pytest.raises(SystemExit) as caught:
        getattr(modules, name).main(["--help"])
    assert caught.value.code == 0
    assert f"example: python benchmarks/{name}.py" in capsys.readouterr().out


def test_the_readme_names_no_option_that_is_not_there():
    text = (FOLDER / "README.md").read_text()
    known = {"--help"}
    for name in ("reference", "federation", "secagg", "simulation", "wire", *NAMES):
        known |= set(re.findall(r'"(--[a-z-]+)"', (FOLDER / f"{name}.py").read_text()))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) <= known


def test_training(modules, capsys):
    modules.training.main(["--quick", "--threads", "1", "--only", "time"])
    text = capsys.readouterr().out
    for arch in ("cnn", "cnnLite"):
        for rest in ("", ", norms only"):
            assert re.search(rf"^{arch} training ratio{rest}: \d+\.\dx$", text, re.MULTILINE)
            assert re.search(rf"^{arch}{rest}: \d+\.\d\d s an iteration, \d+ GFLOP, \d+% of the ceiling \(goal: 40%\)$", text, re.MULTILINE)
    assert len(re.findall(r"^(?:float32|bfloat16) matrix products: \d+ GFLOP/s(?:, the ceiling)?$", text, re.MULTILINE)) == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process took at most")
def test_peak_memory(modules):
    small = argparse.Namespace(**modules.reference.QUICK)
    assert modules.training.peak("cnnLite, norms only", small) > 50  # MB: Python alone


def test_stylize(modules, capsys):
    modules.stylize.main(["--quick", "--threads", "1"])
    text = capsys.readouterr().out
    for arch in ("cnn", "cnnLite"):
        assert re.search(rf"^{arch} stylising ratio: \d+\.\dx$", text, re.MULTILINE)
        (fidelity,) = re.findall(rf"^{arch} stylising fidelity: (\d+\.\d) dB", text, re.MULTILINE)
        assert float(fidelity) > 45


def test_to_loss(modules, capsys, shipped):
    modules.to_loss.main(["--quick", "--threads", "1"])
    text = capsys.readouterr().out
    assert "judge: tiny, for want of VGG-16; it taught the reference too" in text
    assert re.search(r"^reference: total loss \d+\.\d{3} after 3 iterations", text, re.MULTILINE)
    for name in ("from scratch", "from the base", "from the base, all parameters"):
        assert re.search(rf"^cnnLite (?:time-to-loss ratio )?{name}: (?:\d+\.\dx|not reached in \d+ iterations, .*)$", text, re.MULTILINE)


def test_to_loss_with_vggs_weights(modules, tmp_path, capsys, shipped):
    weights = modules.reference.Vgg().state_dict()
    short = {name: value for name, value in weights.items() if int(name.split(".")[1]) <= 14}  # up to relu3_3, as they may be given
    torch.save(short, tmp_path / "vgg.pth")
    modules.to_loss.main(["--quick", "--threads", "1", "--vgg", str(tmp_path / "vgg.pth")])
    assert "judge: vgg16\n" in capsys.readouterr().out


def test_ratios_are_medians_of_ratios_by_hand(modules):
    # Within the repeats 4 / 2 = 2, 9 / 3 = 3 and 10 / 1 = 10, whose median is 3; that of the times alone would be 9 / 2.
    assert modules.reference.ratio({"reference": [4.0, 9.0, 10.0], "ours": [2.0, 3.0, 1.0]}, "ours") == 3.0


def test_the_reference_is_the_published_one(modules):
    # pytorch/examples' fast neural style: 1,679,235 parameters, as `cnn`; VGG-16's convolutions to relu4_3 (conv4_3 is features.21).
    net = modules.reference.reference_net()
    assert sum(value.numel() for value in net.parameters()) == 1_679_235
    assert sum(isinstance(layer, nn.ReLU) for layer in net.modules()) == 10  # 3 down, 5 in blocks, 2 up
    vgg = modules.reference.Vgg()
    assert vgg.taps == (3, 8, 15, 22)
    assert [tuple(tap.shape[1:]) for tap in vgg(torch.rand(1, 3, 32, 32))] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
