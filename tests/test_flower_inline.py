import dataclasses
import json
import logging
import math
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import flower_fakes as fakes
import pytest
import torch

from fedstyle import params
from fedstyle.errors import ConfigError, FederationError
from fedstyle.flower.engine import count_workers, run_federation
from fedstyle.flower.state import MEMORY, ServerState
from fedstyle.flower.strategies import STRATEGIES, make_strategy
from fedstyle.flower.wire import received
from fedstyle.net import is_norm


def run(folder, *, clients=None, count=5, after=None, base=None, **server):
    rounds = []
    result = run_federation(
        fakes.config(**server), base or fakes.small_base(), clients or fakes.Fakes(folder), count, on_round=rounds.append, after=after
    )
    return result, rounds


def test_one_seed_gives_one_base_for_any_number_of_workers(tmp_path):
    for wire in ("fp16", "int8"):
        bases = [run(tmp_path / wire / f"{workers}", workers=workers, wire=wire)[0].sha256 for workers in (1, 2, 5)]
        assert len(set(bases)) == 1


@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_the_server_adds_deltas_from_the_base_as_received_to_its_own(tmp_path, wire):
    base, contract = fakes.small_base(), fakes.contract(wire)
    result, _ = run(tmp_path, count=2, rounds=1, wire=wire)
    deltas = [fakes.Trainee(partition).fit_alone(received(base, wire), 1) for partition in range(2)]
    crossed = [contract.read_delta(contract.write_delta(delta)) for delta in deltas]
    for name in contract.shared:
        torch.testing.assert_close(result.weights[name], base.weights[name] + (crossed[0][name] + crossed[1][name]) / 2, rtol=0, atol=1e-7)
    for name in base.weights.keys() - contract.shared:  # what is not shared stays as it was, not as it was rounded
        assert torch.equal(result.weights[name], base.weights[name])


def test_fedavg_is_the_mean_of_base_plus_what_crossed(tmp_path):
    base, contract = fakes.small_base(), fakes.contract("fp32")
    result, _ = run(tmp_path, count=2, rounds=1, wire="fp32")
    deltas = [fakes.Trainee(partition).fit_alone(base, 1) for partition in range(2)]
    for name in contract.shared:
        assert torch.allclose(result.weights[name], base.weights[name] + (deltas[0][name] + deltas[1][name]) / 2, atol=1e-6)


def test_private_parameters_of_the_base_stay_as_they_were(tmp_path):
    base = fakes.small_base()
    base = dataclasses.replace(base, weights=base.weights | {"down1.norm.weight": torch.tensor([1.0, 1.1, 1 / 3, 7.0, 0.0, 2.0, 3.0, 4.0])})
    result, rounds = run(tmp_path, base=base, rounds=3)
    for name in filter(is_norm, base.weights):
        assert torch.equal(result.weights[name], base.weights[name])
    assert rounds[-1].base.sha256 == result.sha256
    assert result.record == {"seed": 7, "round": 3, "strategy": "FedAvg"}


def test_a_round_says_who_took_part_and_what_crossed(tmp_path):
    _, rounds = run(tmp_path, cohort=2, count=5)
    assert [now.number for now in rounds] == [1, 2]
    base, contract = fakes.small_base(), fakes.contract()
    down = params.size({name: value.half() for name, value in base.weights.items()})
    up = params.size({name: base.weights[name].half() for name in contract.shared})
    for now in rounds:
        assert len(now.cohort) == 2
        assert now.replied == now.cohort
        assert now.failures == {}
        assert (now.bytes_down, now.bytes_up) == (2 * down, 2 * up)
        assert now.seconds > 0
    assert rounds[0].cohort != rounds[1].cohort


