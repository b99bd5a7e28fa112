import json
import threading
import time
import types

import flower_fakes as fakes
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedstyle.errors import ConfigError, FederationError
from fedstyle.flower import cohort, engine
from fedstyle.flower.cohort import Cohort, sample
from fedstyle.flower.inline import InlineGrid
from fedstyle.flower.wire import HELLO
from fedstyle.roster import Roster


def gathered(partitions, clients, appear=1000, mute=(), timeout=5.0):
    """The nodes that a cohort finds on a grid whose nodes say these partitions, `appear` more of them at each look, `mute` ones nothing."""
    shown, over = [], threading.Event()

    def hello(message, _):
        if message.metadata.dst_node_id in mute:
            over.wait(30)
        return Message(RecordDict({HELLO: ConfigRecord({"partition": partitions[message.metadata.dst_node_id - 1]})}), reply_to=message)

    grid = InlineGrid(hello, len(partitions), 4)
    whole = list(grid.get_node_ids())

    def look(_):
        shown.extend(whole[len(shown) : len(shown) + appear])
        return list(shown)

    grid.get_node_ids = types.MethodType(look, grid)
    found = Cohort(grid, fakes.contract(), fakes.small_base(), clients, clients, seed=0, min_replies=1.0, timeout=timeout, pause=0.0)
    try:
        found.gather()
    finally:
        over.set()
        grid.close()
    return found.nodes


def test_nodes_that_come_one_by_one_are_waited_for():
    assert gathered([2, 0, 1], 3, appear=1) == {0: 2, 1: 3, 2: 1}


def test_nodes_beyond_the_clients_take_no_part():
    assert gathered([0, 7, 1, -1], 2) == {0: 1, 1: 3}


def test_too_few_nodes_are_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(cohort, "PATIENCE", 0.2)
    with pytest.raises(FederationError, match=r"only 2 of 3 clients are there, of 2 nodes: .*num-supernodes=3"):
        gathered([0, 1], 3)


def test_a_node_that_says_nothing_holds_up_neither_the_others_nor_the_end(monkeypatch):
    assert gathered([7, 0, 1], 2, appear=1, mute=[1], timeout=3600.0) == {0: 2, 1: 3}  # the first node hangs; the others come after it
    monkeypatch.setattr(cohort, "PATIENCE", 0.3)
    started = time.monotonic()
    with pytest.raises(FederationError, match="only 1 of 2 clients are there, of 2 nodes"):
        gathered([0, 1], 2, mute=[2], timeout=3600.0)
    assert time.monotonic() - started < 10


def test_two_nodes_with_one_partition_are_an_error():
    with pytest.raises(FederationError, match="two nodes say that they hold partition 1"):
        gathered([1, 1], 2)


def test_a_cohort_depends_on_seed_and_round_alone():
    assert sample(range(20), 5, 7, 1) == sample(reversed(range(20)), 5, 7, 1)
    assert sample(range(20), 5, 7, 1) != sample(range(20), 5, 7, 2)
    assert sample(range(20), 5, 7, 1) != sample(range(20), 5, 8, 1)
    assert sample(range(20), 5, 7, 1) == (0, 4, 9, 14, 19)  # the five least of sha256("7\0" "1\0" "<partition>"), sorted


def test_a_cohort_is_sorted_and_holds_nobody_twice():
    for number in range(50):
        cohort = sample(range(9), 4, 0, number)
        assert list(cohort) == sorted(set(cohort))
        assert len(cohort) == 4
        assert set(cohort) <= set(range(9))
    assert sample(range(9), 9, 0, 1) == tuple(range(9))


def test_who_is_away_leaves_the_order_of_the_others():
    order = [sample(range(20), size, 7, 1) for size in range(21)]
    for away in order[3]:
        there = [partition for partition in range(20) if partition != away]
        assert set(sample(there, 5, 7, 1)) == set(order[6]) - {away}


def test_everyone_is_sampled_alike():
    counts = [0] * 10
    for number in range(1000):
        for partition in sample(range(10), 3, 1, number):
            counts[partition] += 1
    # 300 expected each; the standard deviation of a binomial of 1000 at 0.3 is 14.5, so five of them are 72
    assert all(count == pytest.approx(300, abs=72) for count in counts)


# Clients that are unseen, late or flaky

FLAKY = Roster(flaky=frozenset([1, 4]), flaky_rate=1.0, seed=1)
"""Two clients that fail whenever they are asked; with seed 1 both are lost in the first round and late in the second."""


