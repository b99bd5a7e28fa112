"""The studies of malicious clients and of private utility at a tiny size, and their arithmetic by hand."""

import contextlib
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import picture

from fedstyle import Config
from fedstyle.client import Update
from fedstyle.errors import StyleError

SIMULATION = Path(__file__).parents[1] / "simulation"
TINY = ("net.base=''", "net.width=4", "training.size=32", "training.crops=2", "training.iterations=1", "loss.density=64",
        "method.steps=1", "data.holdout=1")  # fmt: skip


@contextlib.contextmanager
def study(folder, name):
    """A study's script as if it were run: its own folder and that of the studies' common parts are on the path."""
    places, before = [str(SIMULATION / folder), str(SIMULATION / "studies")], set(sys.modules)
    sys.path[:0] = places
    try:
        yield importlib.import_module(name)
    finally:
        sys.path[:] = [place for place in sys.path if place not in places]
        for module in set(sys.modules) - before:
            if str(SIMULATION) in str(getattr(sys.modules[module], "__file__", "")):
                del sys.modules[module]


@pytest.fixture(scope="module")
def robustness():
    with study("robustness", "robustness") as script:
        yield script


@pytest.fixture(scope="module")
def utility():
    with study("private_utility", "utility") as script:
        yield script


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed in range(15):
        picture(seed).save(folder / f"{seed:02d}.png")
    for seed, name in enumerate(("common-1", "common-2", "rare-1", "foreign")):
        (folder / "styles").mkdir(exist_ok=True)
        picture(40 + seed).save(folder / "styles" / f"{name}.png")
    return folder


def run(script, data, out, monkeypatch, *arguments):
    words = ["study", "--photos", str(data), "--styles", str(data / "styles"), "--out", str(out), "--seeds", "1", *arguments]
    monkeypatch.setattr(sys, "argv", [*words, *(f"--set={setting}" for setting in TINY)])
    monkeypatch.setattr("gc.freeze", lambda: None)
    return script.main()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_malicious_clients_are_judged_and_cells_are_not_run_again(robustness, data, tmp_path, monkeypatch, capsys):
    wish = ["--majority", "common", "--minority", "rare", "--foreign", "foreign", "--deadline", "0", "--set", "server.rounds=1"]
    names = ["FedAvg-none", "FedAvg-sybil", "Bulyan-poison-level"]
    assert run(robustness, data, tmp_path, monkeypatch, *wish, "--only", ",".join(names[:2])) == 0
    first = (tmp_path / "rows.jsonl").read_bytes()
    assert run(robustness, data, tmp_path, monkeypatch, *wish, "--only", ",".join(names)) == 0
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(first)
    rows = lines(tmp_path / "rows.jsonl")
    assert [row["cell"] for row in rows] == ["start", *names]
    assert list(rows[1]["users"]) == ["000", "010", "011", "012", "013"]
    assert [user["rare"] for user in rows[1]["users"].values()] == [True, False, False, True, True]
    assert all(not row["dropped"] for row in rows)
    table = (tmp_path / "table.md").read_text()
    assert "| FedAvg-none | 1 | 1.00 | 1.00 | 1.00 | 0 | yes |" in table
    assert (tmp_path / "sheet.jpg").stat().st_size > 1000
    assert not (tmp_path / "run").exists()
    assert "Bulyan-poison-level, seed 1: " in capsys.readouterr().out


def test_what_liars_send(robustness, tmp_path):
    class Honest:
        def __init__(self, partition):
            self.partition = partition

        def fit(self, base, *, round, proximal):
            return Update({"a": torch.tensor([3.0, 4.0 * self.partition])})

    crowd = robustness.attacks.Crowd(Honest, "flip", (0, 1), 0.0, tmp_path)
    assert crowd(1).fit(None, round=1, proximal=0).delta["a"].tolist() == [-30, -40]
    assert isinstance(crowd(2), Honest)
    crowd.bound = 2.0  # to 0.99 * 2 of (3, 4), whose length is 5
    assert crowd(1).fit(None, round=1, proximal=0).delta["a"].tolist() == pytest.approx([-1.188, -1.584])
    crowd.attack = "poison"  # the mean of (3, 0) and (3, 4) is (3, 2)
    sent = crowd(0).fit(None, round=1, proximal=0).delta["a"]
    assert sent.tolist() == pytest.approx([-1.98 * 3 / math.sqrt(13), -1.98 * 2 / math.sqrt(13)])


