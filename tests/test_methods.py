import dataclasses
import inspect
import json
import re

import pytest
import torch
from toys import CONV, NORM, Ends, Two, toy_task

from fedstyle import params
from fedstyle.base import Base, build
from fedstyle.client import Client
from fedstyle.companions import outfit
from fedstyle.errors import Cancelled, ConfigError, ParamsError
from fedstyle.methods import METHODS, Rates, check_match, make_method, settings
from fedstyle.net import is_norm
from fedstyle.training import derive

QUICK = {"steps": 2, "lr": 1e-3, "norm_lr": 1e-2}
HAND = {"steps": 2, "lr": 0.1, "norm_lr": 0.2}
TOYS = {"fedrep": Ends}


@pytest.fixture
def client(tmp_path, photo_folder, style_image, quick):
    def client(method, home="home"):
        return Client(tmp_path / home, photo_folder, style_image_file(tmp_path, style_image), method=method, training=quick)

    return client


def style_image_file(folder, image):
    image.save(folder / "style.png")
    return folder / "style.png"


# ---------------------------------------------------------------------------------------------- what every method promises

HEAD, ENTRY = ("up1.", "up2.", "out."), ("down1.", "down2.")
TUNED = {"fedper": HEAD, "fedrep": HEAD, "fedbabu": HEAD, "lg-fedavg": ENTRY}
"""The beginnings of the names that a filter without `full` trains."""
NORMS = {"fedavg", "fedprox", "fedbn", "scaffold", "ifca", "predicted", "meta-norms"}


def tuned(name, parameter):
    if name == "lora":
        return is_norm(parameter) or parameter.endswith("conv.weight")
    return is_norm(parameter) if name in NORMS else parameter.startswith(TUNED.get(name, ""))


