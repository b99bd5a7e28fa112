"""What travels with a base beside its network, wherever the names of tensors are looked at."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import flower_fakes as fakes
import pytest
import torch
from conftest import picture

from fedstyle import params
from fedstyle.base import Base
from fedstyle.client import Client, Update
from fedstyle.companions import PREFIX, is_companion, join, outfit, part
from fedstyle.config import Config, Data, Export, Net, Privacy, Server, Training
from fedstyle.errors import ConfigError, FilterError, ParamsError, WireError
from fedstyle.files import read_lines
from fedstyle.filter import Filter
from fedstyle.flower.device import Device, Own, Place
from fedstyle.flower.engine import run_federation
from fedstyle.flower.wire import Contract, Order
from fedstyle.inspection import describe_methods, inspect
from fedstyle.methods import METHODS, make_method
from fedstyle.population import first_base
from fedstyle.rehearsal import rehearse
from fedstyle.simulate import simulate

NAMES = ("scaffold", "ifca")


@dataclasses.dataclass(frozen=True)
class Carrier:
    """A method with one companion."""

    size: int = 2
    hides: bool = False

    def shares(self, name):
        return ".norm" not in name and not (self.hides and is_companion(name))

    def companions(self, net):
        return {"count": torch.zeros(self.size)}

    def fit(self, net, task, memory):
        task.beside["count"] += 1
        return iter(())


@pytest.fixture
def client(tmp_path, photo_folder, style_image, quick):
    style_image.save(tmp_path / "style.png")
    return lambda method, **more: Client(tmp_path / "home", photo_folder, tmp_path / "style.png", method=method, training=quick, **more)


def names(base):
    return sorted(filter(is_companion, base.weights))


# ------------------------------------------------------------------------------------------------------------- of a base


def test_a_method_gets_its_companions_and_another_none(base):
    plain = set(base.weights)
    scaffold, ifca = (outfit(base, make_method({"name": name})) for name in NAMES)
    assert names(scaffold) == sorted(f"{PREFIX}control.{name}" for name in plain)
    assert names(ifca) == sorted(f"{PREFIX}1.{name}" for name in plain)
    assert not any(bool(scaffold.weights[name].any()) for name in names(scaffold))
    for made in (scaffold, ifca):
        assert outfit(made, make_method({"name": "fedbn"})).sha256 == base.sha256
        assert params.fingerprint(made.transform()) == base.sha256
        assert {name for name, _ in made.net().named_parameters()} == plain
    assert outfit(scaffold, make_method({"name": "ifca"})).sha256 == ifca.sha256
    assert outfit(base, make_method({"name": "fedbn"})) is base
    # What it has stays, and what is missing is added.
    moved = dataclasses.replace(ifca, weights={name: value + is_companion(name) for name, value in ifca.weights.items()})
    more = outfit(moved, make_method({"name": "ifca", "clusters": 3}))
    assert all(torch.equal(more.weights[name], value) for name, value in moved.weights.items())
    assert len(names(more)) == 2 * len(plain)


def test_the_other_networks_of_ifca_start_as_far_away_as_asked(base):
    near, far = (part(outfit(base, make_method({"name": "ifca", "clusters": 3, "spread": spread})).weights)[1] for spread in (0.1, 1.0))
    for name, value in base.weights.items():
        away = (near[f"1.{name}"] - value).square().mean().sqrt()
        assert float(away) <= 0.4 * float(value.square().mean().sqrt())
        assert torch.allclose(10 * (near[f"1.{name}"] - value), far[f"1.{name}"] - value, atol=1e-5)
    assert not torch.equal(near["1.down2.conv.weight"], near["2.down2.conv.weight"])


def test_a_companion_that_is_not_shared_or_of_another_shape_is_an_error(base):
    with pytest.raises(ConfigError, match=r"Carrier declares the companion 'beside\.count' and does not share it: let shares\(\)"):
        outfit(base, Carrier(hides=True))
    with pytest.raises(ParamsError, match=r"the base's companions: 'count' has shape \(2,\), expected \(3,\)"):
        outfit(outfit(base, Carrier()), Carrier(size=3))


def test_a_base_with_companions_is_saved_and_told_of_and_a_filter_has_none(base, tmp_path):
    made = outfit(base, make_method({"name": "ifca"}))
    made.save(tmp_path / "base")
    assert Base.load(tmp_path / "base").sha256 == made.sha256
    found, plain = inspect(tmp_path / "base"), sum(value.numel() for value in base.weights.values())
    assert (found["companions"]["arrays"], found["companions"]["parameters"]) == (len(base.weights), plain)
    assert found["would_leave"]["parameters"] == plain - 388  # as without: test_inspection.py
    Filter(base.arch, base.padding, made.weights).save(tmp_path / "filter")
    with pytest.raises(FilterError, match=r"tensors are not expected, 'beside\."):
        Filter.load(tmp_path / "filter")


def test_every_method_tells_what_it_lets_travel():
    told = {row["name"]: row["companion_parameters"] for row in describe_methods()}
    assert told == {**dict.fromkeys(METHODS, 0), **dict.fromkeys(NAMES, 415_443)}


def test_the_first_base_has_what_the_method_declares_and_no_more(base, tmp_path):
    outfit(base, make_method({"name": "scaffold"})).save(tmp_path / "base")
    for name, count in (("fedbn", 0), ("ifca", len(base.weights)), ("scaffold", len(base.weights))):
        config = Config(method={"name": name}, net=Net(base=str(tmp_path / "base")))
        assert len(names(first_base(config))) == count
        assert len(names(first_base(dataclasses.replace(config, net=Net(width=4))))) == count


# ----------------------------------------------------------------------------------------------------------- of a client


def test_an_update_holds_companions_and_the_home_no_more_of_them(client, base):
    device = client(Carrier())
    update = device.fit(base, round=1)  # a base without them has them at their first values
    assert set(update.delta) == {name for name in base.weights if ".norm" not in name} | {"beside.count"}
    assert update.delta["beside.count"].tolist() == [1.0, 1.0]
    path = device.folder / "private.safetensors"
    kept = params.unseal(params.load(path), path)
    assert {key for key in kept if is_companion(key.partition("/")[2])} == {"sent/beside.count"}
    assert not bool(outfit(base, Carrier()).weights["beside.count"].any())


@pytest.mark.parametrize("wrong", [{"count": torch.zeros(3)}, {"count": torch.zeros(2), "more": torch.zeros(1)}, {}])
def test_a_method_sends_no_companion_that_it_did_not_declare(client, base, wrong, monkeypatch):
    def fit(self, net, task, memory):
        task.beside.clear()
        task.beside.update(wrong)
        return iter(())

    monkeypatch.setattr(Carrier, "fit", fit)
    with pytest.raises(ParamsError, match="the update: "):
        client(Carrier()).fit(base)


@pytest.mark.parametrize("name", NAMES)
def test_another_methods_base_is_trained_as_if_it_had_none(client, base, name):
    method = make_method({"name": "fedbn", "steps": 1})
    first = client(method).fit(base, round=1).delta
    (client(method).folder / "private.safetensors").unlink()
    again = client(method).fit(outfit(base, make_method({"name": name})), round=1).delta
    assert params.fingerprint(first) == params.fingerprint(again)


def test_control_variates_of_another_network_are_one_line(client, base):
    device = client(make_method({"name": "scaffold", "steps": 1}))
    device.fit(Base.new(width=2), round=1)
    with pytest.raises(ParamsError, match=r"the control variates kept at home: '.*' has shape"):
        device.fit(base, round=2)


def test_control_variates_do_not_drown_the_weights_in_a_norm(client, base):
    delta = client(make_method({"name": "scaffold", "steps": 5})).fit(base).delta
    weights, beside = part(delta)
    lengths = [sum(float(value.square().sum()) for value in tensors.values()) ** 0.5 for tensors in (weights, beside)]
    assert 0.001 * lengths[0] < lengths[1] < lengths[0]


# ------------------------------------------------------------------------------------------------------------ on the wire


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8"])
def test_companions_cross_as_parameters_do(client, base, name, wire):
    method = make_method({"name": name, "steps": 1})
    made = outfit(base, method)
    contract = Contract.of(made, method.shares, wire)
    assert set(contract.read_order(contract.write_order(Order(made, 1, 0.0))).base.weights) == set(made.weights)
    delta = client(method).fit(made).delta
    arrived = contract.read_delta(contract.write_delta(delta))
    close = {"fp32": 0.0, "fp16": 2**-10, "int8": 0.05}[wire]
    for one in (part(delta)[0], part(delta)[1]):
        there = {key: arrived[key] if key in arrived else arrived[PREFIX + key] for key in one}
        off = sum(float((there[key] - value).square().sum()) for key, value in one.items()) ** 0.5
        assert off <= close * sum(float(value.square().sum()) for value in one.values()) ** 0.5
    bare = Contract.of(base, method.shares, wire)  # a device whose method has companions takes no base without them, nor the other way
    for one, other, weights in ((contract, bare, base), (bare, contract, made)):
        with pytest.raises(WireError, match="has not the"):
            one.read_order(other.write_order(Order(weights, 1, 0.0)))


# ------------------------------------------------------------------------------------------------------------- of a run


def small_config(folder, name, **tables):
    """Three clients with photos in this folder and a style each, and two rounds."""
    (folder / "photos").mkdir(exist_ok=True)
    for seed in range(9):
        picture(seed).save(folder / "photos" / f"{seed}.png")
    usual = {
        "data": Data(photos=str(folder / "photos"), clients=3, holdout=1),
        "net": Net(width=4),
        "training": Training(size=32, batch=1, crops=2, iterations=1, device="cpu"),
        "method": {"name": name, "steps": 1},
        "server": Server(rounds=2, workers=1),
        "export": Export(clients=False),
    }
    return Config(**{**usual, **tables})


def marks(folder):
    """What a run came to: the hash of its base, and of every client's filter."""
    summary = json.loads((folder / "summary.json").read_text())
    assert not any(row["error"] for row in summary["clients"])
    return [summary["base_sha256"], *(row["filter_sha256"] for row in summary["clients"])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("secure", [False, True])
def test_a_run_moves_companions_and_ends_with_filters_without_them(name, secure, tmp_path):
    config = small_config(tmp_path, name, privacy=Privacy(clip=1.0, secure=secure))
    first, last = first_base(config), simulate(config, tmp_path / "run").base
    assert set(last.weights) == set(first.weights)
    moved = {key for key in last.weights if not torch.equal(last.weights[key], first.weights[key])}
    assert moved  # of ifca, the networks that somebody chose
    assert name == "ifca" or moved >= {"down2.conv.weight", f"{PREFIX}control.down2.conv.weight"}
    for home in sorted((tmp_path / "run" / "clients").iterdir()):
        assert set(Filter.load(home / "filter").weights) == set(last.transform())


@pytest.mark.parametrize("name", NAMES)
def test_workers_and_a_stop_change_nothing(name, tmp_path):
    config = small_config(tmp_path, name)
    simulate(config, tmp_path / "one")

    def stop(stage, done, _):
        if (stage, done) == ("rounds", 1):
            raise KeyboardInterrupt

    two = dataclasses.replace(config, server=dataclasses.replace(config.server, workers=2))
    with pytest.raises(KeyboardInterrupt):
        simulate(two, tmp_path / "two", watch=stop)
    simulate(two, tmp_path / "two", resume=True)
    assert marks(tmp_path / "two") == marks(tmp_path / "one")
    assert {row["bytes_up"] for row in read_lines(tmp_path / "one" / "history.jsonl")} == {3 * 2 * 2 * width_4()}


def width_4():
    """The numbers of the network alone; companions are as many, an update has both, and a number goes up in fp16."""
    return sum(value.numel() for value in Base.new(width=4).weights.values())


RAY = """
import sys
from fedstyle.config import Config
from fedstyle.simulate import simulate
simulate(Config.load(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_ray_gives_what_inline_gives(name, tmp_path):
    config = small_config(tmp_path, name)
    simulate(config, tmp_path / "inline")
    elsewhere = dataclasses.replace(config, server=dataclasses.replace(config.server, engine="ray", workers=2))
    (tmp_path / "ray.toml").write_text(elsewhere.toml())
    subprocess.run([sys.executable, "-c", RAY, "ray.toml", "ray"], cwd=tmp_path, timeout=500, check=True, capture_output=True)
    assert marks(tmp_path / "ray") == marks(tmp_path / "inline")


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_it_crosses_a_network_to_real_devices(name, tmp_path):
    config = small_config(tmp_path, name, server=Server(rounds=2, timeout=900.0), export=Export(size=64))
    inline = simulate(dataclasses.replace(config, export=Export(clients=False)), tmp_path / "inline").base
    base = rehearse(config, tmp_path / "out")
    assert set(base.weights) == set(inline.weights)
    for key, value in inline.weights.items():
        assert torch.allclose(base.weights[key], value, rtol=1e-4, atol=1e-6), key


@dataclasses.dataclass(frozen=True)
class Loud:
    """Clients that send a thousand in every number that they are to send, one of them nothing but zeros."""

    folder: Path
    shares: object

    def home(self, partition):
        return self.folder / f"{partition}"

    def __call__(self, partition):
        return dataclasses.replace(self, folder=self.home(partition))

    def fit(self, base, *, round, proximal):
        value = 1000.0 * (self.folder.name != "0")
        return Update({name: torch.full_like(old, value) for name, old in base.weights.items() if self.shares(name)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("secure", [False, True])
def test_clipping_and_noise_are_of_companions_too(name, secure, tmp_path):
    # The mean of 4 updates of norm 1 at most, and noise of 1 / 4 on every number of it: nothing of the thousands is left.
    method = make_method({"name": name})
    base, privacy = outfit(fakes.small_base(), method), Privacy(clip=1.0, noise=1.0, secure=secure, sampler="fixed", delta=1e-5)
    server = Server(rounds=1, timeout=240.0, workers=1)
    made = run_federation(Config(method={"name": name}, privacy=privacy, server=server), base, Loud(tmp_path, method.shares), 4)
    for found, before in zip(part(made.weights), part(base.weights), strict=True):
        moved = torch.cat([(value - before[key]).flatten() for key, value in found.items()])
        assert 0.2 < float(moved.std()) < (0.75 if secure else 0.3)
        assert len(moved) == width_4()
        assert float((moved == 0).float().mean()) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_device_takes_and_sends_what_its_own_method_declares(base, name, tmp_path):
    outfit(base, make_method({"name": "fedbn"})).save(tmp_path / "base")
    first = outfit(base, make_method({"name": name}))
    for net in (Net(width=4), Net(base=str(tmp_path / "base"))):
        contract = Device(tmp_path, Own(), Place("localhost:1"), config=Config(method={"name": name}, net=net)).contract()
        assert contract.shared == set(first.weights)
        assert contract.read_order(contract.write_order(Order(first, 1, 0.0))).round == 1
        bare = Contract.of(base, lambda _: True)
        with pytest.raises(WireError, match="has not the"):
            contract.read_order(bare.write_order(Order(base, 1, 0.0)))


def test_join_undoes_part(base):
    made = outfit(base, make_method({"name": "ifca"}))
    assert params.fingerprint(join(*part(made.weights))) == made.sha256
