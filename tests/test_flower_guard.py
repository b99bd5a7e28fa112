"""The guard around stock strategies: bad replies of 20 kinds and seven aggregators, and no crash and no base that is not finite."""

import gc
import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedMedian, FedTrimmedAvg, Krum
from flwr.supercore.task_identity import TaskIdentity

from fedstyle.errors import ConfigError, FederationError
from fedstyle.flower.guard import Flaw, Guarded

SENT = {"a": np.full(4, 0.5, np.float32), "b": np.full((2, 3), 0.5, np.float32)}
NODES = tuple(range(1, 11))
WHOLE = {"fraction_train": 1.0, "fraction_evaluate": 0.0, "min_train_nodes": 10, "min_available_nodes": 10}


@pytest.fixture(autouse=True)
def _a_servers_identity():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect():
    """Flower collects garbage for each reply that Krum and Bulyan read: 0.3 seconds apiece over all that the tests imported."""
    gc.freeze()
    yield
    gc.unfreeze()


class Nodes:
    """A grid of ten nodes that answer nothing: the test makes their replies."""

    def get_node_ids(self):
        return NODES


def private(strategy):
    """Flower's wrapper with clipping to 1 and almost no noise."""
    return DifferentialPrivacyServerSideFixedClipping(strategy, noise_multiplier=1e-6, clipping_norm=1.0, num_sampled_clients=9)


AGGREGATORS = {
    "FedAvg": lambda: FedAvg(**WHOLE),
    "FedMedian": lambda: FedMedian(**WHOLE),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(**WHOLE, beta=0.2),
    "Krum": lambda: Krum(**WHOLE, num_malicious_nodes=1),
    "Bulyan": lambda: Bulyan(**WHOLE, num_malicious_nodes=1),
    "FedAdam": lambda: FedAdam(**WHOLE),
    "fixed clipping": lambda: private(FedAvg(**WHOLE)),
}


def record(values):
    return ArrayRecord({name: Array(value) for name, value in values.items()})


def content(values=None, weight=10.0, **metrics):
    return RecordDict({"arrays": record(SENT if values is None else values), "metrics": MetricRecord({"num-examples": weight, **metrics})})


def ask(strategy, number=1, start=0):
    """The messages of a round, with the ids that a grid gives them."""
    random.seed(3)  # the strategies' own order of nodes
    messages = list(strategy.configure_train(number, record(SENT), ConfigRecord(), Nodes()))
    for place, message in enumerate(sorted(messages, key=lambda message: message.metadata.dst_node_id), start):
        message.metadata.__dict__["_message_id"] = f"{place}"
    return {message.metadata.dst_node_id: message for message in messages}


def reply(message, content, node=None):
    made = Message(content, reply_to=message)
    made.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id if node is None else node
    return made


def honest(node):
    return {name: value + np.float32(0.001 * node) for name, value in SENT.items()}


def swapped():
    return dict(reversed(honest(10).items()))


def lying(array, **claims):
    """An array whose description says something else than its bytes."""
    made = Array(array)
    for name, value in claims.items():
        setattr(made, name, value)
    return RecordDict({"arrays": ArrayRecord({"a": made, "b": Array(SENT["b"])}), "metrics": MetricRecord({"num-examples": 1})})


def changed(name, value):
    return content({**honest(10), name: value})