def learns(parameter):
    """Whether a step changes it: a norm undoes the bias of the convolution before it."""
    return not parameter.endswith("conv.bias") or parameter == "out.conv.bias"


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_of_a_round(name, client, base):
    method = make_method({"name": name, **QUICK})
    assert dataclasses.is_dataclass(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.rates = None
    base = outfit(base, method)
    shared = {key for key in base.weights if method.shares(key)}

    # An update holds the shared names, all of them and nothing else; it changes something, and all of it is finite.
    here, there = client(method), client(method, "other home")
    updates = [here.fit(base, round=number) for number in range(2)]
    for update in updates:
        assert set(update.delta) == shared
        assert [item.name for item in dataclasses.fields(update)] == ["delta"]
        assert not shared or any(bool(value.any()) for value in update.delta.values())
        assert all(bool(value.isfinite().all()) for value in update.delta.values())
    # What is not shared, and the memory, lie at home and nowhere else.
    assert sorted(path.name for path in here.folder.iterdir()) == ["losses.jsonl", "private.safetensors"]
    kept = here_state(here)
    assert {key.removeprefix("net/") for key in kept if key.startswith("net/")} == set(base.weights) - shared
    lines = [json.loads(line) for line in (here.folder / "losses.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [*range(1, lines[0]["iterations"] + 1)] * 2

    # The same inputs give the same bits, in another home and another order of asking, in a process that was killed between the rounds.
    there.evaluate(base, there.library)
    again = [there.fit(base, round=0), client(method, "other home").fit(base, round=1)]
    assert [params.fingerprint(update.delta) for update in again] == [params.fingerprint(update.delta) for update in updates]
    assert params.fingerprint(here_state(there)) == params.fingerprint(kept)
    # A second round goes on from what is kept at home, and so is not the first again.
    assert not shared or params.fingerprint(updates[0].delta) != params.fingerprint(updates[1].delta)


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_of_a_filter(name, client, base, tmp_path):
    method = make_method({"name": name, **QUICK})
    here = client(method)
    here.fit(base, round=1)
    home = (here.folder / "private.safetensors").read_bytes()
    start = here.personalize(base, iterations=0).result()
    made = {full: here.personalize(base, iterations=3, full=full).result() for full in (False, True)}

    # It is an ordinary filter of the architecture, and making it changes nothing at home.
    assert client(method).personalize(outfit(base, method), iterations=0).result().sha256 == start.sha256
    for one in (start, *made.values()):
        assert {key: value.shape for key, value in one.weights.items()} == {key: value.shape for key, value in base.weights.items()}
        assert all(bool(value.isfinite().all()) for value in one.weights.values())
        assert bool(one.stylise(torch.rand(1, 3, 32, 32)).isfinite().all())
    assert (here.folder / "private.safetensors").read_bytes() == home

    # Stopped and taken up again it is that of an unbroken training; another device of the same user could go on too.
    for full, whole in made.items():
        session = tmp_path / f"session {full}"
        job = here.personalize(base, iterations=3, full=full, session=session)
        for progress in job:
            if progress.iteration == 2:
                job.cancel()
                break
        with pytest.raises(Cancelled, match="run again to go on"):
            job.result()
        del job
        resumed = client(method).personalize(base, iterations=3, full=full, session=session)
        assert [progress.iteration for progress in resumed] == [3]
        assert resumed.result().sha256 == whole.sha256

    # What moves: the method's private part, and everything in full.
    moved = {
        full: {key for key, value in whole.weights.items() if not torch.equal(value, start.weights[key])} for full, whole in made.items()
    }
    assert moved[False] == {key for key in base.weights if tuned(name, key) and learns(key)}
    assert moved[True] == set(filter(learns, base.weights))


@pytest.mark.parametrize("name", ["ditto", "apfl", "pfedme", "lora"])
def test_a_filter_begins_with_what_rounds_left_beside_the_net(name, client, base):
    # A client that took part in a round has another filter at 0 iterations than the base with its private parameters.
    device = client(make_method({"name": name, **QUICK}))
    fresh = device.personalize(base, iterations=0).result()
    assert fresh.sha256 == base.sha256
    device.fit(base, round=1)
    state = here_state(device)
    assert any(key.startswith("memory/own/") for key in state)
    plain = {**base.weights, **{key.removeprefix("net/"): value for key, value in state.items() if key.startswith("net/")}}
    assert device.personalize(base, iterations=0).result().sha256 != params.fingerprint(plain)


@pytest.mark.parametrize("name", ["ditto", "apfl", "pfedme", "lora"])
def test_what_is_kept_beside_the_net_must_fit_the_base(name, client, base):
    device = client(make_method({"name": name, "steps": 1}))
    device.fit(base)
    with pytest.raises(ParamsError, match=r"ha(s|ve) shape"):
        device.fit(Base.new("cnnLite", width=8))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_from_a_base_that_predicts_norms(name, client, predictive):
    table = {"variants": 1} if name == "predicted" else {}
    device = client(make_method({"name": name, "steps": 1, **table}))
    update = device.fit(predictive)
    assert set(update.delta) == {key for key in outfit(predictive, device.method).weights if device.method.shares(key)}
    assert set(device.personalize(predictive, iterations=1).result().weights) == set(device.predict(predictive).weights)


def here_state(client):
    path = client.folder / "private.safetensors"
    return params.unseal(params.load(path), path)


# --------------------------------------------------------------------------------------------- from a base that predicts norms


def test_predicted_teaches_the_predictor_and_shares_it(client, predictive):
    method = make_method({"name": "predicted", "steps": 3, "variants": 2})
    here, there = client(method), client(method, "other home")
    deltas = [here.fit(predictive, round=number).delta for number in (1, 2)]
    assert set(deltas[0]) == set(predictive.weights)
    for name in ("predictor.hidden.weight", "predictor.out.weight", "predictor.out.bias", "down1.norm.weight", "down1.conv.weight"):
        assert bool(deltas[0][name].any()), name
    for name in ("predictor.centre", "predictor.spread"):
        assert not deltas[0][name].any()
        assert f"memory/adam/exp_avg/{name}" not in here_state(here)
    assert not [key for key in here_state(here) if key.startswith("net/")]  # nothing but the moments stays
    again = [there.fit(predictive, round=number).delta for number in (1, 2)]
    assert [params.fingerprint(delta) for delta in again] == [params.fingerprint(delta) for delta in deltas]


@pytest.mark.usefixtures("fp32")
def test_each_iteration_of_predicted_is_in_one_style_and_shows_its_norms(client, predictive):
    # Three iterations from the same weights (rates of 1e-30 move nothing): each one's loss is that of a plain network with the norms
    # predicted for the look that the iteration's number draws, against that look's Gram matrices.
    method = make_method({"name": "predicted", "steps": 3, "variants": 2, "lr": 1e-30, "norm_lr": 1e-30})
    device = client(method)
    task = device.task(5, round=1, teaches=True)
    assert len(task.looks) == 3
    totals = [progress.total for progress in method.fit(predictive.net(), task, {})]
    chosen = []
    for iteration, total in enumerate(totals):
        pixels, content = task.content.batch(task.training.batch, derive(5, iteration))
        losses = []
        for look in task.looks:
            net = build(predictive.arch, predictive.padding, predictive.transform(look.code))
            losses.append(dataclasses.replace(task.objective, targets=look.targets)(net(pixels), content).numbers()["total"])
        chosen += [index for index, loss in enumerate(losses) if loss == pytest.approx(total, rel=1e-5)]
    assert len(chosen) == 3
    draws = [derive(5, iteration, "look") for iteration in range(3)]
    assert chosen == [0 if draw % 3 == 0 else draw // 3 % 3 for draw in draws]
    assert device.task(5, round=1).looks == ()
    assert client(make_method({"name": "fedbn"})).task(5, teaches=True).looks == ()


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "predicted"])
def test_a_filter_starts_with_predicted_norms_also_after_rounds_that_share_all(name, client, predictive):
    device = client(make_method({"name": name, "steps": 1}))
    device.fit(predictive)
    assert device.personalize(predictive, iterations=0).result().sha256 == device.predict(predictive).sha256


def test_local_keeps_its_own_network_and_no_predictor(client, predictive):
    device = client(make_method({"name": "local", "steps": 1}))
    start = device.predict(predictive).weights
    assert device.fit(predictive).delta == {}
    kept = {key.removeprefix("net/"): value for key, value in here_state(device).items() if key.startswith("net/")}
    assert set(kept) == set(start)
    assert device.personalize(predictive, iterations=0).result().sha256 == params.fingerprint(kept)


# --------------------------------------------------------------------------------------------------------------- by hand

# Two steps from w = 1, b = 0.5 with loss (w + b)²: the derivation stands in test_training.py.
PLAIN = [0.8504122, 0.2008244]


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("fedavg", (True, True, True)),
        ("fedbn", (True, False, False)),
        ("fedprox", (True, True, True)),
        ("local", (False, False, False)),
        ("predicted", (True, True, True)),
    ],
)
def test_what_is_shared(name, shares):
    method = make_method({"name": name})
    assert (method.shares(CONV), method.shares(NORM), method.shares("predictor.out.weight")) == shares