def test_the_ledger_of_each_client_adds_up_to_what_the_server_received(tmp_path):
    _, rounds = run(tmp_path)
    lines = [json.loads(line) for path in tmp_path.glob("*/ledger.jsonl") for line in path.read_text().splitlines()]
    updates = [line for line in lines if line["kind"] == "update"]
    assert sum(line["bytes"] for line in updates) == sum(now.bytes_up for now in rounds)
    for line in updates:
        assert set(line) == {"round", "kind", "arrays", "bytes"}
        assert set(line["arrays"]) == fakes.contract().shared
        assert sum(line["arrays"].values()) == line["bytes"]


def test_the_ledger_also_holds_the_number_by_which_a_device_says_that_it_is_there(tmp_path):
    run(tmp_path, count=5, cohort=2)
    for partition in range(5):
        lines = [json.loads(line) for line in (tmp_path / f"{partition}/ledger.jsonl").read_text().splitlines()]
        # Once a run, whether or not the device is sampled: the partition is an integer of 64 bits.
        assert [line for line in lines if line["kind"] != "update"] == [{"round": 0, "kind": "hello", "bytes": 8}]


MEMORIES = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.9},
    "FedAdam": {"eta": 0.01},
    "FedAdagrad": {"eta": 0.01},
    "FedYogi": {"eta": 0.01},
}


@pytest.mark.parametrize("strategy", MEMORIES)
def test_a_run_that_goes_on_gives_the_base_that_one_run_gives(tmp_path, strategy):
    options = {"strategy": strategy, "options": MEMORIES[strategy], "cohort": 3}
    whole, _ = run(tmp_path / "whole", rounds=4, **options)
    _, rounds = run(tmp_path / "half", rounds=2, **options)
    rounds[-1].state.save(tmp_path / "state", {"seconds": 1.5})
    state, about = ServerState.load(tmp_path / "state")
    assert (state.round, state.base.record, about) == (2, rounds[-1].base.record, {"seconds": 1.5})
    assert bool(state.memory) == (strategy != "FedAvg")
    rest, rounds = run(tmp_path / "rest", rounds=4, after=state, **options)
    assert [now.number for now in rounds] == [3, 4]
    assert rest.sha256 == whole.sha256
    if strategy != "FedAvg":  # without its memory it would be another
        assert run(tmp_path / "lost", rounds=4, after=dataclasses.replace(state, memory={}), **options)[0].sha256 != whole.sha256
    assert run(tmp_path / "none", rounds=2, after=state, **options)[0] is state.base


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stock_strategy_remembers_nothing_but_what_is_kept(strategy):
    """Its arrays themselves aside, which are sent with every round."""
    count, options = 8, {"server_momentum": 0.9} if strategy == "FedAvgM" else {}
    made = make_strategy(strategy, options, count)
    fresh = {key for key, value in vars(made).items() if value is None or isinstance(value, list | dict)}
    assert fresh <= {*MEMORY, "current_arrays"}


def test_a_state_that_is_damaged_or_of_another_strategy_is_said_to_be(tmp_path):
    _, rounds = run(tmp_path, rounds=1, strategy="FedAdam")
    state = rounds[0].state
    with pytest.raises(FederationError, match=r"memory 'm_t' that is not FedAvgM's"):
        run(tmp_path, after=state, strategy="FedAvgM")
    state.save(tmp_path / "state", {})
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FederationError, match="altered or damaged"):
        ServerState.load(tmp_path / "state")


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("FedAvgM", {"server_learning_rate": 0.5, "server_momentum": 0.9}),
        ("FedAdam", {"eta": 0.01}),
        ("FedAdagrad", {"eta": 0.01}),
        ("FedYogi", {"eta": 0.01}),
        ("FedProx", {"proximal_mu": 1.0}),
        ("FedMedian", {}),
        ("FedTrimmedAvg", {"beta": 0.3}),
        ("Krum", {"num_malicious_nodes": 1.0}),
        ("MultiKrum", {"num_malicious_nodes": 1.0, "num_nodes_to_select": 2.0}),
        ("Bulyan", {}),
    ],
)
def test_every_stock_strategy_trains(tmp_path, strategy, options):
    result, rounds = run(tmp_path, strategy=strategy, options=options)
    assert len(rounds) == 2
    assert result.sha256 != run(tmp_path / "average")[0].sha256
    assert all(value.dtype == torch.float32 for value in result.weights.values())
    result.net()


