import dataclasses
import json

import flower_fakes as fakes
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedstyle.base import Base
from fedstyle.errors import WireError
from fedstyle.flower.wire import BASE, DELTA, ROUND, TYPES, Contract, Failure, Order, pack, read_failure, sizes, unpack, write_failure
from fedstyle.methods import make_method
from fedstyle.net import is_norm

CONTRACT = Contract("cnn", "reflect", {"a": (2, 3), "b.norm": (2,)}, frozenset({"a"}), "fp16")
DELTA_A = torch.tensor([[1.0, -2.0, 0.5], [0.0, 65504.0, 2**-24]])  # all exact in fp16: its largest and its smallest number too


def test_only_shared_names_go_up_in_the_wire_type_and_come_out_as_fp32():
    content = CONTRACT.write_delta({"a": DELTA_A})
    assert sizes(content) == {"a": 128 + 2 * 6}  # numpy's header is padded to 128 bytes; six numbers of two bytes
    back = CONTRACT.read_delta(content)
    assert list(back) == ["a"]
    assert back["a"].dtype == torch.float32
    assert torch.equal(back["a"], DELTA_A)


def test_fp16_rounds_and_fp32_does_not():
    third = {"a": torch.full((2, 3), 1 / 3)}
    assert CONTRACT.read_delta(CONTRACT.write_delta(third))["a"][0, 0].item() == 0.333251953125  # 1365 / 4096, eleven bits
    whole = dataclasses.replace(CONTRACT, wire="fp32")
    assert torch.equal(whole.read_delta(whole.write_delta(third))["a"], third["a"])


@pytest.mark.parametrize(
    "delta",
    [
        {},
        {"a": torch.zeros(2, 3), "b.norm": torch.zeros(2)},
        {"b.norm": torch.zeros(2)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.full((2, 3), torch.nan)},
        {"a": torch.full((2, 3), 7e4)},
    ],
    ids=["missing", "a private one too", "another", "shape", "nan", "too large for fp16"],
)
def test_a_delta_that_is_not_exactly_the_allowed_one_does_not_leave(delta):
    with pytest.raises(WireError):
        CONTRACT.write_delta(delta)


def test_a_transposed_view_goes_up_as_what_it_shows():
    delta = {"a": torch.arange(6.0).reshape(3, 2).T}
    assert torch.equal(CONTRACT.read_delta(CONTRACT.write_delta(delta))["a"], delta["a"])


GOOD = Array(np.zeros((2, 3), "<f2"))


@pytest.mark.parametrize(
    "array",
    [
        Array(np.zeros((2, 3), "<f4")),
        Array(np.zeros((2, 3), ">f2")),
        Array(np.zeros((3, 2), "<f2")),
        Array(np.full((2, 3), np.inf, "<f2")),
        Array("float16", (2, 3), "numpy.ndarray", b""),
        Array("float16", (2, 3), "numpy.ndarray", GOOD.data[:-1]),
        Array("float16", (2, 3), "numpy.ndarray", GOOD.data + b"\0"),
        Array("float16", (2, 3), "pickle", GOOD.data),
        Array("float16", (2, 3), "numpy.ndarray", GOOD.data.replace(b"(2, 3)", b"(9, 9)")),
    ],
    ids=["type", "byte order", "shape", "infinite", "empty", "short", "long", "other serialisation", "header that lies"],
)
def test_a_reply_with_a_wrong_array_is_refused(array):
    with pytest.raises(WireError):
        CONTRACT.read_delta(RecordDict({DELTA: ArrayRecord({"a": array})}))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({DELTA: ArrayRecord({"a": GOOD, "b": GOOD})}),
        RecordDict({DELTA: ArrayRecord({"a": GOOD}), "more": MetricRecord({"photos": 3})}),
        RecordDict({DELTA: ConfigRecord({"a": 1})}),
    ],
    ids=["empty", "a name more", "a record more", "no arrays"],
)
def test_a_reply_with_other_records_is_refused(content):
    with pytest.raises(WireError):
        CONTRACT.read_delta(content)


def test_the_base_goes_down_whole_and_exact():
    base, contract = fakes.small_base(), fakes.contract()
    order = contract.read_order(contract.write_order(Order(base, 4, 0.5)))
    assert (order.round, order.proximal, order.base.record) == (4, 0.5, {"round": 3})
    assert order.base.sha256 == base.sha256


def test_a_predictor_goes_down_with_the_base_and_never_up_with_private_norms(predictive):
    contract = Contract.of(predictive, make_method({"name": "fedbn"}).shares)
    order = contract.read_order(contract.write_order(Order(predictive, 1, 0.0)))
    assert order.base.sha256 == predictive.sha256
    assert contract.shared == {name for name in predictive.weights if not is_norm(name) and not name.startswith("predictor.")}
    zeros = {name: torch.zeros_like(predictive.weights[name]) for name in contract.shared}
    assert set(contract.read_delta(contract.write_delta(zeros))) == contract.shared
    with pytest.raises(WireError, match=r"1 tensors are not expected, 'predictor.out.bias' first"):
        contract.write_delta({**zeros, "predictor.out.bias": torch.zeros(388)})
    whole = Contract.of(predictive, make_method({"name": "predicted"}).shares)
    assert whole.shared == set(predictive.weights)


def order_with(weights, **facts):
    facts = {"round": 1, "proximal": 0.0, **facts}
    return RecordDict({BASE: pack(weights, TYPES["fp32"]), ROUND: ConfigRecord(facts)})


def test_a_device_believes_its_own_configuration_and_not_the_server():
    contract, weights = fakes.contract(), fakes.small_base().weights
    contract.read_order(order_with(weights))
    wider = Base.new(width=8).weights
    broken = weights | {"out.conv.bias": torch.full((3,), torch.inf)}
    for bad in (wider, broken, {"x": torch.zeros(1)}):
        with pytest.raises(WireError, match="base"):
            contract.read_order(order_with(bad))
    for facts in ({"round": 0}, {"round": 1.0}, {"proximal": -1.0}, {"proximal": float("inf")}, {"proximal": "1"}):
        with pytest.raises(WireError, match="round number"):
            contract.read_order(order_with(weights, **facts))
    named = order_with(weights)
    named["architecture"] = ConfigRecord({"arch": "cnn"})
    with pytest.raises(WireError, match="other records"):
        contract.read_order(named)


def test_the_contract_of_a_base_holds_all_shapes_and_the_methods_names():
    base, contract = fakes.small_base(), fakes.contract()
    assert contract.shapes == {name: tuple(value.shape) for name, value in base.weights.items()}
    assert contract.shared == {name for name in base.weights if not is_norm(name)}


def test_what_is_unpacked_is_its_own_memory():
    back = unpack(pack({"a": torch.zeros(2, 3)}, TYPES["fp32"]), {"a": (2, 3)}, TYPES["fp32"], "x")
    back["a"] += 1


def test_a_failure_crosses_as_a_code_and_as_nothing_else():
    content = write_failure(Failure.PHOTOS)
    assert {name: dict(record) for name, record in content.items()} == {"failure": {"code": "photos"}}
    assert read_failure(content) is Failure.PHOTOS
    assert read_failure(CONTRACT.write_delta({"a": DELTA_A})) is None
    for code in ("lost", "late", "invalid", "/home/alice", 3):  # what the server finds itself, no device may say
        assert read_failure(RecordDict({"failure": ConfigRecord({"code": code})})) is Failure.INVALID
    assert json.dumps([code.value for code in Failure])
