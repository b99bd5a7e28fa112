"""The yardstick of simulation/quality: the protocol at a tiny size, and its arithmetic by hand."""

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import picture
from PIL import Image

from fedstyle import Base, Client, Style
from fedstyle.files import append_json, read_lines
from fedstyle.perceptual import Objective, load_features

QUALITY = Path(__file__).parents[1] / "simulation" / "quality"
NAMES = [path.stem for path in QUALITY.glob("*.py")]


@pytest.fixture
def quality(monkeypatch):
    """The script as if it were run: its folder comes first on the path, and its siblings stay no longer than the test."""
    monkeypatch.syspath_prepend(str(QUALITY))
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("quality")
    monkeypatch.setattr(
        module,
        "PROTOCOL",
        dataclasses.replace(
            module.PROTOCOL,
            width=4,
            photos=2,
            judged=2,
            view=32,
            training={"size": 32, "crops": 4, "batch": 2, "warmup": 2},
            scratch=(1, 2),
            base=(0, 1, 2),
            full=(1,),
            joint=(0, 1),
            gatys=1,
        ),
    )
    yield module
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures under the names that the splits know."""
    import tomllib

    folder = tmp_path_factory.mktemp("data")
    found = tomllib.loads((QUALITY.parent / "splits.toml").read_text())
    files = [f"photos/{name}" for name in found["photos"]["unseen"]]
    files += [f"styles/{name}" for name in list(found["styles"]["unseen"])[:2]]
    files += [f"photos-research/{seed}.jpg" for seed in range(4)]
    for seed, file in enumerate(files):
        (folder / file).parent.mkdir(exist_ok=True)
        picture(seed).save(folder / file)
    return folder


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["quality.py", *map(str, arguments)])
    module.main()


def test_the_protocol_runs_goes_on_and_reports(quality, data, tmp_path, monkeypatch, capsys):
    for name, seed in (("base", 1), ("joint", 2)):
        Base.new("cnnLite", seed=seed, width=4).save(tmp_path / name)
    out = tmp_path / "run"
    arguments = ["--data", data, "--base", tmp_path / "base", "--joint", tmp_path / "joint", "--judges", "tiny"]
    arguments += ["--styles", 2, "--seeds", 2, "--long", 3, "--out", out]
    call(quality, monkeypatch, *arguments, "--part", "1/2")
    assert not (out / "rows.jsonl").exists()
    call(quality, monkeypatch, *arguments, "--part", "2/2")
    first, second = (read_lines(out / f"rows-{part}of2.jsonl") for part in (1, 2))
    # A style and seed: 2 from scratch, 3 from the base, 1 full, 2 joint; the first seed has 1 long, the photo and Gatys' besides.
    assert [len(first), len(second)] == [8 + 11, 8 + 11]
    assert not {row["style"] for row in first} & {row["style"] for row in second}
    assert {row["arm"] for row in first} == set(quality.rows.ARMS)
    assert str(tmp_path) not in "".join(path.read_text() for path in out.glob("*.json*"))
    assert not list((out / "sessions").iterdir())
    for row in first:
        assert all(math.isfinite(value) for value in (*row["tiny"].values(), row["ssim"]))
        assert row["tiny"]["total"] == pytest.approx(row["tiny"]["content"] + 10 * row["tiny"]["style"], rel=1e-5)
    by_place = {(row["style"], row["seed"], row["arm"], row["iterations"]): row for row in first}
    style = first[0]["style"]
    assert by_place[style, 0, "photo", 0]["tiny"]["content"] == 0
    assert by_place[style, 0, "photo", 0]["ssim"] == pytest.approx(1)
    assert by_place[style, 0, "gatys", 1]["each"] == [1, 1]
    assert by_place[style, 0, "gatys", 1]["tiny"]["total"] < by_place[style, 0, "photo", 0]["tiny"]["total"]
    assert by_place[style, 0, "base", 1]["tiny"] != by_place[style, 1, "base", 1]["tiny"]

    # Rows that stand are not made again; one that is lost is, to the same values.
    file = out / "rows-2of2.jsonl"
    lost = next(row for row in second if (row["arm"], row["iterations"]) == ("base", 2))
    file.write_text("".join(json.dumps(row) + "\n" for row in second if row is not lost))
    before = (out / "rows-1of2.jsonl").read_bytes()
    call(quality, monkeypatch, *arguments)
    assert (out / "rows-1of2.jsonl").read_bytes() == before
    (again,) = read_lines(out / "rows.jsonl")
    assert {**again, "seconds": 0} == {**lost, "seconds": 0}

    # Another base: its rows are made, the arms from scratch stand, and the tables are of the new rows.
    Base.new("cnnLite", seed=3, width=4).save(tmp_path / "other")
    arguments[3] = tmp_path / "other"
    call(quality, monkeypatch, *arguments, "--only", "base,scratch", "--seeds", 1)
    new = read_lines(out / "rows.jsonl")[1:]
    assert [row["arm"] for row in new] == ["base"] * 6
    assert {row["setting"] for row in quality.rows.current(out) if row["arm"] == "base"} == {new[0]["setting"]}

    text = (out / "results.md").read_text()
    assert "2 unseen styles; users a style: 2." in text
    assert "Gatys: 1 L-BFGS iterations an image in the median, 1 to 1" in text
    assert "| style | photo | scratch 1 | scratch 2 | scratch 3 | base 0 |" in text
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.size == (170 + 8 * 196, 34 + 2 * 196)
    with Image.open(out / "curves.png") as curves:
        assert curves.size == (1400, 840)
    for name in ("results.md", "sheet.jpg", "curves.png"):
        (out / name).rename(tmp_path / name)
    call(quality, monkeypatch, "--out", out, "--report-only")
    for name in ("results.md", "sheet.jpg", "curves.png"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--only", "base,bse"), "bse"),
        (("--part", "3/2"), "1 to 2"),
        (("--part", "half"), "K/N"),
        (("--only", "joint"), "--joint"),
    ],
)
def test_a_wrong_option_is_named(quality, tmp_path, monkeypatch, capsys, wrong, said):
    with pytest.raises(SystemExit) as end:
        call(quality, monkeypatch, "--data", tmp_path, "--out", tmp_path / "run", *wrong)
    assert end.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_base_of_another_architecture_is_refused(quality, data, tmp_path, monkeypatch):
    Base.new("cnn", width=4).save(tmp_path / "base")
    with pytest.raises(SystemExit, match="--arch cnn"):
        call(quality, monkeypatch, "--data", data, "--out", tmp_path / "run", "--base", tmp_path / "base", "--judges", "tiny")


# ------------------------------------------------------------------------------------------------------------- the ladder


def test_a_ladder_is_one_training(quality, photo_folder, style_image, base, quick, tmp_path):
    client = Client(None, photo_folder, Style(style_image), training=quick)
    whole = client.personalize(base, iterations=12).result()
    found = list(sys.modules["arms"].climb(client, base, False, [0, 5, 12], {}, tmp_path / "session"))
    assert [step for step, _, _ in found] == [0, 5, 12]
    assert found[0][1].sha256 == client.personalize(base, iterations=0).result().sha256
    assert found[1][1].sha256 == client.personalize(base, iterations=5).result().sha256
    assert found[2][1].sha256 == whole.sha256
    assert found[0][2] < found[1][2] < found[2][2]


def test_an_interrupted_ladder_goes_on_and_counts_its_seconds(quality, photo_folder, style_image, base, quick, tmp_path):
    client, session = Client(None, photo_folder, Style(style_image), training=quick), tmp_path / "session"
    whole = client.personalize(base, iterations=14).result()
    client.personalize(base, iterations=12, session=session).result()  # killed at 12: the row of 5 stands, that of 14 does not
    ((step, filter, seconds),) = sys.modules["arms"].climb(client, base, False, [14], {5: 100.0}, session)
    assert (step, filter.sha256) == (14, whole.sha256)
    assert seconds > 100  # the two iterations that ran now stand for the nine after the row
    ((_, _, seconds),) = sys.modules["arms"].climb(client, base, False, [14], {5: 100.0}, session)
    assert seconds is None  # nothing ran: it is not known
    ((_, _, seconds),) = sys.modules["arms"].climb(client, base, False, [14], {5: 100.0}, tmp_path / "lost")
    assert 0 < seconds < 100  # all ran again


def test_a_base_is_trained_at_the_rates_that_it_advises(quality, base):
    advised = dataclasses.replace(base, record={"personal": {"norm_rate": 0.02}})
    plain, tuned = (quality.PROTOCOL.facts("base", {}, [], "tiny", start) for start in (base, advised))
    assert plain["start"] == tuned["start"]
    assert tuned["training"] == {**plain["training"], "norm_rate": 0.02}
    assert quality.PROTOCOL.trains(3, advised).norm_rate == 0.02
    assert quality.PROTOCOL.trains(3, None).norm_rate == 0.01
    assert quality.PROTOCOL.trains(3, None).seed == 3


# ---------------------------------------------------------------------------------------------------------------- users


def test_styles_alternate_and_longer_lists_begin_as_shorter_ones(quality):
    users = quality.users
    default = users.looks()
    assert len(default) >= 12
    assert [bool(look.file) for look in default[:6]] == [True, True, False] * 2
    assert len({look.name for look in default}) == len(default)
    assert {look.seed for look in default} == {0}
    assert users.looks(5) == default[:5]
    longer = users.looks(40)
    assert longer[: len(default)] == default
    assert len({look.name for look in longer}) == 40


def test_users_of_a_style_share_no_photo(quality, data):
    users = quality.users
    one, two = ({path.name for path in users.library(data, "munch", seed, 2).paths} for seed in (0, 1))
    assert len(one) == len(two) == 2
    assert not one & two
    assert users.library(data, "munch", 0, 2) == users.library(data, "munch", 0, 2)
    with pytest.raises(quality.FedstyleError, match="need 6"):
        users.library(data, "munch", 2, 2)


def test_photos_to_judge_on_are_spread_over_the_split(quality, data):
    names = quality.users.splits()["photos"]["unseen"]
    assert [path.name for path in quality.users.judged(data, 4).paths] == [names[k * len(names) // 4] for k in range(4)]


# ---------------------------------------------------------------------------------------------------------------- Gatys


def test_gatys_descends_stays_in_range_and_comes_to_rest(quality, style_image):
    gatys = sys.modules["gatys"]
    tiny = load_features("tiny")
    objective = Objective(tiny, Style(style_image, density=64).targets(tiny), 1.0, 10.0)
    photo = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    content = objective.content_features(photo)

    def total(image):
        return objective(image, content).numbers()["total"]

    few, steps = gatys.optimise(photo, objective, 3)
    assert steps == 3
    assert total(few) < total(photo)
    many, steps = gatys.optimise(photo, objective, 60, tolerance=0)
    assert steps == 60
    assert total(many) < total(few)
    assert 0 <= float(many.min()) <= float(many.max()) <= 1
    rest, steps = gatys.optimise(photo, objective, 10_000, tolerance=0.2)
    assert steps < 200  # ten iterations that lower the loss by less than a fifth end it
    assert total(rest) < total(few)


# --------------------------------------------------------------------------------------------------------------- tables


def row(style, seed, arm, iterations, total, setting):
    loss = {"content": total / 2, "style": total / 20, "total": total}
    return {
        "style": style,
        "seed": seed,
        "arm": arm,
        "iterations": iterations,
        "seconds": None,
        "setting": setting,
        "vgg16": loss,
        "vgg19": {key: 2 * value for key, value in loss.items()},
        "ssim": 0.5,
    }


@pytest.fixture
def summary(quality, tmp_path):
    facts = {arm: {"arch": "cnnLite", "start": "new", "features": "tiny", "arm": arm} for arm in ("scratch", "base", "gatys")}
    quality.rows.renew(tmp_path, facts)
    now = {arm: quality.rows.digest(fact) for arm, fact in facts.items()}
    a, b, c = (look.name for look in quality.users.looks(3))
    totals = {
        # (from scratch 500, base 25, base 100) of seeds 0, 1, 2
        a: [(2.0, 1.0, 1.0), (2.0, 3.0, 1.0), (4.0, 3.0, 1.0)],  # 25/500: 0.5, 1.5, 0.75
        b: [(2.0, 4.0, 2.0), (1.0, 1.0, 2.0), (1.0, 2.0, 2.0)],  # 2, 1, 2
        c: [(1.0, 1.0, 4.0)],  # 1
    }
    for style, seeds in totals.items():
        for seed, values in enumerate(seeds):
            places = (("scratch", 500), ("base", 25), ("base", 100))
            append_json(
                tmp_path / f"rows-{seed}.jsonl",
                *(row(style, seed, arm, step, value, now[arm]) for (arm, step), value in zip(places, values, strict=True)),
            )
        append_json(tmp_path / "rows.jsonl", {**row(style, 0, "gatys", 70, 1.0, now["gatys"]), "each": [60, 70]})
    append_json(tmp_path / "rows.jsonl", row(a, 0, "base", 25, 99.0, "of an older base"))
    return quality.results.Summary.read(tmp_path)


def test_ratios_are_paired_by_style_and_seed(quality, summary):
    a, _, c = summary.styles
    assert summary.judges == ("vgg16", "vgg19")
    assert summary.places == (("scratch", 500), ("base", 25), ("base", 100), ("gatys", 0))
    # Medians over seeds: of 1, 3, 3 and of the ratios 0.5, 1.5, 0.75; another judge's numbers are twice as large, its ratios the same.
    assert summary.median(a, ("base", 25), "vgg16") == 3
    assert summary.median(a, ("base", 25), "vgg19", "content") == 3
    assert summary.ratios(("base", 25), ("scratch", 500), "vgg19") == [0.75, 2, 1]
    # Gatys' one value stands beside every seed: 1, 2 and 4 times its 1.
    assert summary.ratios(("base", 100), ("gatys", 0), "vgg16") == [1, 2, 4]
    assert summary.ratios(("gatys", 0), ("scratch", 500), "vgg16") == [0.5, 1, 1]
    assert summary.ratio(c, ("base", 10), ("scratch", 500), "vgg16") is None


def test_the_shares_count_styles(quality, summary, tmp_path):
    quality.results.write(tmp_path)
    lines = (tmp_path / "results.md").read_text().splitlines()
    cells = "2 of 3 (67%) | 1.00 | 2.00"
    assert f"| base 25 ≤ scratch 500 | {cells} | {cells} |" in lines
    cells = "1 of 3 (33%) | 2.00 | 4.00"
    assert f"| base 100 ≤ 1.3 x Gatys | {cells} | {cells} |" in lines
    assert not [line for line in lines if line.startswith("| base 10 ")]  # nobody was judged there
    assert any(line.startswith("- Gatys: 65 L-BFGS iterations an image in the median, 60 to 70, on vgg16") for line in lines)


def test_a_report_of_nothing_says_so(quality, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no rows"):
        call(quality, monkeypatch, "--out", tmp_path, "--report-only")