@pytest.mark.parametrize("name", ["fedavg", "fedbn", "local", "predicted"])
def test_a_round_of_plain_descent_by_hand(name):
    net = Two()
    assert len(list(make_method({"name": name, **HAND}).fit(net, toy_task(), {}))) == 2
    assert net.values == pytest.approx(PLAIN, rel=1e-6)


def test_a_round_of_fedprox_by_hand():
    # mu = 2. Step 1 starts at the base, so the pull is 0 and it ends at w = 0.95, b = 0.4 as without it, slope 3, m = 0.3, v = 0.009.
    # Step 2: the loss's slope is 2.7; the pull is 2 (0.95 - 1) = -0.1 on w and 2 (0.4 - 0.5) = -0.2 on b.
    #   w: g = 2.6, m = 0.27 + 0.26 = 0.53, / 0.19 = 2.789474; v = 0.008991 + 0.00676 = 0.015751, / 0.001999 = 7.879440, root 2.807034
    #      ratio 0.993744, so w = 0.95 - 0.0993744
    #   b: g = 2.5, m = 0.27 + 0.25 = 0.52, / 0.19 = 2.736842; v = 0.008991 + 0.00625 = 0.015241, / 0.001999 = 7.624312, root 2.761216
    #      ratio 0.991173, so b = 0.4 - 0.1982346
    expected = [0.8506256, 0.2017654]
    net = Two()
    list(make_method({"name": "fedprox", "mu": 2.0, **HAND}).fit(net, toy_task(), {}))
    assert net.values == pytest.approx(expected, rel=1e-6)
    # A server that asks for more gets it, one that asks for less does not; with mu = 0 it is FedAvg.
    for mine, asked, result in ((0.5, 2.0, expected), (2.0, 0.5, expected), (0.0, 0.0, PLAIN)):
        net = Two()
        list(make_method({"name": "fedprox", "mu": mine, **HAND}).fit(net, toy_task(proximal=asked), {}))
        assert net.values == pytest.approx(result, rel=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("fedavg", [0.8506256, 0.2017654]), ("fedbn", [0.8506256, 0.2008244]), ("local", PLAIN)])
def test_a_server_that_asks_for_a_proximal_term_pulls_what_is_shared(name, expected):
    # The numbers of FedProx for what is shared; what is not shared is not pulled. The parameters meet in the loss only through w + b of
    # the step before, which is the same in both cases after step 1.
    net = Two()
    list(make_method({"name": name, **HAND}).fit(net, toy_task(proximal=2.0), {}))
    assert net.values == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("round", "scale"), [(0, 1.0), (1, 0.75), (3, 0.25), (4, 0.05), (40, 0.05)])
