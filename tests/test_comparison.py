import csv
import io
import json

import pytest
from click.testing import CliRunner
from run_files import write_run

from fedstyle.cli import cli
from fedstyle.errors import ConfigError
from fedstyle.report.comparison import as_csv, as_file, as_markdown, compare, unlike


def change(**facts):
    def apply(summary):
        summary.update(facts)
        summary["clients"][0]["role"] = "unseen"
        summary["clients"][1]["losses"]["after"]["total"] = 2.5

    return apply


@pytest.fixture
def runs(tmp_path):
    """Two runs of three clients; losses 1.1, 2.5 and 1.3 after personalisation, 2.2 before."""
    return [
        write_run(tmp_path / "one", change=change()),
        write_run(tmp_path / "two", rounds=4, change=change(method="ditto|x", strategy="FedAdam")),
    ]


def test_a_row_by_hand(runs):
    one, two = compare(runs)
    assert (one["run"], one["method"], one["strategy"], one["rounds"], one["clients"]) == ("one", "fedbn", "FedAvg", 2, 3)
    assert one["mean"] == pytest.approx((1.1 + 2.5 + 1.3) / 3)  # 1.6333
    # Squares of -0.5333, 0.8667 and -0.3333 sum to 1.1467; a third of that is 0.3822.
    assert one["std"] == pytest.approx(0.3822**0.5, abs=1e-4)
    assert one["worst_decile"] == 2.5  # a tenth of three clients is one
    assert one["unseen_mean"] == 1.1
    assert one["worse_off"] == pytest.approx(1 / 3)  # 2.5 is over 2.2
    assert one["base_mean"] == pytest.approx(2.2)
    assert (two["method"], two["bytes_up"]) == ("ditto|x", 839_700 * 3 * 4)


def test_the_worst_decile_is_the_mean_of_the_tenth_with_the_highest_loss(tmp_path):
    (row,) = compare([write_run(tmp_path / "run", clients=20, rounds=1)])  # losses 1.1, 1.2 ... 3.0
    assert row["worst_decile"] == pytest.approx((2.9 + 3.0) / 2)
    assert row["worse_off"] == pytest.approx(8 / 20)  # 2.3 to 3.0 are over 2.2
    assert row["unseen_mean"] is None


def test_runs_that_do_not_compare_are_said_to_be(runs, tmp_path):
    assert unlike(compare(runs)) == []
    other = write_run(tmp_path / "three", clients=4, change=lambda summary: summary.update(features="vgg16"))
    assert unlike(compare([*runs, other])) == ["features", "clients"]


def test_tables_for_people_and_for_machines(runs):
    rows = compare(runs)
    head, rule, first, second, *_ = as_markdown(rows).splitlines()
    assert head.startswith("| Run | Method | Strategy | Rounds | Clients | Mean loss | Std | Worst decile | Unseen | Worse off |")
    assert rule.count("---:") == 11
    assert first.startswith("| one | fedbn | FedAvg | 2 | 3 | 1.63 | 0.618 | 2.50 | 1.10 | 33 % | 2.20 |")
    assert "| ditto\\|x |" in second
    (line, _) = csv.DictReader(io.StringIO(as_csv(rows)))
    assert float(line["mean"]) == rows[0]["mean"]
    page = as_file(runs[0].parent / "page.html", runs, rows)
    assert page.count("<figure>") == 2
    assert all(word in page for word in ("By round", "By bytes", "Megabytes up and down", "ditto|x"))
    assert str(runs[0].parent) not in page
    with pytest.raises(ConfigError, match=r"cannot be a \.pdf: choose \.md, \.csv, \.html"):
        as_file(runs[0].parent / "x.pdf", runs, rows)


def test_a_run_without_filters_or_without_losses_has_dashes(tmp_path):
    def bare(summary):
        for client in summary["clients"]:
            client.update(losses=None, filter=None)

    rows = compare([write_run(tmp_path / "run", change=bare)])
    assert (rows[0]["mean"], rows[0]["std"], rows[0]["worse_off"]) == (None, None, None)
    assert "| – | – | – | – | – | – |" in as_markdown(rows)
    (tmp_path / "run" / "history.jsonl").unlink()
    assert "<figure>" not in as_file(tmp_path / "page.html", [tmp_path / "run"], rows)


def test_the_command(runs, tmp_path):
    def call(*words):
        return CliRunner().invoke(cli, ["compare", *map(str, words)])

    shown = call(*runs)
    assert shown.exit_code == 0, shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["Run", "one", "two"]
    assert json.loads(call(*runs, "--json").stdout) == compare(runs)
    assert call(*runs, "--out", tmp_path / "table.md").exit_code == 0
    assert (tmp_path / "table.md").read_text() == as_markdown(compare(runs))
    for words, says in (((tmp_path,), "holds no finished run"), ((*runs, "--out", tmp_path / "table.md"), "exists"), ((), "RUN")):
        result = call(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert says in result.stderr