def test_ratios_by_hand(robustness):
    def row(*users):
        return {"users": {str(k): dict(zip(("seen", "rare", "x"), (s, r, {"base": b, "filter": f}), strict=True))
                          for k, (s, r, b, f) in enumerate(users)}}  # fmt: skip

    clean = row((True, True, 9, 2), (False, False, 4, 2), (False, True, 6, 2))
    attacked = row((True, True, 9, 3), (False, False, 6, 2), (False, True, 9, 2.5))
    assert robustness.compare(attacked, clean, "x") == (1.5, 1.125, 1.5)  # 15 / 10, 4.5 / 4, and 3 / 2 of the first rare user


def test_rounds_end_by_their_deadline_with_dropouts_and_stragglers(robustness, tmp_path):
    # Of 10 clients 2 die, 1 says nothing and 2 are slow. The bound leaves time to a busy machine; the study measures what it takes.
    wish = ["server.strategy=FedMedian", "server.timeout=2.0", "server.min_replies=0.4", "server.rounds=2", "server.workers=20"]
    config = Config.load(SIMULATION / "robustness" / "federation.toml", [*TINY, *wish])
    found = robustness.deadlines.measure(config, robustness.first_base(config), tmp_path, 10)
    assert all(2.0 <= seconds <= 5.0 for seconds in found["seconds"])
    assert found["failures"]["late"] >= 1
    assert all(4 <= replied <= 8 for replied in found["replied"])


def test_private_utility_from_the_command_to_its_table(utility, data, tmp_path, monkeypatch):
    monkeypatch.setattr(utility, "RUN", (2, 4))
    monkeypatch.setattr(utility, "RATE", 0.5)
    monkeypatch.setattr(utility, "UNSEEN", 1)
    monkeypatch.setattr(utility, "PHOTOS", 2)
    monkeypatch.setattr(utility, "cells", lambda: [utility.Cell(2, math.inf, 0.0), utility.Cell(4, 8.0), utility.Cell(1000, 4.0, few=True)])
    assert run(utility, data, tmp_path, monkeypatch, "--set", "server.rounds=1") == 0
    rows = lines(tmp_path / "rows.jsonl")
    assert [row["cell"] for row in rows] == ["start", "cohort 2, no clipping", "cohort 4, epsilon 8", "few, cohort 1000, epsilon 4"]
    assert [row["population"] for row in rows[1:]] == [4, 8, 2000]
    assert rows[2]["rdp"] <= 8
    assert rows[3]["pld"] < rows[3]["rdp"] <= 4
    assert len((tmp_path / "table.md").read_text().splitlines()) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "pictures", "table.md", "epsilon.png", "sheet.jpg"}


def test_the_noise_of_a_large_cohort_is_put_into_a_small_one(utility):
    # On the mean of 1,000, noise of multiplier z has the deviation z C / 1,000; as z' C / 20 that is z' = z / 50.
    cell = utility.Cell(1000, 4.0)
    settings = dict(setting.split("=", 1) for setting in cell.settings(4))
    assert float(settings["privacy.noise"]) == pytest.approx(cell.noise(4) / 50)
    assert settings["server.cohort"] == "20"
    assert utility.Cell(100, 4.0).simulated == 100


def test_the_few_are_those_that_it_says():
    from fedstyle import Base
    from fedstyle.methods import make_method

    method = make_method({"name": f"{SIMULATION / 'private_utility' / 'few.py'}:Few"})
    shared = {name: value for name, value in Base.new("cnnLite").weights.items() if method.shares(name)}
    assert sum(value.numel() for value in shared.values()) == 7651


def test_a_family_that_is_not_there_is_an_error(robustness, data):
    with pytest.raises(StyleError, match="no style whose name begins with one of nobody"):
        robustness.people.family(data / "styles", "nobody")
