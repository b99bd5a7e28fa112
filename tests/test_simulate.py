import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import picture

from fedstyle.base import Base
from fedstyle.client import Client
from fedstyle.config import Config, Data, Export, Loss, Net, Privacy, Server, Training
from fedstyle.errors import BaseError, ConfigError, FederationError, OutputError
from fedstyle.filter import Filter
from fedstyle.params import load
from fedstyle.privacy.accounting import Mechanism, delta_for, total_epsilon
from fedstyle.privacy.sampling import Poisson
from fedstyle.report.html import escape
from fedstyle.report.words import figure
from fedstyle.simulate import check, simulate
from fedstyle.style import Style

SECRET = "Anna-in-Rimini"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The configuration of a run of three clients that takes a second or two."""
    photos = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        picture(seed).save(photos / f"{seed}.png")
    styles = tmp_path_factory.mktemp("styles")
    for seed in range(3):
        picture(10 + seed).save(styles / f"{SECRET}-{seed}.png")
    return Config(
        data=Data(str(photos), clients=3, styles=str(styles), holdout=1),
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
        assert [set(part) for part in client["losses"].values()] == [{"content", "style", "total"}] * 3
        assert (client["strength"], client["density"]) == (5, 64)
        assert client["heldout_kind"] == "unseen photos"


def test_history_has_a_line_a_round_whose_bytes_are_those_of_the_ledgers(finished):
    rounds = [json.loads(line) for line in (finished.folder / "history.jsonl").read_text().splitlines()]
    ledgers = [json.loads(line) for path in finished.folder.glob("clients/*/ledger.jsonl") for line in path.read_text().splitlines()]
    updates = [line for line in ledgers if line["kind"] == "update"]
    assert [(line["round"], line["kind"], line["bytes"]) for line in ledgers if line not in updates] == [(0, "hello", 8)] * 3
    assert [(line["round"], line["replied"], line["sampled"]) for line in rounds] == [(1, 3, 3), (2, 3, 3)]
    assert sum(line["bytes_up"] for line in rounds) == sum(line["bytes"] for line in updates) == finished.summary["bytes_up"]
    shared = [name for name in finished.base.weights if ".norm" not in name]
    assert all(sorted(line["arrays"]) == sorted(shared) for line in updates)  # the norms never left


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


def test_a_filter_may_be_tuned_in_every_parameter(finished, small_run, tmp_path):
    out = tmp_path / "run"
    simulate(dataclasses.replace(small_run, export=Export(clients=False, full=True)), out)
    private, full = (Filter.load(folder / "clients" / "000" / "filter") for folder in (finished.folder, out))
    assert (private.facts["trained"], full.facts["trained"]) == ("private", "all")
    shared = [name for name in private.weights if ".norm" not in name]
    assert all(torch.equal(private.weights[name], finished.base.weights[name]) for name in shared)
    assert not all(torch.equal(full.weights[name], finished.base.weights[name]) for name in shared)


def test_a_run_is_never_overwritten(finished, small_run):
    with pytest.raises(OutputError, match="never overwritten"):
        simulate(small_run, finished.folder)


def test_a_run_may_start_from_a_base_whose_predictor_stays_as_it_was(small_run, tmp_path, predictive):
    predictive.save(tmp_path / "start")
    net = Net(base=str(tmp_path / "start"))
    run = dataclasses.replace(small_run, net=net, server=Server(rounds=1), training=dataclasses.replace(small_run.training, iterations=1))
    finished = simulate(run, tmp_path / "run")
    assert Config.load(tmp_path / "run" / "config.toml").net == net
    assert finished.base.record == {"seed": 0, "round": 1, "strategy": "FedAvg"}
    (line,) = finished.rounds
    assert line["round"] == 1
    shared = {name for name in predictive.weights if ".norm" not in name and not name.startswith("predictor.")}
    changed = {name for name, value in finished.base.weights.items() if not torch.equal(value, predictive.weights[name])}
    assert {name for name in shared if name.endswith("weight")} <= changed <= shared  # a bias before a norm has no slope
    for home in sorted((tmp_path / "run" / "clients").iterdir()):
        update = next(one for one in map(json.loads, (home / "ledger.jsonl").read_text().splitlines()) if one["kind"] == "update")
        assert set(update["arrays"]) == shared
        assert not [name for name in load(home / "private.safetensors") if "predictor" in name]
        assert not [name for name in Filter.load(home / "filter").weights if "predictor" in name]
    # Down goes the whole base in fp16, as one array.
    assert line["bytes_down"] == 3 * 2 * sum(value.numel() for value in predictive.weights.values())


def test_a_run_teaches_a_predictor_and_every_filter_starts_from_what_it_predicts(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr("fedstyle.prediction.FAMILIES", ("mosaic",))
    method = {"name": "predicted", "steps": 2, "variants": 2, "decay_rounds": 2}
    finished = simulate(dataclasses.replace(small_run, method=method), tmp_path / "run")
    assert finished.base.predicts
    assert bool(finished.base.weights["predictor.out.weight"].any())
    for row in finished.summary["clients"]:
        assert row["losses"]["before"] == row["losses"]["rounds"]  # nothing but the base's own prediction, also after rounds
        assert row["losses"]["after"] != row["losses"]["rounds"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_base_that_cannot_be_used_leaves_no_folder(small_run, tmp_path):
    for base, error in ((str(tmp_path / "nowhere"), BaseError), (str(tmp_path / "other"), ConfigError)):
        Base.new("cnn", width=4).save(tmp_path / "other")
        config = dataclasses.replace(small_run, net=Net(base=base))
        for act in (check, lambda config: simulate(config, tmp_path / "run")):
            with pytest.raises(error):
                act(config)
        assert not (tmp_path / "run").exists()


def test_a_wrong_configuration_leaves_no_folder(small_run, tmp_path, monkeypatch):
    wrong = (
        dataclasses.replace(small_run, method={"name": "fedbm"}),
        dataclasses.replace(small_run, server=Server(strategy="FedAdm")),
        dataclasses.replace(small_run, method={"name": "fedbn", "lr": 2.0}),
        dataclasses.replace(small_run, server=Server(cohort=4)),
        dataclasses.replace(small_run, loss=Loss(features="vgg16", weights=str(tmp_path / "none.pth"))),
        dataclasses.replace(small_run, training=Training(device="mps")),
    )
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for config in wrong:
        with pytest.raises(ConfigError) as checked:
            check(config)
        with pytest.raises(ConfigError) as ran:
            simulate(config, tmp_path / "run")
        assert str(checked.value) == str(ran.value)
        assert not (tmp_path / "run").exists()
    assert [device.style_name for device in check(small_run).devices] == [f"{SECRET}-{seed}" for seed in range(3)]


@pytest.mark.parametrize(
    ("package", "extra", "config"),
    [
        ("flwr", "federation", Config()),
        ("ray", "ray", Config(server=Server(engine="ray"))),
        ("coremltools", "coreml", Config()),
    ],
)
def test_a_missing_package_is_found_before_anything_is_made(package, extra, config, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest))
    with pytest.raises(ConfigError, match=rf"pip install 'fedstyle\[{extra}\]'"):
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


def test_the_losses_tell_the_part_of_the_rounds_from_that_of_the_filter(finished, small_run):
    population = check(small_run)
    for device, row in zip(population.devices, finished.summary["clients"], strict=True):
        style = Style(device.style_file, density=64)
        client = Client(finished.folder / "clients" / device.id, device.photos, style, loss=small_run.loss, training=small_run.training)
        # By hand: the base's convolutions with the norms that lie in this client's home since its last round.
        state = load(client.folder / "private.safetensors")
        norms = {name.removeprefix("net/"): value for name, value in state.items() if name.startswith("net/")}
        kept = dataclasses.replace(finished.base, weights={**finished.base.weights, **norms})
        assert row["losses"]["before"] == pytest.approx(client.evaluate(finished.base, device.heldout), rel=1e-5)
        assert row["losses"]["rounds"] == pytest.approx(client.evaluate(kept, device.heldout), rel=1e-5)
        assert row["losses"]["rounds"] != row["losses"]["before"]
        assert row["improvement"] == pytest.approx(1 - row["losses"]["after"]["total"] / row["losses"]["before"]["total"])
    assert "Base with own part" in (finished.folder / "report.html").read_text()


def test_no_file_name_travels_in_a_filter_or_its_export(finished):
    for row in finished.summary["clients"]:
        assert SECRET in row["package"]  # the design's name of the package itself, on this machine
        files = [path for part in ("filter", "package") for path in (finished.folder / row[part]).rglob("*") if path.is_file()]
        assert len(files) > 3
        assert not [path for path in files if SECRET.encode() in path.read_bytes() or SECRET in path.name]
        assert "name" not in Filter.load(finished.folder / row["filter"]).facts


def test_density_is_the_one_that_the_style_takes(small_run, tmp_path, recwarn):
    config = dataclasses.replace(small_run, loss=Loss(density=67), training=dataclasses.replace(small_run.training, iterations=0))
    summary = simulate(dataclasses.replace(config, server=Server(rounds=0)), tmp_path / "run").summary
    assert {row["density"] for row in summary["clients"]} == {64}


@pytest.mark.parametrize(
    ("place", "error", "filters"),
    [
        ("fedstyle.client.Client.evaluate", RuntimeError("out of memory in /home/anna"), 2),
        ("fedstyle.personalising.pictures", OSError(28, "No space left on device", "/home/anna"), 3),  # its filter is there all the same
        ("fedstyle.personalising.verify", ValueError("/home/anna"), 3),
    ],
)
def test_whatever_breaks_on_one_device_is_noted_there_and_stops_no_other(small_run, tmp_path, monkeypatch, place, error, filters):
    module, _, name = place.rpartition(".")
    owner = sys.modules["fedstyle.client"].Client if module.endswith("Client") else sys.modules[module]
    right, broken = getattr(owner, name), []

    def once(*arguments, **named):
        if not broken:
            broken.append(True)
            raise error
        return right(*arguments, **named)

    monkeypatch.setattr(owner, name, once)
    config = dataclasses.replace(small_run, server=Server(rounds=1, workers=1), export=Export(size=64, clients=name == "verify"))
    history = simulate(config, tmp_path / "run")
    first, *others = json.loads((tmp_path / "run/summary.json").read_text())["clients"]
    assert first["error"] == type(error).__name__
    assert [row["error"] for row in others] == [None, None]
    assert sum(row["filter"] is not None for row in history.summary["clients"]) == filters
    assert (tmp_path / "run/report.html").exists()
    log = (tmp_path / "run/clients/000/errors.log").read_text()
    assert f"{'export' if name == 'verify' else 'personalize'}: {type(error).__name__}\nTraceback" in log
    assert "/home/anna" in log
    assert "/home/anna" not in (tmp_path / "run/summary.json").read_text()
    assert [path.name for path in (tmp_path / "run").glob("clients/*/errors.*")] == ["errors.log"]


def test_a_filter_that_is_not_finite_is_a_failure_and_no_lost_summary(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Client, "evaluate", lambda *_: dict.fromkeys(("content", "style", "total"), float("nan")))
    history = simulate(dataclasses.replace(small_run, server=Server(rounds=0)), tmp_path / "run")
    assert [row["error"] for row in history.summary["clients"]] == ["FedstyleError"] * 3


def test_ctrl_c_while_filters_are_made_ends_after_the_iterations_at_hand(small_run, tmp_path, monkeypatch):
    right = Client.personalize

    def endless(self, base, *, iterations, full=False):
        return right(self, base, iterations=iterations and (1 if self.folder.name == "000" else 20_000))

    def interrupt(stage, done, total):
        if stage == "filters":
            raise KeyboardInterrupt

    monkeypatch.setattr(Client, "personalize", endless)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        simulate(dataclasses.replace(small_run, server=Server(rounds=0, workers=3)), tmp_path / "run", watch=interrupt)
    assert time.monotonic() - started < 30  # 20,000 iterations take minutes
    assert not list((tmp_path / "run").glob("clients/*/errors.log"))  # it is no failure
    assert not (tmp_path / "run/summary.json").exists()


def test_the_folder_may_be_relative(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = simulate(dataclasses.replace(small_run, server=Server(rounds=0)), "run")
    assert history.folder == tmp_path / "run"


REAL = """
import sys
from fedstyle.config import Config, Data, Export, Net, Server, Training
from fedstyle.privacy.accounting import Mechanism, delta_for, total_epsilon
from fedstyle.privacy.sampling import Poisson
from fedstyle.simulate import simulate
engine, workers, out = sys.argv[1:]
print(simulate(
    Config(
        data=Data(clients=3, holdout=1),
        net=Net(width=8),
        training=Training(size=64, batch=2, crops=4, iterations=0, device="cpu"),
        method={"name": "fedbn", "steps": 3},
        server=Server(engine=engine, workers=int(workers), rounds=2),
        export=Export(clients=False),
    ),
    out,
).summary["base_sha256"])
"""


@pytest.mark.soak
def test_every_engine_and_number_of_workers_gives_the_same_base_of_real_photos(tmp_path):
    bases = {}
    for engine, workers in (("inline", 1), ("inline", 2), ("ray", 2)):
        done = subprocess.run(
            [sys.executable, "-c", REAL, engine, str(workers), f"{engine}-{workers}"],  # relative: Ray's actors work elsewhere
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "4"},  # what a user's shell may say, and clients must not depend on
            capture_output=True,
            text=True,
            timeout=500,
            check=True,
        )
        bases[engine, workers] = done.stdout.splitlines()[-1]
        assert (tmp_path / f"{engine}-{workers}/clients/000/losses.jsonl").exists()
    assert len(set(bases.values())) == 1, bases


def test_a_private_run_states_its_promise_and_ends_at_its_budget(small_run, tmp_path):
    # Three clients, all in every round: an epsilon that two rounds of noise 2 keep within and three do not.
    spent = total_epsilon(((Mechanism(2.0, Poisson(3, 1.0)), 2),), delta_for(3))
    privacy = Privacy(clip=0.1, noise=2.0, budget=spent * 1.001, reproducible=True)
    config = dataclasses.replace(small_run, privacy=privacy, server=Server(rounds=4))
    history = simulate(config, tmp_path / "run")
    said = history.summary["privacy"]
    assert len(history.rounds) == history.summary["rounds"] == 2
    assert said["epsilon"] == pytest.approx(spent)
    assert (said["delta"], said["clip"], said["simulated"], said["unit"]) == (delta_for(3), 0.1, True, "one user, with all their photos")
    assert all(client["filter"] for client in history.summary["clients"])
    page = (tmp_path / "run" / "report.html").read_text()
    told = (
        "one user, with all their photos",
        "add or remove one user",
        "each of 3 users with a chance of 1",
        "rdp",
        figure(spent),
        "delta",
    )
    assert not [words for words in (*told, "Not covered", *said["not covered"]) if escape(words) not in page]
    assert "epsilon" not in simulate(small_run, tmp_path / "plain").summary["privacy"]
    assert "What is promised" not in (tmp_path / "plain" / "report.html").read_text()
