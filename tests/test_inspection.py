import json

import pytest
import torch

from fedstyle import params
from fedstyle.errors import FedstyleError, FilterError, ParamsError
from fedstyle.inspection import describe_methods, inspect
from fedstyle.session import Session
from fedstyle.training import Progress


@pytest.fixture
def filter_folder(small, tmp_path):
    small.save(tmp_path / "filter")
    return tmp_path / "filter"


def lines(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def test_a_base(base, tmp_path):
    base.save(tmp_path / "base")
    found = inspect(tmp_path / "base")
    assert (found["kind"], found["architecture"], found["sha256"]) == ("base", "cnnLite", base.sha256)
    # Width 4: norms of 8+16 channels down, 10x16 in the blocks, 8+2 up, each with scale and shift: 2 * 194 = 388
    assert found["stays"] == {"arrays": 28, "parameters": 388, "bytes": 1552, "what": "instance-norm scale and shift"}
    assert found["would_leave"]["parameters"] == found["parameters"] - 388
    assert (found["would_leave"]["type"], found["would_leave"]["bytes"]) == ("fp16", 2 * (found["parameters"] - 388))
    assert found["bytes"] == 4 * found["parameters"]
    assert found["operations"] == {"conv": 15, "instance_norm": 14}
    assert "predictor" not in found
    assert inspect(tmp_path / "base" / "base.safetensors") == found


def test_a_base_with_a_predictor(predictive, tmp_path):
    predictive.save(tmp_path / "base", half=True)
    found = inspect(tmp_path / "base")
    # 416 numbers of a code in, 64 hidden units, 388 norms out: 2 * 416 + 416*64 + 64 + 64*388 + 388 = 52,740
    head = {"arrays": 6, "parameters": 52_740, "bytes": 4 * 52_740}
    assert found["predictor"] == {**head, "what": "reads norms off a style image; the default method sends no change of it"}
    assert found["stays"] == {"arrays": 28, "parameters": 388, "bytes": 1552, "what": "instance-norm scale and shift"}
    assert found["would_leave"]["arrays"] == 30
    assert found["would_leave"]["parameters"] + 388 + 52_740 == found["parameters"]
    assert found["record"] == predictive.record
    json.dumps(found)


def test_a_filter_by_its_folder_or_its_file(filter_folder, small):
    found = inspect(filter_folder)
    assert (found["kind"], found["sha256"], found["facts"]) == ("filter", small.sha256, small.facts)
    assert [side["name"] for side in (*found["inputs"], *found["outputs"])] == ["image", "stylizedImage"]
    assert inspect(filter_folder / "filter.safetensors") == found
    json.dumps(found)


def test_an_update_and_the_private_arrays_in_it(base, tmp_path):
    delta = {name: value * 0 + 1 for name, value in base.weights.items() if name.startswith("down2.")}
    params.save(delta, tmp_path / "up.safetensors")
    found = inspect(tmp_path / "up.safetensors")
    assert found["kind"] == "update"
    assert found["norm"] == pytest.approx((16 * 8 * 9 + 16 + 16 + 16) ** 0.5)  # every number is 1
    assert found["would_leave"] == {"arrays": 4, "parameters": 1200, "bytes": 2400, "type": "fp16"}  # fp32 on disk
    assert found["private_arrays"] == ["down2.norm.bias", "down2.norm.weight"]
    delta = {name: torch.zeros(1) for name in ("down3.norm.bias", "down3.conv.bias", "predictor.out.bias")}
    params.save(delta, tmp_path / "classic.safetensors")
    classic = inspect(tmp_path / "classic.safetensors")  # the classic network's names are known too, and a predictor's
    assert classic["private_arrays"] == ["down3.norm.bias", "predictor.out.bias"]
    assert found["arrays"][0] == {"name": "down2.conv.bias", "type": "float32", "shape": [16], "bytes": 64}


def test_a_client_shows_what_left_and_what_stays(base, tmp_path):
    norms = {f"net/{name}": value for name, value in base.weights.items() if ".norm" in name}
    params.save(norms | {"memory/iteration": base.weights["out.conv.bias"]}, tmp_path / "private.safetensors")
    sent = {"down1.conv.weight": 10, "down1.conv.bias": 2}
    lines(
        tmp_path / "ledger.jsonl",
        {"round": 1, "kind": "update", "arrays": sent, "bytes": 12},
        {"round": 2, "kind": "failure", "code": "photos", "bytes": 6},
        {"round": 3, "kind": "update", "arrays": sent, "bytes": 12},
    )
    found = inspect(tmp_path)
    assert found["kind"] == "client"
    assert found["rounds"] == 2
    assert found["left"] == {"messages": 3, "bytes": 30, "arrays": 2}
    assert found["arrays_that_left"] == sorted(sent)
    assert found["stays"] == {"arrays": 28, "parameters": 388, "bytes": 1552}
    assert (found["filter"], found["models"]) == (False, [])


def test_a_run_before_and_after_its_end(tmp_path):
    (tmp_path / "config.toml").write_text("")
    lines(tmp_path / "history.jsonl", {"round": 1, "base_sha256": "aa", "loss": None}, {"round": 2, "base_sha256": "bb", "loss": None})
    (tmp_path / "clients" / "000").mkdir(parents=True)
    found = inspect(tmp_path)
    assert (found["kind"], found["finished"], found["rounds_done"], found["base_sha256"]) == ("run", False, 2, "bb")
    assert found["left_devices"] == {"000": {"messages": 0, "bytes": 0, "arrays": 0}}
    (tmp_path / "summary.json").write_text('{"rounds": 2, "engine": "inline"}')
    assert inspect(tmp_path)["finished"]
    assert inspect(tmp_path)["engine"] == "inline"
    for damaged in ('{"rounds"', "[1]", "3"):
        (tmp_path / "summary.json").write_text(damaged)
        with pytest.raises(FedstyleError, match=r"summary\.json is damaged: run the simulation again"):
            inspect(tmp_path)


@pytest.mark.parametrize("bad", ["{nonsense}", "[1]", "\0"])
@pytest.mark.parametrize("name", ["history.jsonl", "clients/000/ledger.jsonl"])
def test_a_damaged_line_of_a_run_is_an_error_and_a_torn_one_is_not(tmp_path, name, bad):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "clients" / "000").mkdir(parents=True)
    good = {"round": 1, "kind": "update", "arrays": {}, "bytes": 2}
    lines(tmp_path / name, good)
    with open(tmp_path / name, "a") as file:
        file.write(bad)
    assert inspect(tmp_path)["kind"] == "run"
    with open(tmp_path / name, "a") as file:
        file.write("\n")
    with pytest.raises(FedstyleError, match=r"\.jsonl is damaged: line 2 is no JSON object"):
        inspect(tmp_path)


