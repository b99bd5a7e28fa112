import threading
import time
import types

import flower_fakes as fakes
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedstyle.errors import FederationError
from fedstyle.flower import cohort
from fedstyle.flower.cohort import Cohort, sample
from fedstyle.flower.inline import InlineGrid
from fedstyle.flower.wire import HELLO


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
    assert sample(20, 5, 7, 1) == sample(20, 5, 7, 1)
    assert sample(20, 5, 7, 1) != sample(20, 5, 7, 2)
    assert sample(20, 5, 7, 1) != sample(20, 5, 8, 1)
    assert sample(20, 5, 7, 1) == (0, 4, 9, 14, 19)  # the five least of sha256("7\0" "1\0" "<partition>"), sorted


def test_a_cohort_is_sorted_and_holds_nobody_twice():
    for number in range(50):
        cohort = sample(9, 4, 0, number)
        assert list(cohort) == sorted(set(cohort))
        assert len(cohort) == 4
        assert set(cohort) <= set(range(9))
    assert sample(9, 9, 0, 1) == tuple(range(9))


def test_everyone_is_sampled_alike():
    counts = [0] * 10
    for number in range(1000):
        for partition in sample(10, 3, 1, number):
            counts[partition] += 1
    # 300 expected each; the standard deviation of a binomial of 1000 at 0.3 is 14.5, so five of them are 72
    assert all(count == pytest.approx(300, abs=72) for count in counts)
