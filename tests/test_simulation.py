"""The studies under simulation/: their configurations load, and their scripts run at a tiny size."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from conftest import picture
from PIL import Image

from fedstyle import Config, Filter, params
from fedstyle.perceptual import tiny_network

SIMULATION = Path(__file__).parents[1] / "simulation"
RUNS = sorted(path for path in SIMULATION.rglob("*.toml") if path.name != "pyproject.toml")


def script(path):
    """A script's module; it runs nothing before its `main` is called."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_there_are_configurations():
    assert {"quickstart.toml", "paintings.toml"} <= {path.name for path in RUNS}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_configurations_load(path):
    assert Config.load(path).server.rounds > 0


def test_the_sheet_shows_each_device_in_a_row(tmp_path, monkeypatch, base):
    run = tmp_path / "run"
    devices = [{"id": name, "filter": f"clients/{name}/filter"} for name in ("000", "001")]
    for device, color in zip(devices, ["red", "blue"], strict=True):
        home = run / "clients" / device["id"]
        (home / "pictures").mkdir(parents=True)
        Image.new("RGB", (90, 60), color).save(home / "pictures" / "style.jpg")
        Filter(base.arch, base.padding, base.weights).save(home / "filter")
    (run / "summary.json").write_text(json.dumps({"clients": devices}))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), "lime").save(photo)
    module = script(SIMULATION / "paintings" / "sheet.py")
    monkeypatch.setattr(module, "CELL", (90, 60))
    call(module, monkeypatch, run, photo, "--out", tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (180, 180)  # a style and a photo wide; the photos and two devices high
    assert [sheet.getpixel(place) for place in ((45, 30), (135, 30))] == [(255, 255, 255), (0, 255, 0)]
    for row, color in ((90, (254, 0, 0)), (150, (0, 0, 254))):
        assert sheet.getpixel((45, row)) == pytest.approx(color, abs=2)
        filtered = sheet.crop((90, row - 30, 180, row + 30))
        assert filtered.getextrema() != ((0, 0), (255, 255), (0, 0))


@pytest.fixture
def vgg(tmp_path):
    """VGG-16 up to relu3_3 with seeded random weights that keep the signal's size, as a file with torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    state, inputs = {}, 3
    for index, outputs in {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}.items():
        state[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(outputs)
        inputs = outputs
    torch.save(state, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def test_the_distillation_writes_weights_of_the_tiny_network(tmp_path, monkeypatch, vgg, photo_folder, capsys):
    module = script(SIMULATION / "tiny" / "distil.py")
    for name, value in {"CROP": 32, "CHUNK": 6, "JUDGES": 12}.items():
        monkeypatch.setattr(module, name, value)
    styles = tmp_path / "styles"
    styles.mkdir()
    for seed in (7, 8, 9):
        picture(seed).save(styles / f"{seed}.png")
    arguments = ["--photos", photo_folder, "--styles", styles, "--vgg", vgg, "--pool", 36, "--steps", 2, "--threads", 1]
    call(module, monkeypatch, *arguments, "--out", tmp_path / "first.safetensors")
    made = params.load(tmp_path / "first.safetensors")
    params.check_alike(made, tiny_network().state_dict(), "what distil.py wrote")
    assert {value.dtype for name, value in made.items() if name != "scales"} == {torch.float16}
    assert all(value.isfinite().all() for value in made.values())
    assert "step 2: R2 " in capsys.readouterr().out

    # From its own weights, one step further, it goes on and does not start again.
    call(
        module,
        monkeypatch,
        *arguments[:-4],
        "--steps",
        2,
        "--threads",
        1,
        "--start",
        tmp_path / "first.safetensors",
        "--out",
        tmp_path / "second",
    )
    again = params.load(tmp_path / "second")
    gap = max(float((again[name].float() - made[name].float()).abs().max()) for name in made if name != "scales")
    assert 0 < gap < 0.02
