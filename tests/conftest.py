import signal

import numpy as np
import pytest
import torch
from PIL import Image

from fedstyle.base import Base
from fedstyle.config import Training
from fedstyle.perceptual import load_features
from fedstyle.prediction import PREFIX, Predictor, look_at

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so in a shell's background job; the processes that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # as every client of a federation trains; the test workers fill the cores


def picture(seed, size=(96, 80)):
    """A photo-like picture: colour ramps, a disc and some noise, no two seeds alike."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 200 / width, y * 200 / height, (x + y) * 100 / (width + height)], -1) + rng.integers(0, 30, (height, width, 3))
    cx, cy, r = rng.integers(20, 60, 3)
    image[(x - cx) ** 2 + (y - cy) ** 2 < r * r / 4] = rng.integers(0, 256, 3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


@pytest.fixture
def fp32(monkeypatch):
    """No bfloat16, whatever this processor can do: for tests that look at digits."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """A folder with three photos of 96 x 80 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="session")
def style_image():
    """A style image of 64 x 64 pixels: coloured stripes."""
    y, x = np.mgrid[0:64, 0:64]
    return Image.fromarray(np.stack([(x // 4) % 2 * 255, (y // 8) % 2 * 255, (x + y) // 8 % 2 * 255], -1).astype(np.uint8))


@pytest.fixture(scope="session")
def base():
    """A tiny untrained base."""
    return Base.new("cnnLite", width=4)


@pytest.fixture(scope="session")
def predictive(base):
    """The tiny base with a predictor drawn at random, so that every style has norms of its own; all its weights are fp16 numbers."""
    draw = torch.Generator().manual_seed(5)
    code = len(look_at(load_features("tiny"), torch.zeros(1, 3, 32, 32)).code)
    predictor = Predictor(code, sum(value.numel() for name, value in base.weights.items() if ".norm" in name))
    made = {f"{PREFIX}{name}": value.detach() for name, value in predictor.named_parameters()}
    drawn = {name: 0.1 * torch.randn(value.shape, generator=draw) for name, value in made.items() if "hidden" in name or "out" in name}
    return Base(base.arch, base.padding, {**base.weights, **made, **drawn}, {"seed": 0, "round": 3}).halved()


@pytest.fixture
def shipped(predictive, tmp_path, monkeypatch):
    """A stand-in for the base that fedstyle carries for cnnLite; it carries none for cnn."""
    advice = {"rate": 5e-3, "norm_rate": 4e-2, "warmup": 0}
    made = Base(predictive.arch, predictive.padding, predictive.weights, {**predictive.record, "personal": advice})
    folder = tmp_path / "weights inside"
    made.save(folder / "cnnLite", half=True)
    monkeypatch.setattr("fedstyle.base.SHIPPED", folder)
    return made


@pytest.fixture
def quick():
    """Training that takes milliseconds."""
    return Training(size=32, crops=4, batch=2, warmup=2, device="cpu")


@pytest.fixture(scope="session")
def small():
    """A small filter, for exports."""
    from export_files import small_filter

    return small_filter()


@pytest.fixture(scope="session")
def exports(small, tmp_path_factory):
    """The small filter's exports at 64x64 pixels, by precision and suffix; tests change copies of them only."""
    from fedstyle.export import export

    folder = tmp_path_factory.mktemp("exports")
    kinds = ["fp16.mlpackage", "fp32.mlpackage", "fp32.mlmodel", "fp32.onnx"]
    return {kind: export(small, folder / kind, size=64, precision=kind[:4]) for kind in kinds}
