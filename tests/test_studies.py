"""The studies of personalisation: a grid of two tiny cells from the command to its tables, and its statistics by hand."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import picture
from PIL import Image

from fedstyle import Config
from fedstyle.errors import ConfigError

STUDIES = Path(__file__).parents[1] / "simulation" / "studies"
TINY = ("data.clients=4", "data.holdout=1", "data.holdout_from=whole", "net.width=4", "training.size=32", "training.crops=2",
        "training.iterations=1", "loss.density=64", "server.rounds=1", "server.cohort=2", "server.unseen=1", "method.steps=1")  # fmt: skip


def script(name):
    spec = importlib.util.spec_from_file_location(name, STUDIES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wide(study):
    return [f"--set={setting}" for setting in (*TINY, *study)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(9):
        picture(seed).save(folder / f"{seed}.png")
    return folder


def run(pictures, out, *arguments):
    command = [sys.executable, str(STUDIES / "run_study.py"), str(STUDIES.parent / "personalization"), "--photos", str(pictures)]
    command += ["--styles", str(pictures), "--out", str(out), "--seeds", "1", "--only", "fedbn,lora", *wide(()), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_study_runs_its_cells_and_does_not_run_them_again(pictures, tmp_path):
    out = tmp_path / "out"
    first = run(pictures, out, "--part", "1/2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("fedbn, seed 11: mean loss of 3 clients' filters ")
    made = (out / "fedbn" / "11" / "judged.json").stat().st_mtime_ns
    (out / "fedbn" / "11" / "judged.json").with_name("mark").write_text("")
    second = run(pictures, out)
    assert second.stdout.startswith("lora, seed 11: mean loss")
    assert (out / "fedbn" / "11" / "judged.json").stat().st_mtime_ns == made
    assert {path.name for path in out.iterdir()} == {
        "fedbn", "lora", "table.md", "table.tex", "rows.csv", "curves.png", "cost.png", "sheet.png",
    }  # fmt: skip
    rows = list(csv.DictReader((out / "rows.csv").read_text().splitlines()))
    assert [(row["cell"], row["role"]) for row in rows].count(("lora", "unseen")) == 1
    assert len(rows) == 8
    judged = json.loads((out / "lora" / "11" / "judged.json").read_text())
    assert [len(row.get("curve", [])) for row in judged.values() if row["role"] == "unseen"] == [4]
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| fedbn", "| lora"]
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > sheet.height / 2
    other = run(pictures, tmp_path / "other", "--only", "fedbn", "--finished", str(out))
    assert other.returncode == 0, other.stderr
    there, here = ((folder / "fedbn" / "11") for folder in (out, tmp_path / "other"))
    for name in ("summary.json", "history.jsonl", "cost.json", "judged.json"):  # seconds are in them: it is the same run
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


@pytest.mark.parametrize("path", sorted(STUDIES.parent.glob("*/study.toml")), ids=lambda path: path.parent.name)
def test_every_cell_of_every_study_is_a_configuration(path):
    study = script("run_study").Study.load(path)
    for settings in study.cells.values():
        Config.load(path.parent / study.population, [*settings, "data.photos=demo", "data.styles=painted"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = [1]", "is no study"),
        ('seeds = [1]\ncurve = [0]\nbaseline = "b"\n[cells]\na = []', "name one of the cells"),
        ('seeds = [1]\ncurve = [5, 0]\nbaseline = "a"\n[cells]\na = []', "numbers of iterations that grow"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, text, words):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        script("run_study").Study.load(tmp_path / "study.toml")


def fake(seen, unseen, *, base=2.0, seconds=10.0):
    rows = [("seen", loss) for loss in seen] + [("unseen", loss) for loss in unseen]
    return {
        "judged": {f"{k}": {"role": role, "style": "x", "base": base, "filter": loss} for k, (role, loss) in enumerate(rows)},
        "summary": {"hardware": {"peak_memory_mb": 500}},
        "cost": {"cpu_seconds": seconds},
        "history": [{"replied": 2, "sampled": 2, "bytes_up": 4000, "bytes_down": 8000, "loss": {"total": 3.0}}] * 2,
    }


def test_the_columns_by_hand():
    # Seed 1: seen 1, 3 (mean 2, deviation 1, worst 3); seed 2: 2, 4 (mean 3, deviation 1, worst 4). The base has 2: 3 and 4 are worse.
    outcomes = script("outcomes")
    mine, theirs = {1: fake([1, 3], [2.0]), 2: fake([2, 4], [4.0])}, {1: fake([1, 1], [1.0]), 2: fake([1, 1], [1.0])}
    row = outcomes.row("x", mine, theirs)
    assert (row["mean"], row["client_sd"], row["worst_decile"], row["worse_off"], row["unseen"]) == (2.5, 1.0, 3.5, 0.5, 3.0)
    assert row["seed_sd"] == pytest.approx(2**-0.5)  # of 2 and 3
    assert (row["up_kb"], row["down_kb"], row["seconds"], row["peak_mb"]) == (2.0, 4.0, 10.0, 500)
    assert row["against"] == (2.0, 2.0, 2.0)  # one client, whose two differences are 1 and 3
    assert outcomes.row("x", mine, mine)["against"] is None


def test_the_interval_is_that_of_the_mean():
    # The mean of 1000 numbers of standard deviation 1 has one of 0.0316; 1.96 of them are 0.062.
    import numpy as np

    mean, low, high = script("outcomes").interval(np.random.default_rng(1).normal(size=1000))
    assert low < mean < high
    assert high - low == pytest.approx(0.124, rel=0.1)


def test_the_latex_has_no_bare_signs():
    outcomes = script("outcomes")
    text = outcomes._latex([outcomes.row("a_b", {1: fake([1, 3], [2.0])}, {})])
    assert r"a\_b & 1 &" in text
    assert r"50\%" in text
    assert text.startswith(r"\begin{tabular}{l" + "r" * 12 + "}")