def test_fedprox_factor_reaches_the_clients(tmp_path):
    base, contract = fakes.small_base(), fakes.contract("fp32")
    result, _ = run(tmp_path, count=1, rounds=1, wire="fp32", strategy="FedProx", options={"proximal_mu": 1.0})
    delta = fakes.Trainee(0).fit_alone(base, 1)
    for name in contract.shared:  # the fake divides by 1 + proximal
        assert torch.allclose(result.weights[name], base.weights[name] + delta[name] / 2, atol=1e-6)


def test_too_few_replies_fail_the_run_with_codes_and_no_private_text(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(FederationError, match=r"round 1: only 4 of 5 clients replied \(photos 1\), and 5 must") as caught:
        run(tmp_path, clients=fakes.Fakes(tmp_path, bad=(1,)))
    assert "\n" not in str(caught.value)
    shown = capfd.readouterr()
    for text in (str(caught.value), shown.out, shown.err, caplog.text):
        assert "alice" not in text
    log = (tmp_path / "1" / "errors.log").read_text()
    assert "round 1: photos" in log
    assert fakes.CANARY in log
    last = (tmp_path / "1" / "ledger.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"round": 1, "kind": "failure", "code": "photos", "bytes": 6}


def test_a_configured_share_of_replies_is_enough_and_the_rest_is_told(tmp_path):
    result, rounds = run(tmp_path, clients=fakes.Fakes(tmp_path, bad=(1,)), min_replies=0.8)  # ceil(0.8 x 5) = 4
    assert [(now.replied, now.failures) for now in rounds] == [((0, 2, 3, 4), {1: "photos"})] * 2
    assert result.sha256 != run(tmp_path / "all")[0].sha256
    with pytest.raises(FederationError, match="only 3 of 5"):
        run(tmp_path, clients=fakes.Fakes(tmp_path, bad=(1, 2)), min_replies=0.7)  # ceil(3.5) = 4


@dataclasses.dataclass(frozen=True)
class Odd(fakes.Fakes):
    """Partition 0 gives back whatever `fit` makes of a good update."""

    change: object = None

    def __call__(self, partition):
        good = fakes.Trainee(partition)
        return dataclasses.replace(self, change=lambda delta: self.change(delta)).trainee(good) if partition == 0 else good

    def trainee(self, good):
        change = self.change

        class Bad:
            def fit(self, base, **named):
                return fakes.Update(change(good.fit(base, **named).delta))

        return Bad()


def explode(_):
    raise SystemExit(fakes.CANARY)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda delta: delta | {"down1.norm.weight": torch.ones(8)}, "update"),
        (lambda delta: {name: value * torch.nan for name, value in delta.items()}, "update"),
        (lambda delta: {name: value * 1e9 for name, value in delta.items()}, "update"),
        (explode, "unknown"),
    ],
    ids=["a private name", "nan", "beyond fp16", "exit"],
)
def test_a_device_lets_nothing_out_but_what_is_allowed(tmp_path, change, code):
    _, rounds = run(tmp_path, clients=Odd(tmp_path, change=change), min_replies=0.5, rounds=1)
    assert rounds[0].failures == {0: code}


def test_a_late_client_is_late_and_the_run_ends_without_it(tmp_path):
    def dawdle(_):
        while True:
            time.sleep(0.01)

    started = time.monotonic()
    _, rounds = run(tmp_path, clients=Odd(tmp_path, change=dawdle), min_replies=0.5, rounds=1, timeout=2.0, workers=2)
    assert rounds[0].failures == {0: "late"}
    assert time.monotonic() - started < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("client")]


