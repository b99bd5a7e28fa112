import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fedstyle import keeping, params
from fedstyle.base import Base
from fedstyle.config import Config, Data, Loss, Training
from fedstyle.keeping import Budget, Copy, Share
from fedstyle.population import Clients

LARGE = 2**40


@pytest.fixture
def states(monkeypatch):
    monkeypatch.setattr(keeping, "STATES", Budget(1000))
    return keeping.STATES


def rounds(folder, photos, kept):
    """The hash of the base and the bytes of every private state and loss after three rounds of three clients, two of a cohort each."""
    config = Config(
        data=Data(str(photos), clients=3, holdout=0),
        loss=Loss(density=64),
        training=Training(size=32, batch=1, crops=4, device="cpu"),
        method={"name": "fedbn", "steps": 2},
    )
    clients, base = Clients(config, folder, resident=kept), Base.new("cnnLite", seed=0, width=4)
    for number in (1, 2, 3):
        updates = [clients(partition).fit(base, round=number) for partition in range(3) if partition != number % 3]
        total = {name: torch.stack([update.delta[name] for update in updates]).mean(0) for name in updates[0].delta}
        base = dataclasses.replace(base, weights={**base.weights, **params.add({name: base.weights[name] for name in total}, total)})
    homes = [folder / "clients" / f"{partition:03d}" for partition in range(3)]
    return base.sha256, [(home / name).read_bytes() for home in homes for name in ("private.safetensors", "losses.jsonl")]


def test_results_are_the_same_to_the_bit_with_all_some_and_nothing_kept(tmp_path, photo_folder, monkeypatch):
    found, content, states = [], Budget(2**40), Budget(2**40)
    for name, resident in (("all", 9), ("some", 2), ("nothing", 0)):
        monkeypatch.setattr(keeping, "CONTENT", content)
        monkeypatch.setattr(keeping, "STATES", states)
        found.append(rounds(tmp_path / name, photo_folder, resident))
        assert (content.used > 0) == (states.used > 0) == (name != "nothing")
        content, states = (Budget(before.used // 2 if name == "all" else 0) for before in (content, states))
    assert found[0] == found[1] == found[2]


def test_a_file_is_remembered_until_somebody_else_touches_it(tmp_path, states):
    path, tensors, copy = tmp_path / "x.safetensors", {"a": torch.arange(4.0), "b": torch.tensor(7)}, Copy()
    params.save(tensors, path)
    assert copy.get(path) is None
    copy.put(path, tensors)
    assert copy.get(path).keys() == tensors.keys()
    copy.get(path)["a"].zero_()
    assert copy.get(path)["a"].tolist() == [0, 1, 2, 3]
    assert states.used == path.stat().st_size
    content = path.read_bytes()
    path.write_bytes(content)  # at once, and with the same bytes
    assert copy.get(path) is None
    copy.put(path, tensors)
    params.save(tensors, path)  # another file in its place
    assert copy.get(path) is None
    copy.put(path, tensors)
    path.unlink()
    assert copy.get(path) is None


def test_a_change_within_a_tick_of_the_files_clock_shows(tmp_path, states):
    path, copy = tmp_path / "x", Copy()
    for _ in range(50):
        path.write_bytes(b"12")
        copy.put(path, {"a": torch.zeros(1)})
        path.write_bytes(b"34")
        assert copy.get(path) is None


def test_what_does_not_fit_the_budget_is_not_kept(tmp_path, states):
    def write(copy, size):
        path.write_bytes(bytes(size))
        copy.put(path, {"a": torch.zeros(1)})
        return copy.get(path) is not None

    path, copies = tmp_path / "x", [Copy() for _ in range(3)]
    assert [write(copy, 400) for copy in copies] == [True, True, False]  # 1000 bytes are the budget
    assert states.used == 800
    assert write(copies[1], 600)  # it grows into what is left
    assert states.used == 1000
    assert not write(copies[1], 601)
    assert write(copies[1], 10)
    copies.clear()
    gc.collect()
    assert states.take(1000)


def test_many_threads_share_a_budget():
    budget = Budget(1000)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: budget.take(1), range(3000))) == budget.used == 1000


def test_bytes_go_back_with_their_owner():
    class Owner:
        pass

    budget, owner = Budget(10), Owner()
    share = Share(owner, budget)
    assert share.take(6)
    assert not share.take(5)
    assert share.take(4)
    del owner
    gc.collect()
    assert budget.take(10)
    assert not budget.take(1)
