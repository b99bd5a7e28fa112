"""The studies under simulation/: their configurations load, and their scripts run at a tiny size."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import picture
from PIL import Image

from fedstyle import Base, Config, Filter, params
from fedstyle.config import Training
from fedstyle.perceptual import tiny_network

SIMULATION = Path(__file__).parents[1] / "simulation"
OTHER = ("predefined.toml", "pyproject.toml", "splits.toml", "stages.toml", "study.toml")
"""TOML files that configure no run."""
RUNS = sorted(path for path in SIMULATION.rglob("*.toml") if path.name not in OTHER)


def script(path):
    """A script's module; it runs nothing before its `main` is called. Its folder's other modules can be imported, as when it is run."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
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
def research(tmp_path):
    """A folder like the one that studies take: pictures, and VGG networks with seeded random weights that keep the signal's size."""
    data = tmp_path / "data"
    for folder, count in (("photos", 4), ("styles", 3), ("library", 4)):
        (data / folder).mkdir(parents=True)
        for index in range(count):
            picture(10 * len(folder) + index).save(data / folder / f"{index}.png")
    (data / "weights").mkdir()
    plan = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256}
    generator = torch.Generator().manual_seed(0)
    for name, last in (("vgg16", 14), ("vgg19", 16)):
        state, inputs = {}, 3
        for index, outputs in plan.items():
            if index <= last:
                state[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
                state[f"features.{index}.bias"] = torch.zeros(outputs)
                inputs = outputs
        torch.save(state, data / "weights" / f"{name}_features_to_relu3.pth")
    (tmp_path / "splits.toml").write_text(
        """
        [photos]
        tiny-train = ["0.png"]
        base-train = ["1.png"]
        unseen = ["2.png", "3.png"]
        [collections]
        tiny-train = []
        base-train = []
        unseen = ["library"]
        [painters]
        tiny-train = ["weave"]
        base-train = ["mosaic"]
        unseen = ["glass"]
        [styles.tiny-train]
        "0.png" = "one"
        [styles.base-train]
        "1.png" = "another"
        [styles.unseen]
        "2.png" = "a third"
        """
    )
    return data


def test_pruning_and_distilling_write_weights_of_the_tiny_network(tmp_path, monkeypatch, research, capsys):
    module, distil = script(SIMULATION / "tiny" / "prune.py"), importlib.import_module("distil")
    sizes = {"CROP": 32, "SOURCE": 64, "CHUNK": 6, "SOURCES": 8, "JUDGES": 6, "FRAME": 12, "PLAIN": 12, "PAINTED": 8}
    for name, value in {**sizes, "SPLITS": tmp_path / "splits.toml"}.items():
        monkeypatch.setattr(distil, name, value)
    for name, value in {"FITTED": 4, "PLACES": 40, "CROP": 32, "FRAME": 12, "PLAIN": 12}.items():
        monkeypatch.setattr(module, name, value)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    call(module, monkeypatch, "--data", research, "--cycles", 4, "--out", first)  # crops of all three kinds
    made = params.load(first)
    params.check_alike(made, tiny_network().state_dict(), "what prune.py wrote")
    assert {value.dtype for name, value in made.items() if name != "scales"} == {torch.float16}
    told = capsys.readouterr().out
    assert "at first: held R2 " in told
    assert "cycle 4, " in told
    assert "| filters " in told
    assert "| canvases " in told

    # Another number of channels is written in the same way, and can be read.
    plan = [4, 4, 8, 8, 8, 8, 8]
    call(module, monkeypatch, "--data", research, "--cycles", 1, "--channels", *plan, "--out", second)
    net = module.load(second)
    assert [conv.out_channels for stage in net.stages for conv in stage.body] == plan
    assert [tuple(tap.shape) for tap in net(torch.rand(1, 3, 32, 48))] == [(1, 48, 16, 24), (1, 64, 8, 12), (1, 96, 4, 6)]


def test_a_base_is_taught_to_read_another_network(tmp_path, monkeypatch, research, predictive, capsys):
    module = script(SIMULATION / "base" / "reread.py")
    for name, value in {"PAINTED": 1, "VARIANTS": 8, "SIDE": 96, "STEPS": 200, "SPLITS": tmp_path / "splits.toml"}.items():
        monkeypatch.setattr(module, name, value)
    candidate = tiny_network((4,) * 7)
    params.save({name: value.half() for name, value in candidate.state_dict().items()}, tmp_path / "candidate.safetensors")
    predictive.save(tmp_path / "base", half=True)
    files = ("--data", research, "--base", tmp_path / "base", "--tiny", tmp_path / "candidate.safetensors", "--out", tmp_path / "new")
    call(module, monkeypatch, *files)
    learned = float(capsys.readouterr().out.partition("styles: ")[2].split()[0])
    assert learned > 0.5  # of a predictor with random weights, and a network with as random ones
    made = Base.load(tmp_path / "new")
    assert made.record["predictor"]["of_base"] == predictive.sha256
    own = [name for name in predictive.weights if not name.startswith("predictor.")]
    assert all(torch.equal(made.weights[name], predictive.weights[name]) for name in own)


def test_the_acceptance_of_tiny_fills_its_tables_and_runs_no_race_twice(tmp_path, monkeypatch, research, base, capsys):
    module = script(SIMULATION / "tiny" / "acceptance.py")
    for name, value in {"LADDER": (1, 3), "VIEW": 32, "JUDGED": 2, "PHOTOS": 2}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module.users, "SPLITS", tmp_path / "splits.toml")
    Base(base.arch, base.padding, base.weights, {"round": 1}).save(tmp_path / "base")
    arguments = ["--data", research, "--out", tmp_path / "out", "--base", tmp_path / "base", "--width", 4, "--styles", 1, "--seeds", 1]
    arguments += ["--iterations", 3, "--times", 2, "--base-times", 2, "--size", 32, "--batch", 2, "--sides", 32, "--repeats", 1]
    call(module, monkeypatch, *arguments, "--threads", 1)
    told = capsys.readouterr().out
    assert "ranking of filters by tiny and by VGG-16: Spearman in a style" in told
    assert "in the time of 2 iterations on VGG-16, from scratch" in told
    assert "in the time of 2 iterations on VGG-16, from the base" in told
    assert "after 3 iterations of each, from scratch" in told
    assert "cost of VGG-16 / cost of tiny, 32 px, batch 2, 1 threads" in told
    rows = [json.loads(line) for line in (tmp_path / "out" / "races.jsonl").read_text().splitlines()]
    timed = {row["start"]: row["seconds"] for row in rows if row["mark"] == "time of 2"}
    theirs = {row["start"]: row["seconds"] for row in rows if row["features"] == "vgg16" and row["iterations"] == 2}
    assert set(timed) == set(theirs) == {"scratch", "base"}
    assert all(timed[start] >= theirs[start] for start in timed)
    call(module, monkeypatch, *arguments, "--threads", 1)
    assert len((tmp_path / "out" / "races.jsonl").read_text().splitlines()) == len(rows)