BAD = {
    "not a number": (lambda: changed("a", np.array([1, np.nan, 1, 1], np.float32)), Flaw.NOT_FINITE),
    "infinite": (lambda: changed("b", np.full((2, 3), np.inf, np.float32)), Flaw.NOT_FINITE),
    "a million": (lambda: changed("a", np.full(4, 1e6, np.float32)), Flaw.NORM),
    "beyond any square": (lambda: changed("a", np.full(4, 3e38, np.float32)), Flaw.NORM),
    "ten times the other way": (lambda: content({name: -10 * value for name, value in SENT.items()}), Flaw.NORM),
    "a shape that broadcasts": (lambda: changed("a", np.ones(1, np.float32)), Flaw.ARRAY),
    "another shape": (lambda: changed("a", np.ones(5, np.float32)), Flaw.ARRAY),
    "complex": (lambda: changed("a", np.ones(4, np.complex64)), Flaw.ARRAY),
    "double": (lambda: changed("a", np.ones(4, np.float64)), Flaw.ARRAY),
    "a shape that its bytes have not": (lambda: lying(np.ones(3, np.float32), shape=(4,)), Flaw.ARRAY),
    "bytes that are pickled": (lambda: lying(SENT["a"], data=b"\x80\x04N."), Flaw.ARRAY),
    "another serialisation": (lambda: lying(SENT["a"], stype="pickle"), Flaw.ARRAY),
    "a key too many": (lambda: changed("c", np.ones(4, np.float32)), Flaw.NAMES),
    "a key too few": (lambda: content({"a": SENT["a"]}), Flaw.NAMES),
    "a key renamed": (lambda: content({"a": SENT["a"], "B": SENT["b"]}), Flaw.NAMES),
    "nothing": (RecordDict, Flaw.RECORDS),
    "two records of arrays": (lambda: RecordDict({**content(), "more": record(SENT)}), Flaw.RECORDS),
    "no arrays": (lambda: RecordDict({"metrics": MetricRecord({"num-examples": 1})}), Flaw.RECORDS),
    "an error": (lambda: Error(code=0, reason="the text of an exception"), Flaw.ERROR),
}
WEIGHTS = (1e12, float("nan"), -90.0, 0.0, float("inf"))


def finish(strategy, replies, number=1):
    """The strategy's aggregate as numpy's arrays, all of them finite."""
    arrays, metrics = strategy.aggregate_train(number, replies)
    values = {name: array.numpy() for name, array in arrays.items()}
    assert set(values) == set(SENT)
    assert all(value.shape == SENT[name].shape and np.isfinite(value).all() for name, value in values.items())
    assert all(np.isfinite(value) for value in (metrics or {}).values())
    return values


def run(name, bad):
    """A round of nine honest nodes and a tenth that sends `bad`; gives the guard and the aggregate."""
    guarded = Guarded(AGGREGATORS[name](), bound=5.0, least=9)
    asked = ask(guarded)
    replies = [reply(asked[node], content(honest(node))) for node in NODES[:-1]]
    if bad is not None:
        replies.append(reply(asked[10], bad))
    random.Random(1).shuffle(replies)
    return guarded, finish(guarded, replies)


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_dropped_and_named_and_the_round_goes_on_as_without_it(name, kind):
    make, flaw = BAD[kind]
    guarded, found = run(name, make())
    assert guarded.dropped == {10: flaw}
    if name != "fixed clipping":  # its noise differs from run to run
        _, without = run(name, None)
        assert all(np.array_equal(found[key], without[key]) for key in SENT)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_order_and_weights_and_metrics_do_not_matter(name):
    _, plain = run(name, content(honest(10)) if name != "fixed clipping" else None)
    for told in [content(honest(10), weight=weight) for weight in WEIGHTS] + [content(honest(10), loss=float("nan")), content(swapped())]:
        guarded, found = run(name, told if name != "fixed clipping" else None)
        assert not guarded.dropped
        assert all(np.allclose(found[key], plain[key], atol=1e-4 if name == "fixed clipping" else 0) for key in SENT)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_replies_to_other_rounds_and_nodes_and_second_ones_are_dropped(name):
    guarded = Guarded(AGGREGATORS[name](), bound=5.0, least=9)
    before = ask(guarded)
    now = ask(guarded, number=2, start=100)
    good = [reply(now[node], content(honest(node))) for node in NODES[:-1]]
    far = {key: value + 2 for key, value in SENT.items()}
    stale = reply(before[10], content(far))
    sybils = [reply(now[9], content(far)) for _ in range(20)]
    stolen = reply(now[1], content(far), node=10)
    found = finish(guarded, [*good, stale, *sybils, stolen], number=2)
    assert guarded.dropped == {9: Flaw.REPEATED, 10: Flaw.STALE}
    assert all(abs(found[key] - SENT[key]).max() < 0.1 for key in SENT)