@pytest.mark.parametrize("line", [{}, {"kind": "update"}, {"kind": "update", "bytes": "2"}, {"kind": "update", "bytes": 2, "arrays": [1]}])
def test_a_line_that_is_no_entry_of_a_ledger_is_an_error(tmp_path, line):
    lines(tmp_path / "ledger.jsonl", line)
    with pytest.raises(FedstyleError, match=r"ledger\.jsonl is damaged: line 1 is no entry of a ledger"):
        inspect(tmp_path)


def test_a_session_lists_its_whole_checkpoints(tmp_path):
    kept = Session(tmp_path / "session")
    with kept.open({}, {"w": torch.zeros(1)}, {}, 1):
        for iteration in (10, 20):
            kept.save(Progress(iteration, 100, 0.1, 0.2, 0.3), {}, {"iteration": torch.tensor(iteration)})
    assert inspect(kept.folder) == {"kind": "session", "checkpoints": [10, 20]}
    (kept.folder / "checkpoint-000020.safetensors").write_text("{")
    assert inspect(kept.folder)["checkpoints"] == [10]
    (kept.folder / "session.json").write_text("{}")
    with pytest.raises(FedstyleError, match=r"session\.json is damaged"):
        inspect(kept.folder)


def test_what_is_unknown_or_damaged_is_an_error(filter_folder, tmp_path):
    with pytest.raises(FedstyleError, match="gone does not exist"):
        inspect(tmp_path / "gone")
    with pytest.raises(FedstyleError, match="is nothing that fedstyle knows"):
        inspect(tmp_path)
    params.save({"fc.weight": params.load(filter_folder / "filter.safetensors")["out.conv.bias"]}, tmp_path / "other.safetensors")
    with pytest.raises(ParamsError, match=r"is no update of a transform network: it holds 'fc\.weight'"):
        inspect(tmp_path / "other.safetensors")
    with open(filter_folder / "filter.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(FilterError, match="was altered or damaged"):
        inspect(filter_folder)


def test_methods_are_described_by_their_own_code():
    rows = {row["name"]: row for row in describe_methods()}
    assert rows["fedbn"]["paper"].endswith(", Li et al. 2021, arXiv:2102.07623")
    assert rows["fedbn"]["shares"].startswith("Every parameter but the norms, ")
    assert rows["fedbn"]["private_parameters"] == 1552  # of cnnLite: 2 * (32 + 64 + 10 * 64 + 32 + 8)
    assert rows["predicted"]["paper"].endswith(", Ghiasi et al. 2017, arXiv:1705.06830")
    assert rows["predicted"]["shared_parameters"] == 415_443
    assert rows["fedavg"]["private_parameters"] == rows["local"]["shared_parameters"] == 0
    assert rows["fedprox"]["fields"]["mu"] == 0.1
    json.dumps(list(rows.values()))