LITTLE = """
[photos]
base-train = ["0.png", "1.png", "2.png", "3.png"]
[painters]
base-train = ["mosaic", "brush"]
[styles.base-train]
"0.png" = "one"
"2.png" = "another"
"""


def test_learning_a_base_ships_it_in_fp16_with_its_recipe_and_its_rates(tmp_path, monkeypatch, research):
    (tmp_path / "little.toml").write_text(LITTLE)
    monkeypatch.setattr("fedstyle.prediction.FAMILIES", ("mosaic",))
    module = script(SIMULATION / "base" / "learn.py")
    sets = "method.steps=1 method.variants=2 net.width=4 training.size=32 training.crops=2 training.batch=2"
    sets += " server.rounds=2 server.cohort=2 server.workers=1 loss.features=tiny"
    arguments = ["--data", research, "--splits", tmp_path / "little.toml", "--devices", 3, "--out", tmp_path / "run"]
    arguments += [word for one in sets.split() for word in ("--set", one)]
    call(module, monkeypatch, *arguments, "--stages", 2, "--ship", tmp_path / "shipped")
    made, *runs = (Base.load(path) for path in (tmp_path / "shipped", *(tmp_path / "run" / f"stage-{n}" / "base" for n in (1, 2))))
    assert made.predicts
    assert made.sha256 == runs[1].halved().sha256  # of a recipe cut short, its last stage
    assert made.sha256 != runs[0].halved().sha256
    assert {value.dtype for value in params.load(tmp_path / "shipped" / "base.safetensors").values()} == {torch.float16}
    assert made.record.keys() == {"strategy", "seed", "stages", "mean_of_stages", "personal"}
    first, second = made.record["stages"]
    assert first.items() >= {"rounds": 2, "cohort": 2, "features": "tiny", "crops": {"size": 32, "batch": 2}}.items()
    assert first["method"].items() >= {"name": "predicted", "steps": 1, "variants": 2, "lr": 1e-3}.items()
    assert (second["method"]["lr"], second["rounds"]) == (5e-4, 2)
    assert Training.for_base(made.record) == Training(rate=2e-3, norm_rate=8e-2, warmup=1)  # those of stages.toml, for few steps from it
    assert str(tmp_path) not in json.dumps(made.record)
    starts = [Config.load(tmp_path / "run" / f"stage-{number}" / "config.toml").net.base for number in (1, 2)]
    assert starts == ["", str(tmp_path / "run" / "stage-1" / "base")]
    # Each device has one source photo and one style image: two artworks, and the first painter's picture.
    homes = sorted((tmp_path / "run" / "population" / "photos").iterdir())
    assert [len(list(home.iterdir())) for home in homes] == [1, 1, 1]  # photos smaller than a part are kept whole
    assert [path.name for path in (tmp_path / "run" / "population" / "styles").iterdir()] == ["mosaic-0.png"]
    summary = json.loads((tmp_path / "run" / "stage-1" / "summary.json").read_text())
    assert sorted(row["style"] for row in summary["clients"]) == ["0", "2", "mosaic-0"]
    # A stage may begin from the mean of those before it, of which the ones that stand are not run again, and have other pictures painted.
    home = tmp_path / "recipe"
    home.mkdir()
    (home / "base.toml").write_bytes((SIMULATION / "base" / "base.toml").read_bytes())
    third = "begins_from = [1, 2]\npainted_from = 4\ntraining.seed = 3"
    last = "[ships]\ncnnLite = [1, 3]\n[personal]\nrate = 1e-3\n"
    (home / "stages.toml").write_text(f"[[cnnLite]]\n[[cnnLite]]\n[[cnnLite]]\n{third}\n{last}")
    monkeypatch.setattr(module, "HERE", home)
    call(module, monkeypatch, *arguments, "--ship", tmp_path / "again")
    assert Base.load(tmp_path / "run" / "start-3").sha256 == module.mean(runs).sha256
    third = Config.load(tmp_path / "run" / "stage-3" / "config.toml")
    assert (third.net.base, third.training.seed) == (str(tmp_path / "run" / "start-3"), 3)
    assert sorted(Path(path).name for path in third.data.styles) == ["0.png", "2.png", "mosaic-4.png"]
    again, newest = Base.load(tmp_path / "again"), Base.load(tmp_path / "run" / "stage-3" / "base")
    assert again.record["mean_of_stages"] == [1, 3]
    for name, value in again.weights.items():
        assert torch.allclose(value.float(), (runs[0].weights[name] + newest.weights[name]) / 2, rtol=1e-3, atol=1e-3)


def test_a_large_photo_is_cut_into_a_few_parts():
    module = script(SIMULATION / "base" / "learn.py")
    assert [one.size for one in module.tiles(picture(1, (600, 500)))] == [(600, 500)]
    assert [one.size for one in module.tiles(picture(1, (1100, 520)))] == [(1100, 520), (512, 512), (512, 512)]
    # 4 x 6 parts of 512 pixels; every third of these 24, so that with the whole there are at most twelve.
    assert len(module.tiles(picture(1, (6 * 512, 4 * 512)))) == 1 + 8


def test_ranks_by_hand():
    # Ranks 0 1 2 3 and 0 2 1 3 differ by 0 1 1 0: rho = 1 - 6 x 2 / (4 x (16 - 1)) = 0.8.
    module = script(SIMULATION / "tiny" / "acceptance.py")
    assert module.spearman([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 90.0]) == pytest.approx(0.8)