def test_a_strategy_that_makes_nothing_of_the_replies_fails_the_run(tmp_path):
    bad = fakes.Fakes(tmp_path, bad=(0,))
    with pytest.raises(FederationError, match="round 1: Bulyan made no base of 6 replies"):
        run(tmp_path, clients=bad, count=7, strategy="Bulyan", options={"num_malicious_nodes": 1.0}, min_replies=0.5)


def test_a_base_that_is_not_finite_fails_the_run(tmp_path):
    with pytest.raises(FederationError, match=r"round 1: the base that FedAdam made: .* not finite: try lower rates"):
        run(tmp_path, strategy="FedAdam", options={"eta": 1e40})


def test_an_error_of_the_caller_comes_back_as_it_is(tmp_path):
    def full(_):
        raise FederationError("the caller's own")

    with pytest.raises(FederationError, match="the caller's own"):
        run_federation(fakes.config(), fakes.small_base(), fakes.Fakes(tmp_path), 3, on_round=full)


def test_a_cohort_larger_than_the_clients_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"server\.cohort = 9: there are 5 clients"):
        run(tmp_path, cohort=9)


def test_threads_of_the_caller_are_as_before(tmp_path):
    before = torch.get_num_threads()
    run(tmp_path, rounds=1)
    assert torch.get_num_threads() == before
    assert count_workers(fakes.config(workers=3).server) == 3
    assert count_workers(fakes.config().server) >= 1


def test_an_interrupt_stops_promptly(tmp_path):
    code = (
        "import pathlib, sys, time, flower_fakes as fakes\n"
        "from fedstyle.flower.engine import run_federation\n"
        "class Slow:\n"
        "    def fit(self, base, **named):\n"
        "        print('training', flush=True)\n"
        "        while True: time.sleep(0.01)\n"
        "class Clients(fakes.Fakes):\n"
        "    def __call__(self, partition): return Slow()\n"
        "run_federation(fakes.config(workers=2), fakes.small_base(), Clients(pathlib.Path(sys.argv[1])), 4)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=Path(__file__).parent, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout.read(8) == "training"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0


def test_an_update_over_the_servers_bound_is_dropped_and_named(tmp_path):
    norms = [
        math.sqrt(sum(float(v.double().square().sum()) for v in fakes.Trainee(k).fit_alone(fakes.small_base(), 1).values()))
        for k in range(4)
    ]
    between = sorted(norms)[2] * 1.001  # three of the four hold; fp16 moves a norm by less than a thousandth
    largest = norms.index(max(norms))
    rounds = []
    config = fakes.config(rounds=1, bound=between, min_replies=0.5)
    run_federation(config, fakes.small_base(), fakes.Fakes(tmp_path), 4, on_round=rounds.append)
    assert (rounds[0].failures, len(rounds[0].replied)) == ({largest: "large"}, 3)


def test_a_level_round_shortens_updates_to_its_median(tmp_path):
    # One client's update is a thousand times as long as the others': shortened, it moves the mean by a quarter of an honest one's length.
    class Loud(fakes.Fakes):
        def __call__(self, partition):
            trainee = super().__call__(partition)
            return (
                trainee if partition else types.SimpleNamespace(fit=lambda base, **_: fakes.Update(_times(trainee.fit_alone(base, 1), 1e3)))
            )

    length = max(_length(fakes.Trainee(k).fit_alone(fakes.small_base(), 1)) for k in range(4))
    moved = {}
    for level in (False, True):
        base = run_federation(fakes.config(rounds=1, level=level), fakes.small_base(), Loud(tmp_path / f"{level}"), 4)
        moved[level] = _length({name: value - fakes.small_base().weights[name] for name, value in base.weights.items()})
    assert moved[True] <= length
    assert moved[False] > 100 * length


def _times(delta, factor):
    return {name: factor * value for name, value in delta.items()}


def _length(delta):
    return math.sqrt(sum(float(value.double().square().sum()) for value in delta.values()))
