"""The whole audit at its smallest, from the command line: three users, two styles, one round."""

import json

import pytest
from click.testing import CliRunner
from conftest import picture

from fedstyle.cli import cli
from fedstyle.config import Config
from fedstyle.population import first_base
from fedstyle.privacy.audit import attacks, conformance, inversion, study, utility, world
from fedstyle.privacy.audit.page import headline

TOML = """
[data]
photos = "photos"
clients = 2
holdout = 0
styles = ["one.png", "other.png"]
[net]
width = 2
[loss]
density = 64
[training]
size = 32
batch = 1
crops = 1
warmup = 0
iterations = 1
[method]
steps = 1
[server]
rounds = 1
cohort = 4
[privacy]
clip = 0.05
noise = 0.3
"""
SCALE = ["--trials", "4", "--filters", "2", "--members", "4", "--others", "20", "--photos", "2", "--canaries", "50", "--unseen", "2"]


def shrink(patch):
    patch.setattr(world, "CANDIDATES", 2)
    patch.setattr(attacks, "CANDIDATES", 2)
    patch.setattr(attacks, "SINGLES", 6)
    patch.setattr(attacks, "SEARCHED", 1)
    patch.setattr(inversion, "ITERATIONS", 2)
    patch.setattr(utility, "ITERATIONS", 1)
    patch.setattr(study, "CLIPS", (100.0,))
    patch.setattr(study, "NOISES", (4.0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    (folder / "photos").mkdir()
    for seed in range(2):
        picture(seed, (200, 200)).save(folder / "photos" / f"{seed}.png")
    for seed, name in ((7, "one"), (8, "other")):
        picture(seed, (64, 64)).save(folder / f"{name}.png")
    (folder / "run.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def result(folder):
    """The audit's JSON, the page beside it, and what the command said."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        done = CliRunner().invoke(cli, ["audit", str(folder / "run.toml"), "--out", str(folder / "out"), *SCALE])
    assert done.exit_code == 0, done.output
    return json.loads((folder / "out" / "audit.json").read_text()), (folder / "out" / "audit.html").read_text(), done.stdout


def test_every_release_has_every_figure_with_its_interval_and_verdict(result, folder):
    found = result[0]
    assert [row["release"] for row in found["releases"]] == [
        "nothing", "norms only", "shared only", "full", "clipped and noised", "securely summed", "exported filter",
    ]  # fmt: skip
    for row in found["releases"]:
        for one in (row["reidentification"], row["membership"]["auc"]):
            assert 0 <= one["low"] <= one["value"] <= one["high"] <= 1
            assert one["verdict"] in ("met", "not met", "unresolved")
        assert (row["reconstruction"] is None) == (row["release"] in ("nothing", "exported filter"))
    assert found["workload"]["styles"] == 2
    assert found["workload"]["base"] == first_base(Config.load(folder / "run.toml")).sha256[:12]
    assert found["targets"]["chance"] == 0.5


def test_an_audit_this_small_settles_nothing_and_says_so(result):
    found, page, said = result
    verdicts = {row["reidentification"]["verdict"] for row in found["releases"]}
    assert verdicts == {"unresolved"}
    assert not found["controls"]["search"]["holds"]  # two iterations rebuild nothing: the search is void
    assert {row["reconstruction"]["verdict"] for row in found["releases"][1:-1]} <= {"unresolved", "not met"}
    assert "void" in said
    assert "unresolved" in page
    assert headline(found) in page.replace("&#x27;", "'")


def test_the_aggregator_passes_and_each_seeded_fault_is_caught(result):
    found, _, said = result
    assert all(check["passed"] for check in found["mechanism"]["checks"])
    assert all(fault["caught"] for fault in found["mechanism"]["faults"])
    assert len(found["mechanism"]["faults"]) == 6
    assert all(bound["low"] <= bound["claimed"] for bound in found["mechanism"]["canaries"])
    assert "7 of 7 checks passed, 6 of 6 seeded faults caught" in said


def test_the_page_says_what_an_officer_must_know(result):
    page = result[1]
    for words in (
        "not a privacy mechanism",
        "Positive controls",
        "Seeded faults",
        "Not covered",
        "95 %",
        "accountant",
        "what is not known",
    ):
        assert words in page
    assert "http" not in page.split("<body>")[1]


def test_the_headline_of_the_private_mode_names_what_is_not_met(result):
    found = result[0] | {"mode": "private"}
    assert headline(found).startswith("The private mode keeps none of three limits") or "photo unresolved" in headline(found)
    assert "unseen users lose" in headline(found) or found["frontier"]["utility"][1]["worse"]["verdict"] == "unresolved"


def test_the_same_audit_gives_the_same_figures(result, folder, monkeypatch):
    shrink(monkeypatch)
    monkeypatch.setattr(conformance, "ALPHA", 7.0)  # over 7 checks: now even the right aggregator fails
    done = CliRunner().invoke(cli, ["audit", str(folder / "run.toml"), "--json", *SCALE])
    assert done.exit_code == 1
    assert "fails" in done.stderr
    again = json.loads(done.stdout)
    assert again["releases"] == result[0]["releases"]
    assert [one["chance"] for one in again["mechanism"]["checks"]] == [one["chance"] for one in result[0]["mechanism"]["checks"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "1"], "--trials = 1: give 4 or more"),
        (["--set", "server.rounds=0"], "server.rounds = 0"),
        (["--set", 'data.styles=["one.png"]'], "one style"),
        (["--set", "method.name=scaffold"], "method.name = 'scaffold' sends further tensors"),
        (["--set", "method.name=ifca"], "audit a method such as fedavg"),
    ],
)
def test_mistakes_are_one_line(folder, words, said):
    done = CliRunner().invoke(cli, ["audit", str(folder / "run.toml"), *words])
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_is_overwritten(folder, result):
    done = CliRunner().invoke(cli, ["audit", str(folder / "run.toml"), "--out", str(folder / "out")])
    assert done.exit_code == 2
    assert "exists already" in done.stderr
