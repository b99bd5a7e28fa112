import dataclasses
import json

import pytest
from conftest import picture

from fedstyle.base import Base
from fedstyle.config import Config, Data, Export, Loss, Net, Server, Training
from fedstyle.errors import ConfigError, FederationError, OutputError
from fedstyle.filter import Filter
from fedstyle.params import load
from fedstyle.simulate import simulate


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The configuration of a run of three clients that takes a second or two."""
    photos = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        picture(seed).save(photos / f"{seed}.png")
    return Config(
        data=Data(str(photos), clients=3, holdout=1),
        net=Net(width=4),
        loss=Loss(density=64),
        training=Training(size=32, batch=2, crops=4, iterations=2, device="cpu"),
        method={"name": "fedbn", "steps": 2},
        server=Server(rounds=2),
        export=Export(size=64, clients=False),
    )


@pytest.fixture(scope="module")
def finished(small_run, tmp_path_factory):
    """A finished run with exports."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return simulate(dataclasses.replace(small_run, export=Export(size=64)), out)


def test_a_run_leaves_the_folder_that_the_design_names(finished):
    out = finished.folder
    assert {path.name for path in out.iterdir()} == {"config.toml", "history.jsonl", "summary.json", "report.html", "base", "clients"}
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rounds"], summary["engine"], len(summary["clients"])) == (2, "inline", 3)
    assert Base.load(out / "base").sha256 == summary["base_sha256"] == finished.base.sha256
    for client in summary["clients"]:
        home = out / "clients" / client["id"]
        assert {path.name for path in home.iterdir()} >= {"ledger.jsonl", "losses.jsonl", "private.safetensors", "filter", "pictures"}
        assert Filter.load(out / client["filter"]).facts["base_sha256"] == summary["base_sha256"]
        assert (out / client["package"]).is_dir()
        assert client["parity"]["faithful"]
        assert set(client["losses"]["before"]) == {"content", "style", "total"}
        assert client["heldout_kind"] == "unseen photos"


def test_history_has_a_line_a_round_whose_bytes_are_those_of_the_ledgers(finished):
    rounds = [json.loads(line) for line in (finished.folder / "history.jsonl").read_text().splitlines()]
    ledgers = [json.loads(line) for path in finished.folder.glob("clients/*/ledger.jsonl") for line in path.read_text().splitlines()]
    assert [(line["round"], line["replied"], line["sampled"]) for line in rounds] == [(1, 3, 3), (2, 3, 3)]
    assert sum(line["bytes_up"] for line in rounds) == sum(line["bytes"] for line in ledgers) == finished.summary["bytes_up"]
    shared = [name for name in finished.base.weights if ".norm" not in name]
    assert all(sorted(line["arrays"]) == sorted(shared) for line in ledgers)  # the norms never left


def test_norms_stay_private_and_differ_between_clients(finished):
    kept = [load(path) for path in sorted(finished.folder.glob("clients/*/private.safetensors"))]
    norms = [{name: value for name, value in state.items() if name.startswith("net/")} for state in kept]
    assert all(".norm" in name for state in norms for name in state)
    assert any((norms[0][name] != norms[1][name]).any() for name in norms[0])


def test_the_resolved_configuration_reads_back_and_gives_the_same_base(finished, small_run, tmp_path):
    config = Config.load(finished.folder / "config.toml")
    assert config.server == small_run.server
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, iterations=0), export=small_run.export)
    for workers in (1, 3):
        server = dataclasses.replace(config.server, workers=workers)
        again = simulate(dataclasses.replace(config, server=server), tmp_path / str(workers))
        assert again.base.sha256 == finished.base.sha256


def test_another_seed_gives_another_base(finished, small_run, tmp_path):
    training = dataclasses.replace(small_run.training, seed=1, iterations=0)
    assert simulate(dataclasses.replace(small_run, training=training), tmp_path / "run").base.sha256 != finished.base.sha256


def test_a_run_is_never_overwritten(finished, small_run):
    with pytest.raises(OutputError, match="never overwritten"):
        simulate(small_run, finished.folder)


def test_a_wrong_configuration_leaves_no_folder(small_run, tmp_path):
    wrong = (
        dataclasses.replace(small_run, method={"name": "fedbm"}),
        dataclasses.replace(small_run, server=Server(strategy="FedAdm")),
        dataclasses.replace(small_run, loss=Loss(features="vgg16", weights=str(tmp_path / "none.pth"))),
    )
    for config in wrong:
        with pytest.raises(ConfigError):
            simulate(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_client_that_cannot_train_fails_the_round_by_a_code_alone(small_run, tmp_path, monkeypatch):
    secret = "/home/anna/holiday.jpg"

    def broken(self, base, **_):
        raise ValueError(secret)

    monkeypatch.setattr("fedstyle.client.Client.fit", broken)
    with pytest.raises(FederationError) as caught:
        simulate(small_run, tmp_path / "run")
    assert secret not in str(caught.value)
    assert secret in (tmp_path / "run/clients/000/errors.log").read_text()
