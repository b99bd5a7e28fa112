import dataclasses
import hashlib
import json
import math
import struct

import flower_fakes as fakes
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.base import Base
from fedstyle.errors import WireError
from fedstyle.flower import compact
from fedstyle.flower.wire import BASE, DELTA, ROUND, Contract, Failure, Order, pack, read_failure, received, sizes, unpack, write_failure
from fedstyle.methods import make_method
from fedstyle.net import is_norm
from fedstyle.privacy.gaussian import seeded
from fedstyle.privacy.noise import noisy_mean

CONTRACT = Contract("cnn", "reflect", {"a": (2, 3), "b.norm": (2,)}, frozenset({"a"}), "fp16")
DELTA_A = torch.tensor([[1.0, -2.0, 0.5], [0.0, 65504.0, 2**-24]])  # all exact in fp16: its largest and its smallest number too


def test_only_shared_names_go_up_in_the_wire_type_and_come_out_as_fp32():
    content = CONTRACT.write_delta({"a": DELTA_A})
    assert list(sizes(content).values()) == [2 * 6]  # one array; six numbers of two bytes
    assert CONTRACT.bytes_up() == {"a": 12}
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


(LAYOUT, GOOD) = next(iter(CONTRACT.write_delta({"a": torch.zeros(2, 3)}).array_records[DELTA].items()))
HALF = np.zeros(6, "<f2").tobytes()


def test_the_array_is_named_by_a_hash_of_names_shapes_and_type():
    said = json.dumps(["fedstyle-wire-1", "fp16", {"a": [2, 3]}])
    assert hashlib.sha256(said.encode()).hexdigest() == LAYOUT
    assert (GOOD.dtype, GOOD.shape, GOOD.stype, GOOD.data) == ("uint8", (12,), "fedstyle-wire-1", HALF)
    assert CONTRACT.read_delta(RecordDict({DELTA: ArrayRecord({LAYOUT: GOOD})}))["a"].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    "array",
    [
        Array("float16", (12,), GOOD.stype, HALF),
        Array("uint8", (6,), GOOD.stype, HALF),
        Array("uint8", (12,), GOOD.stype, np.full(6, np.inf, "<f2").tobytes()),
        Array("uint8", (12,), GOOD.stype, np.full(6, np.nan, "<f2").tobytes()),
        Array("uint8", (12,), GOOD.stype, b""),
        Array("uint8", (12,), GOOD.stype, HALF[:-1]),
        Array("uint8", (12,), GOOD.stype, HALF + b"\0"),
        Array("uint8", (13,), GOOD.stype, HALF + b"\0"),
        Array("uint8", (12,), "numpy.ndarray", HALF),
    ],
    ids=["type", "shape", "infinite", "not a number", "empty", "short", "long", "longer", "other serialisation"],
)
def test_a_reply_with_a_wrong_array_is_refused(array):
    with pytest.raises(WireError):
        CONTRACT.read_delta(RecordDict({DELTA: ArrayRecord({LAYOUT: array})}))


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": {"b": (2, 3)}, "shared": frozenset("b")},
        {"shapes": {"a": (3, 2)}},
        {"shapes": {"a": (6,)}},
        {"wire": "fp32"},
        {"wire": "int8"},
    ],
    ids=["name", "shape", "axes", "type", "another type"],
)
def test_an_update_of_another_contract_is_refused(change):
    """Also where it has as many bytes."""
    other = dataclasses.replace(CONTRACT, **change)
    content = other.write_delta({name: torch.zeros(other.shapes[name]) for name in other.shared})
    with pytest.raises(WireError, match="the delta has not the 1 expected tensors, by name, shape and type fp16"):
        CONTRACT.read_delta(content)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({DELTA: ArrayRecord({LAYOUT: GOOD, "b": GOOD})}),
        RecordDict({DELTA: ArrayRecord({LAYOUT: GOOD}), "more": MetricRecord({"photos": 3})}),
        RecordDict({DELTA: ConfigRecord({"a": 1})}),
    ],
    ids=["empty", "a name more", "a record more", "no arrays"],
)
def test_a_reply_with_other_records_is_refused(content):
    with pytest.raises(WireError):
        CONTRACT.read_delta(content)


EIGHTH = Contract("cnn", "reflect", {"a": (2, 1, 3), "b": (2,)}, frozenset({"a", "b"}), "int8")