def test_a_late_reply_does_not_take_its_nodes_place():
    guarded = Guarded(FedAvg(**WHOLE), least=10)
    before = ask(guarded)
    now = ask(guarded, number=2, start=100)
    finish(guarded, [reply(before[3], content()), *(reply(now[node], content()) for node in NODES)], number=2)
    assert guarded.dropped == {3: Flaw.STALE}


def test_the_norm_is_that_of_all_arrays_together():
    # 4 numbers moved by 1 and 6 by 2 are sqrt(4 * 1 + 6 * 4) = sqrt(28) = 5.2915 away.
    values = {"a": SENT["a"] + 1, "b": SENT["b"] + 2}
    for bound, dropped in ((5.29, {1: Flaw.NORM}), (5.30, {})):
        guarded = Guarded(FedAvg(**WHOLE), bound=bound)
        asked = ask(guarded)
        guarded.aggregate_train(1, [reply(asked[1], content(values)), reply(asked[2], content())])
        assert guarded.dropped == dropped


def test_replies_that_moved_further_than_the_median_are_drawn_back_to_it():
    # 10 numbers moved by 1, 2, 4 and 3e38 are as far as sqrt(10) times that; the lower middle is 2, so all but the first move by 2: 7 / 4.
    guarded = Guarded(FedAvg(**WHOLE), level=True)
    asked = ask(guarded)
    moves = (1, 2, 4, 3e38)
    replies = [
        reply(asked[k], content({name: value + np.float32(move) for name, value in SENT.items()})) for k, move in enumerate(moves, 1)
    ]
    found = finish(guarded, replies)
    assert all(np.allclose(found[name], SENT[name] + 7 / 4) for name in SENT)
    assert not guarded.dropped


def test_weights_count_up_to_the_heaviest():
    # Weights 30 -> 3 and 1 -> 1: (3 * 1.5 + 1 * 0.5) / 4 = 1.25.
    guarded = Guarded(FedAvg(**WHOLE), heaviest=3.0)
    asked = ask(guarded)
    high = {name: value + 1 for name, value in SENT.items()}
    replies = [reply(asked[1], content(high, weight=30)), reply(asked[2], content(weight=1.0))]
    replies += [reply(asked[node], content(weight=weight)) for node, weight in zip((3, 4, 5, 6), WEIGHTS[1:], strict=True)]
    found = finish(guarded, replies)
    assert np.allclose(found["a"], 1.25)
    assert guarded.dropped == dict.fromkeys((3, 4, 5, 6), Flaw.WEIGHT)


def test_too_few_good_replies_fail_the_round_by_their_codes():
    guarded = Guarded(FedAvg(**WHOLE), least=3)
    asked = ask(guarded)
    bad = changed("a", np.full(4, np.nan, np.float32))
    replies = [reply(asked[1], content()), reply(asked[2], bad), reply(asked[3], Error(code=0, reason="secret"))]
    with pytest.raises(FederationError, match=r"^round 1: 1 replies hold \(error 1, not finite 1\), and 3 must$"):
        guarded.aggregate_train(1, replies)
    with pytest.raises(FederationError, match="none came"):
        guarded.aggregate_train(1, [])


@pytest.mark.parametrize("wish", [{"bound": 0.0}, {"bound": float("nan")}, {"least": 0}, {"heaviest": 0.0}, {"heaviest": float("inf")}])
def test_numbers_out_of_range_are_refused(wish):
    with pytest.raises(ConfigError):
        Guarded(FedAvg(), **wish)