def test_rates_fall_over_the_rounds_by_hand(name, round, scale):
    # With decay_rounds = 4 the rates of round r are lr * max(0.05, 1 - r / 4). Adam's first step is as long as its rate, whatever the
    # slope (here 3, to both): w = 1 - scale * 0.1, b = 0.5 - scale * 0.2.
    # FedRep on its toy trains both ends as convolutions; pFedMe and Reptile go half of the way; the norms of meta-norms go back.
    parts = {"fedrep": (0.1, 0.1), "pfedme": (0.05, 0.1), "reptile": (0.05, 0.1), "meta-norms": (0.1, 0.0)}
    w, b = parts.get(name, (0.1, 0.2))
    only = {"head_steps": 1} if name == "fedrep" else {}
    net, task = TOYS.get(name, Two)(), dataclasses.replace(toy_task(warmup=1), round=round)
    list(make_method({"name": name, **HAND, **only, "steps": 1, "decay_rounds": 4}).fit(net, task, {}))
    assert net.values == pytest.approx([1 - w * scale, 0.5 - b * scale], rel=1e-5)
    steady = TOYS.get(name, Two)()
    list(make_method({"name": name, **HAND, **only, "steps": 1}).fit(steady, task, {}))
    assert steady.values == pytest.approx([1 - w, 0.5 - b], rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_moments_are_kept_between_rounds_or_not(name):
    for keep in (True, False):
        method = make_method({"name": name, **HAND, "keep_moments": keep})
        net, memory = TOYS.get(name, Two)(), {}
        for _ in range(2):
            list(method.fit(net, toy_task(), memory))
        drawer = {"fedrep": "body/", "meta-norms": "outer/", "ifca": "0/"}.get(name, "")
        assert int(memory[f"{drawer}adam/step"]) == (4 if keep else 2)
        assert int(memory[f"{drawer}iteration"]) == 2


@pytest.mark.parametrize(
    ("name", "full", "expected"),
    [
        # One step at half of the rates of [training], 0.1 and 0.2: 0.05 for w and 0.1 for b.
        ("fedavg", False, [1.0, 0.4]),
        ("fedbn", False, [1.0, 0.4]),
        ("fedprox", False, [1.0, 0.4]),
        ("predicted", False, [1.0, 0.4]),
        ("local", False, [0.95, 0.4]),
        ("fedavg", True, [0.95, 0.4]),
        ("fedbn", True, [0.95, 0.4]),
        ("fedprox", True, [0.95, 0.4]),
        ("predicted", True, [0.95, 0.4]),
        ("local", True, [0.95, 0.4]),
    ],
)
def test_personalisation_by_hand(name, full, expected):
    net = Two()
    list(make_method({"name": name}).personalize(net, toy_task(rate=0.1, norm_rate=0.2), {}, 1, full))
    assert net.values == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------- by its name


def test_the_keys_are_a_contract():
    keys = "local fedavg fedavg-ft fedprox fedbn fedper fedrep fedbabu lg-fedavg ditto apfl pfedme per-fedavg reptile lora"
    keys += " scaffold ifca"
    assert set(METHODS) == {*keys.split(), "predicted", "meta-norms"}


def test_a_method_is_made_from_its_table():
    assert make_method({}) == METHODS["fedbn"]()
    assert make_method({"name": "fedprox", "mu": 1, "steps": 3}) == METHODS["fedprox"](Rates(steps=3), mu=1.0)
    assert make_method({"name": "fedper", "head": ["out"]}) == METHODS["fedper"](head=("out",))
    assert settings(METHODS["fedprox"]) == {"steps": 10, "lr": 1e-3, "norm_lr": 1e-2, "decay_rounds": 0, "keep_moments": True, "mu": 0.1}


@pytest.mark.parametrize("name", METHODS)
def test_each_is_one_small_file_that_cites_its_paper(name):
    module = inspect.getmodule(METHODS[name])
    first = module.__doc__.splitlines()[0]
    assert re.search(r"\([^()]+ (et al\.) \d{4}, arXiv:\d{4}\.\d{5}\)\.$", first), first
    assert len(inspect.getsource(module).splitlines()) <= 90
    assert METHODS[name].__bases__ == (object,)


@pytest.mark.parametrize("name", METHODS)
def test_the_limits_of_the_ranges_are_within(name):
    assert make_method({"name": name, "steps": 1, "lr": 1.0, "norm_lr": 1.0}).rates.steps == 1
    assert make_method({"name": name}).rates.lr == 1e-3
    with pytest.raises(ConfigError, match=r"method\.lr = nan"):  # also where no table is read
        METHODS[name](Rates(lr=float("nan")))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "fedbm"}, r"unknown method.name = 'fedbm': did you mean 'fedbn'\? Known are apfl, ditto, "),
        ({"name": 3}, "unknown method.name = 3"),
        ({"name": ["fedbn"]}, r"unknown method.name = \['fedbn'\]"),
        ({"name": "fedbn", "mu": 1.0}, "unknown key method.mu: Known are decay_rounds, keep_moments, lr, norm_lr, steps"),
        ({"name": "predicted", "variants": 0}, "method.variants = 0: give 1 or more"),
        ({"name": "fedbn", "variants": 7}, "unknown key method.variants"),
        ({"name": "fedavg", "steps": "ten"}, "method.steps = 'ten': give a whole number"),
        ({"name": "fedprox", "mu": -0.1}, r"method.mu = -0\.1: give 0 or more"),
        ({"name": "fedbn", "rates": {}}, "unknown key method.rates"),
        ({"name": "fedper", "head": ["tail"]}, r"method.head = \['tail'\]: give one or more of down1, "),
        ({"name": "fedper", "head": "out"}, "method.head = 'out': give a list"),
        ({"name": "fedrep", "head": []}, r"method.head = \[\]: give one or more"),
        ({"name": "fedrep", "head_steps": 0}, "method.head_steps = 0: give 1 or more"),
        ({"name": "fedbabu", "head": ["blocks.5"]}, r"method.head = \['blocks.5'\]"),
        ({"name": "lg-fedavg", "local": ["down"]}, r"method.local = \['down'\]"),
        ({"name": "ditto", "lam": -1}, r"method.lam = -1\.0: give 0 or more"),
        ({"name": "apfl", "alpha": 1.1}, r"method.alpha = 1\.1: give 0 to 1"),
        ({"name": "pfedme", "lam": -1}, r"method.lam = -1\.0: give 0 or more"),
        ({"name": "pfedme", "inner": 0}, "method.inner = 0: give 1 or more"),
        ({"name": "pfedme", "outer": 0}, r"method.outer = 0\.0: give a part of the way"),
        ({"name": "per-fedavg", "inner_lr": 0}, r"method.inner_lr = 0\.0: a learning rate"),
        ({"name": "reptile", "outer": 2}, r"method.outer = 2\.0: give a part of the way"),
        ({"name": "lora", "rank": 0}, "method.rank = 0: give 1 or more"),
        ({"name": "meta-norms", "inner": 0}, "method.inner = 0: give 1 or more"),
        ({"name": "scaffold", "batches": 0}, "method.batches = 0: give 1 or more"),
        ({"name": "scaffold", "part": 0}, r"method.part = 0\.0: give a part of the way"),
        ({"name": "ifca", "clusters": 1}, "method.clusters = 1: give 2 or more"),
        ({"name": "ifca", "spread": 0}, r"method.spread = 0\.0: give a number over 0"),
        *(
            ({"name": name, **wrong}, says)
            for name in METHODS
            for wrong, says in (
                ({"steps": 0}, "method.steps = 0: give 1 or more"),
                ({"lr": 0.0}, r"method.lr = 0\.0: a learning rate lies over 0 and up to 1"),
                ({"lr": 1.5}, r"method.lr = 1\.5"),
                ({"decay_rounds": -1}, "method.decay_rounds = -1: give a number of rounds, or 0 for constant rates"),
                ({"norm_lr": -1e-3}, r"method.norm_lr = -0\.001: a learning rate"),
                ({"norm_lr": 2}, r"method.norm_lr = 2\.0"),
            )
        ),
    ],
)
def test_what_is_no_method_is_an_error(table, says):
    with pytest.raises(ConfigError, match=says):
        make_method(table)


def test_parts_that_the_network_lacks_are_an_error(client, base):
    device = client(make_method({"name": "lg-fedavg", "local": ["down3"]}))  # cnnLite has none
    with pytest.raises(ConfigError, match="trains parts that this network does not have"):
        device.personalize(base, iterations=1).result()


def test_a_strategy_that_does_not_go_with_a_method_is_refused():
    check_match(make_method({"name": "pfedme"}), "FedAdam")
    check_match(make_method({"name": "ditto"}), "FedProx")
    for strategy in ("Bulyan", "Krum", "MultiKrum"):
        with pytest.raises(ConfigError, match="it compares updates, and none is sent"):
            check_match(make_method({"name": "local"}), strategy)
    with pytest.raises(
        ConfigError, match=r"server\.strategy = 'FedProx' does not go with the method PFedMe: its mu would be a second pull"
    ):
        check_match(make_method({"name": "pfedme"}), "FedProx")