def test_int8_by_hand():
    # Channel 1: the largest is 127 / 128, so the scale is 2^-7; -1/256 is half a step, even at 0, and 3/256 is one and a half, even at 2.
    # Channel 2: nothing but zeros has the scale 0. A tensor of one axis goes in fp16, where 1/3 is 1365 / 4096.
    delta = {"a": torch.tensor([[[127 / 128, -1 / 256, 3 / 256]], [[0.0, 0.0, 0.0]]]), "b": torch.tensor([1 / 3, -2.0])}
    content = EIGHTH.write_delta(delta)
    (array,) = content.array_records[DELTA].values()
    assert array.data == struct.pack("<f3b", 2**-7, 127, 0, 2) + bytes(7) + struct.pack("<2e", 1 / 3, -2.0)
    assert EIGHTH.bytes_up() == {"a": 2 * (4 + 3), "b": 2 * 2}
    back = EIGHTH.read_delta(content)
    assert back["a"].tolist() == [[[127 / 128, 0.0, 2 / 128]], [[0.0, 0.0, 0.0]]]
    assert back["b"].tolist() == [1365 / 4096, -2.0]
    # 1 / 127 = 2^-7 x (1 + 516.03 / 65536), rounded up to 17 significant bits: 2^-7 x (1 + 517 / 65536); times 127, exactly:
    one = EIGHTH.read_delta(EIGHTH.write_delta({"a": torch.ones(2, 1, 3), "b": torch.zeros(2)}))["a"]
    assert one.unique().tolist() == [127 * 66053 / 2**23]


def test_an_update_that_rounding_made_longer_moves_a_private_sum_by_no_more_than_the_clip():
    # (127, 0.6, 0.6) / 128 becomes (127, 1, 1) / 128: its squared norm grows from 16129.72 to 16131, each over 128^2.
    clip = math.sqrt(16129.72) / 128
    sent = {"a": torch.tensor([[[127.0, 0.6, 0.6]], [[0.0, 0.0, 0.0]]]) / 128, "b": torch.zeros(2)}
    came = EIGHTH.read_delta(EIGHTH.write_delta(sent))
    assert clip < float(came["a"].norm()) == pytest.approx(math.sqrt(16131) / 128, rel=1e-6)
    mean = noisy_mean([came], came, clip=clip, noise=1e-6, denominator=1.0, draw=seeded(0))  # next to no noise, to see the rest
    assert float(mean["a"].norm()) == pytest.approx(clip, rel=1e-5)


ROWS = st.lists(st.lists(st.floats(-65024.0, 65024.0, width=32), min_size=3, max_size=3), min_size=2, max_size=2)


@given(rows=ROWS, exponent=st.integers(-149, 0))
@settings(deadline=None, max_examples=200)
def test_int8_is_at_most_half_a_step_off_exact_when_widened_and_the_same_the_second_time(rows, exponent):
    values = (np.array(rows, np.float64) * 2.0**exponent).astype(np.float32)
    packed = compact.pack(values)
    scales = packed[:, :4].copy().view("<f4").astype(np.float64)
    whole = packed[:, 4:].view(np.int8).astype(np.float64)
    back = compact.unpack(packed, values.shape)
    assert np.array_equal(back.astype(np.float64), whole * scales)
    largest = np.abs(values).max(1, keepdims=True).astype(np.float64)
    assert (np.abs(back - values.astype(np.float64)) <= np.where(scales, scales / 2 * (1 + 1e-6), compact.LEAST)).all()
    assert (scales <= largest / 127 * (1 + 2**-15)).all()
    assert np.array_equal(compact.pack(back), packed)


@given(data=st.binary(min_size=20, max_size=20))
@settings(deadline=None, max_examples=300)
def test_any_bytes_of_int8_are_refused_or_finite_and_bounded(data):
    try:
        values = compact.unpack(np.frombuffer(data, np.uint8).reshape(2, 10), (2, 2, 3))
    except WireError:
        return
    assert (np.abs(values) <= compact.LARGEST).all()


def eight_bits(*, scale=1.0, least=-3, tail=b""):
    """A reply by hand, with two rows and two numbers of one axis."""
    data = struct.pack("<f3bf3b2e", 1.0, 1, 2, 3, scale, 1, 2, least, 0.5, 0.25) + tail
    zeros = {"a": torch.zeros(2, 1, 3), "b": torch.zeros(2)}
    ((layout, array),) = EIGHTH.write_delta(zeros).array_records[DELTA].items()
    return RecordDict({DELTA: ArrayRecord({layout: Array(array.dtype, (len(data),), array.stype, data)})})


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1e-3, 512.1, 1e30])
def test_a_scale_that_is_none_is_refused(scale):
    assert EIGHTH.read_delta(eight_bits(scale=2.0))["a"].tolist() == [[[1.0, 2.0, 3.0]], [[2.0, 4.0, -6.0]]]
    with pytest.raises(WireError, match="'a' has a scale that is no number from 0 to 512"):
        EIGHTH.read_delta(eight_bits(scale=scale))


def test_other_bytes_than_those_of_int8_are_refused():
    with pytest.raises(WireError, match="'a' has a whole number beyond -127"):
        EIGHTH.read_delta(eight_bits(least=-128))  # it has no counterpart, and no device sends it
    with pytest.raises(WireError, match="not the 18 bytes"):
        EIGHTH.read_delta(eight_bits(tail=b"\0"))
    with pytest.raises(WireError, match="over 65024, where int8 ends"):
        EIGHTH.write_delta({"a": torch.full((2, 1, 3), 65025.0), "b": torch.zeros(2)})