def rounds_of(folder, count=6, after=None, over=None, **server):
    """The rounds of a federation of clients that train in no time; the event `over` is set after the last."""
    rounds = []

    def on_round(now):
        rounds.append(now)
        if over and now.number == settings.server.rounds:
            over.set()

    settings = fakes.config(**{"rounds": 4, "workers": 2, "min_replies": 0.2, **server})
    engine.run_federation(settings, fakes.small_base(), fakes.Fakes(folder), count, on_round=on_round, after=after)
    return rounds


def test_unseen_clients_are_never_asked_and_late_ones_from_their_round_on(tmp_path):
    roster = Roster.of(fakes.config(unseen=1, late=2, late_round=3, rounds=4).server, 6, 7)
    (unseen,), late = roster.unseen, roster.late
    rounds = rounds_of(tmp_path, unseen=1, late=2, late_round=3)
    early = tuple(partition for partition in range(6) if partition != unseen and partition not in late)
    assert [now.cohort for now in rounds] == [early, early, *2 * [tuple(sorted({*early, *late}))]]
    assert all(now.replied == now.cohort for now in rounds)
    lines = (tmp_path / f"{unseen}" / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 1  # it said hello, and nothing more
    assert '"hello"' in lines[0]


def test_a_cohort_is_as_large_as_asked_for_also_while_some_are_away(tmp_path):
    rounds = rounds_of(tmp_path, unseen=1, late=2, late_round=3, cohort=3)
    assert [len(now.cohort) for now in rounds] == [3, 3, 3, 3]
    with pytest.raises(ConfigError, match=r"server.cohort = 4: there are 3 clients that are neither unseen nor late; 0 takes all"):
        rounds_of(tmp_path, unseen=1, late=2, late_round=3, cohort=4)


def test_a_run_that_goes_on_finds_the_same_clients_and_the_same_failures(tmp_path):
    wish = {"unseen": 1, "late": 1, "late_round": 4, "flaky": 2, "cohort": 4}
    whole = rounds_of(tmp_path / "whole", **wish)
    assert any(now.failures for now in whole)
    rest = rounds_of(tmp_path / "rest", after=whole[1].state, **wish)
    assert [(now.number, now.cohort, now.failures, now.base.sha256) for now in rest] == [
        (now.number, now.cohort, now.failures, now.base.sha256) for now in whole[2:]
    ]
    assert {now.base.sha256 for now in rounds_of(tmp_path / "one", workers=1, **wish)} == {now.base.sha256 for now in whole}


def test_a_flaky_client_looks_like_a_device_that_is_really_gone_or_late(tmp_path, monkeypatch):
    fates = {(partition, number): FLAKY.fate(partition, number) for partition in (1, 4) for number in (1, 2)}
    assert list(fates.values()) == ["lost", "late", "lost", "late"]
    monkeypatch.setattr(Roster, "of", lambda *_: FLAKY)
    played = rounds_of(tmp_path / "played", rounds=2)

    over, make = threading.Event(), engine.client_app

    def failing(*arguments, **named):
        app = make(*arguments, **named)

        def answer(message, context):
            fate = fates.get((message.metadata.dst_node_id - 1, message.content.config_records.get("round", {}).get("round")))
            if fate == "lost":
                raise RuntimeError("the process dies")  # of which the grid makes Flower's reply for a dead one
            reply = app(message, context)
            if fate == "late":
                over.wait(30)
            return reply

        return answer

    monkeypatch.setattr(engine, "client_app", failing)
    monkeypatch.setattr(Roster, "of", lambda *_: Roster())
    real = rounds_of(tmp_path / "real", over=over, rounds=2, timeout=5.0, workers=6)
    for ours, theirs in zip(played, real, strict=True):
        assert {**vars(ours), "seconds": 0, "state": 0} == {**vars(theirs), "seconds": 0, "state": 0}
        assert ours.base.sha256 == theirs.base.sha256
        assert ours.failures == {partition: fates[partition, ours.number] for partition in (1, 4)}


def test_a_client_that_is_lost_trains_nothing_and_one_that_is_late_does(tmp_path, monkeypatch):
    monkeypatch.setattr(Roster, "of", lambda *_: FLAKY)
    rounds_of(tmp_path, rounds=2)
    for partition in (1, 4):
        lines = [json.loads(line) for line in (tmp_path / f"{partition}" / "ledger.jsonl").read_text().splitlines()]
        sent = [line["round"] for line in lines if line["kind"] == "update"]
        assert sent == [number for number in (1, 2) if FLAKY.fate(partition, number) == "late"]


def test_too_many_failures_end_a_run_as_they_do_with_real_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(Roster, "of", lambda *_: FLAKY)
    with pytest.raises(FederationError, match=r"round 1: only 4 of 6 clients replied \(.*\), and 5 must"):
        rounds_of(tmp_path, min_replies=0.8)