@pytest.mark.parametrize(("wire", "numbers"), [("fp32", (4, 4)), ("fp16", (2, 2)), ("int8", (2, 1))])
def test_base_and_update_cross_in_the_wire_type_each_within_a_megabyte(wire, numbers):
    base = Base.new("cnnLite")
    contract = Contract.of(base, lambda name: not is_norm(name), wire)
    down = sum(sizes(contract.write_order(Order(base, 1, 0.0))).values())
    up = sum(sizes(contract.write_delta({name: base.weights[name] for name in contract.shared})).values())
    for size, each, names in zip((down, up), numbers, (contract.shapes, contract.shared), strict=True):
        assert size == pytest.approx(each * sum(map(contract.size, names)), rel=0.02)  # scales, and biases in fp16
        assert size < 1e6 or wire == "fp32"


@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8"])
def test_what_a_device_hashes_is_the_base_as_it_crossed(wire):
    base, contract = fakes.small_base(), fakes.contract(wire)
    order = contract.read_order(contract.write_order(Order(base, 4, 0.5)))
    assert (order.round, order.proximal, order.base.record) == (4, 0.5, {"round": 3})
    assert order.base.sha256 == received(base, wire).sha256 == received(received(base, wire), wire).sha256
    assert (order.base.sha256 == base.sha256) == (wire == "fp32")
    again = contract.write_order(order)
    sent = contract.write_order(Order(base, 4, 0.5))
    assert sizes(again) == sizes(sent)
    assert [one.data for one in again.array_records[BASE].values()] == [one.data for one in sent.array_records[BASE].values()]
    whole = contract.whole
    assert whole.read_order(whole.write_order(Order(base, 4, 0.5))).base.sha256 == base.sha256


def test_a_base_that_the_wire_type_cannot_hold_does_not_go_down():
    base = fakes.small_base()
    large = dataclasses.replace(base, weights={**base.weights, "out.conv.bias": torch.full((3,), 7e4)})
    with pytest.raises(WireError, match=r"the base: 'out.conv.bias' holds a value that is not finite, or over 65504, where fp16 ends"):
        fakes.contract().write_order(Order(large, 1, 0.0))


def test_a_predictor_goes_down_with_the_base_and_never_up_with_private_norms(predictive):
    contract = Contract.of(predictive, make_method({"name": "fedbn"}).shares)
    order = contract.read_order(contract.write_order(Order(predictive, 1, 0.0)))
    assert order.base.sha256 == received(predictive, "fp16").sha256
    assert contract.shared == {name for name in predictive.weights if not is_norm(name) and not name.startswith("predictor.")}
    zeros = {name: torch.zeros_like(predictive.weights[name]) for name in contract.shared}
    assert set(contract.read_delta(contract.write_delta(zeros))) == contract.shared
    with pytest.raises(WireError, match=r"1 tensors are not expected, 'predictor.out.bias' first"):
        contract.write_delta({**zeros, "predictor.out.bias": torch.zeros(388)})
    whole = Contract.of(predictive, make_method({"name": "predicted"}).shares)
    assert whole.shared == set(predictive.weights)


def order_with(weights, **facts):
    facts = {"round": 1, "proximal": 0.0, **facts}
    return RecordDict({BASE: pack(weights, "fp16"), ROUND: ConfigRecord(facts)})


def test_a_device_believes_its_own_configuration_and_not_the_server():
    contract, weights = fakes.contract(), fakes.small_base().weights
    contract.read_order(order_with(weights))
    wider = Base.new(width=8).weights
    for bad in (wider, {"x": torch.zeros(1)}, {**weights, "x": torch.zeros(1)}):
        with pytest.raises(WireError, match="the server's base has not the 58 expected tensors"):
            contract.read_order(order_with(bad))
    broken = order_with(weights)
    ((layout, array),) = broken.array_records[BASE].items()
    broken.array_records[BASE][layout] = Array(array.dtype, array.shape, array.stype, b"\x00\x7c" + array.data[2:])  # infinite in fp16
    with pytest.raises(WireError, match=f"the server's base: '{min(weights)}' holds a value that is not finite"):
        contract.read_order(broken)
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
    for wire in ("fp32", "fp16", "int8"):
        back = unpack(pack({"a": torch.zeros(2, 3)}, wire), {"a": (2, 3)}, wire, "x")
        back["a"] += 1


def test_a_failure_crosses_as_a_code_and_as_nothing_else():
    content = write_failure(Failure.PHOTOS)
    assert {name: dict(record) for name, record in content.items()} == {"failure": {"code": "photos"}}
    assert read_failure(content) is Failure.PHOTOS
    assert read_failure(CONTRACT.write_delta({"a": DELTA_A})) is None
    for code in ("lost", "late", "invalid", "/home/alice", 3):  # what the server finds itself, no device may say
        assert read_failure(RecordDict({"failure": ConfigRecord({"code": code})})) is Failure.INVALID
    assert json.dumps([code.value for code in Failure])
