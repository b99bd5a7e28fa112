"""What crosses between server and device, by name, type and shape, and nothing else.

Down, once a round and client: the whole base (the norms' values too, and the predictor of norms where there is one, so that a new client
can start from them; a client that has norms of its own ignores them; and a method's companions), the round's number and FedProx's factor.
Up: the delta of what is shared of these, or one of a few codes. No weight, metric or photo count goes up: every client counts alike. Once
a run: the partition that a node holds.

Both go in the wire type, and are widened to fp32 where they arrive. The server keeps its own base in fp32: clients train from the base as
they received it, their deltas are from there, and the server adds them to its own, so that rounding down the wire does not add up over
rounds. What is hashed and signed is the base as it crosses. `compact` has the type int8, in which updates cross and the base does not.

Where sums are secure (`secure`), nothing of an update goes up but under masks, whatever the type, and a few keys and shares beside it.

Neither side believes the other: each reads with a contract made from its own configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.config import Wire
from fedstyle.errors import ParamsError, WireError
from fedstyle.flower import compact

if TYPE_CHECKING:
    from fedstyle.flower.secure import Plan

BASE, ROUND, DELTA, FAILURE, HELLO = "base", "round", "delta", "failure", "hello"
"""The names of the records in a message."""

Kind = np.dtype[Any]
TYPES: dict[Wire, Kind] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "int8": compact.KIND}
FORM = "fedstyle-wire-1"
LARGEST: dict[Wire, float] = {"fp32": float(np.finfo(np.float32).max), "fp16": 65504.0, "int8": compact.LARGEST}
"""The largest number of each type."""


class Failure(StrEnum):
    """Why a client has no part in a round; the last four are the server's own finding and never cross."""

    SETUP = "setup"
    PHOTOS = "photos"
    STYLE = "style"
    BASE = "base"
    TRAINING = "training"
    UPDATE = "update"
    DISK = "disk"
    UNKNOWN = "unknown"
    AWAY = "away"
    """The device is paused, or its own conditions do not hold, such as being charged."""
    KIND = "kind"
    """A request that the device's policy does not allow."""
    SIZE = "size"
    """A message larger than the device takes."""
    IDENTITY = "identity"
    """A base or an order that is not the operator's."""
    REPLAY = "replay"
    BOUNDS = "bounds"
    """A hyper-parameter out of the bounds that the device sets."""
    LIMIT = "limit"
    """More rounds or bytes a day than the device gives."""
    TERMS = "terms"
    """Terms of a secure sum that are not those of the device's own configuration."""
    PHASE = "phase"
    """A step of a secure sum that is not due."""
    ALTERED = "altered"
    """A message of a secure sum that breaks its protocol."""
    FEW = "few"
    """Too few clients are left in a secure sum, as the device sees it."""
    INVALID = "invalid"
    """The reply breaks the contract."""
    LARGE = "large"
    """The update is larger than the server's bound."""
    LOST = "lost"
    """The device, or the process that stood for it, is gone."""
    LATE = "late"
    """No reply in time."""


_FOUND = (Failure.INVALID, Failure.LARGE, Failure.LOST, Failure.LATE)


class CodedError(WireError):
    """A message that the device does not answer, by a code of its own."""

    def __init__(self, code: Failure, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Order:
    """What a server asks of a client: train this base, in this round, with FedProx's factor (0: without)."""

    base: Base
    round: int
    proximal: float


@dataclass(frozen=True)
class Contract:
    """What one side lets cross: every parameter's shape, the names that go up, and the type in which all cross."""

    arch: str
    padding: str
    shapes: Mapping[str, tuple[int, ...]]
    shared: frozenset[str]
    wire: Wire = "fp16"
    secure: Plan | None = None
    """How updates are summed securely; a device with a plan sends its update in no other way, and one without never so."""

    @classmethod
    def of(cls, base: Base, shares: Callable[[str], bool], wire: Wire = "fp16") -> Self:
        """The contract for networks like `base`; `shares` is the method's allow-list."""
        shapes = {name: tuple(base.weights[name].shape) for name in sorted(base.weights)}
        return cls(base.arch, base.padding, shapes, frozenset(filter(shares, shapes)), wire)

    @property
    def whole(self) -> Contract:
        """The same in fp32: the last base goes so, once, for what a device keeps is to be the federation's own base, by its very hash."""
        return replace(self, wire="fp32")

    def write_order(self, order: Order) -> RecordDict:
        """The message's content for a client; raises WireError for a base that the wire type cannot hold."""
        facts = ConfigRecord({"round": order.round, "proximal": order.proximal})
        return RecordDict({BASE: pack(order.base.weights, down(self.wire), "the base"), ROUND: facts})

    def read_order(self, content: RecordDict) -> Order:
        """What a server asks; raises WireError for anything that does not fit this device's own network."""
        if set(content) != {BASE, ROUND}:
            raise WireError(f"the server's message holds other records than {BASE!r} and {ROUND!r}: it is not this version of fedstyle")
        facts = content.config_records.get(ROUND, ConfigRecord())
        number, proximal = facts.get("round"), facts.get("proximal")
        if type(number) is not int or number < 1 or not isinstance(proximal, float) or not 0 <= proximal < math.inf:
            raise WireError("the server's message has no usable round number and proximal factor")
        if len(facts) > 2:
            raise WireError("the server's message asks for more than a round number and a proximal factor")
        weights = unpack(content.array_records.get(BASE), self.shapes, down(self.wire), "the server's base")
        return Order(Base(self.arch, self.padding, weights, {"round": number - 1}), number, proximal)

    def bytes_up(self) -> dict[str, int]:
        """The bytes of an update by the parameters' names."""
        return {name: _size(self.shapes[name], self.wire) for name in sorted(self.shared)}

    @property
    def length(self) -> int:
        """The numbers of an update."""
        return sum(map(self.size, self.shared))

    def size(self, name: str) -> int:
        """The numbers of a parameter."""
        return math.prod(self.shapes[name])

    def check_delta(self, delta: params.Params) -> None:
        """Raise WireError unless `delta` is exactly the shared names, of their shapes and finite."""
        like = {name: torch.empty(self.shapes[name], device="meta") for name in self.shared}
        try:
            params.check_alike(delta, like, "the update")
        except ParamsError as error:
            raise WireError(str(error)) from None

    def write_delta(self, delta: params.Params) -> RecordDict:
        """The message's content for the server; raises WireError unless `delta` is exactly the shared names, finite in the wire type.

        Rounding can make its norm a little larger: each number moves by up to 2^-11 of itself, or 2^-25, in fp16, and by a 254th of its
        channel's largest in int8. So where a promise hangs on the norm, the server clips what it received once more.
        """
        self.check_delta(delta)
        return RecordDict({DELTA: pack(delta, self.wire, "the update")})

    def read_delta(self, content: RecordDict) -> dict[str, Tensor]:
        """A client's delta, widened to fp32; raises WireError for anything but finite arrays of the shared names, shapes and type."""
        if set(content) != {DELTA}:
            raise WireError(f"the reply holds other records than {DELTA!r}")
        shapes = {name: self.shapes[name] for name in self.shared}
        return unpack(content.array_records.get(DELTA), shapes, self.wire, "the delta")


def down(wire: Wire) -> Wire:
    """The type in which the base crosses: where updates do so in int8, it is fp16, for int8 was not found to do a base no harm."""
    return "fp16" if wire == "int8" else wire


def received(base: Base, wire: Wire) -> Base:
    """A base as clients receive it in a round: what a device hashes, and what the operator signs."""
    shapes, way = {name: tuple(value.shape) for name, value in base.weights.items()}, down(wire)
    return replace(base, weights=unpack(pack(base.weights, way, "the base"), shapes, way, "the base"))


def pack(weights: params.Params, wire: Wire, what: str = "an array") -> ArrayRecord:
    """Tensors as one array of bytes, one after the other by name; raises WireError for a number that the type does not hold.

    The array's own name is a hash of all names, shapes and the type. It is one, for Flower sends and stores each array of a message with
    requests of its own, and a network has fifty.
    """
    data = b"".join(_narrow(name, weights[name], wire, what).data for name in sorted(weights))
    layout = _layout({name: tuple(value.shape) for name, value in weights.items()}, wire)
    return ArrayRecord({layout: Array("uint8", (len(data),), FORM, data)})


def unpack(record: ArrayRecord | None, shapes: Mapping[str, tuple[int, ...]], wire: Wire, what: str) -> dict[str, Tensor]:
    """The tensors of such an array, fp32; raises WireError unless names, shapes and type are exactly these and all is finite.

    Nothing is parsed: where each number stands follows from `shapes`, which are the reader's own.
    """
    layout, sizes = _layout(shapes, wire), {name: _size(shapes[name], wire) for name in sorted(shapes)}
    if record is None or list(record) != [layout]:
        raise WireError(f"{what} has not the {len(shapes)} expected tensors, by name, shape and type {wire}")
    array, total = record[layout], sum(sizes.values())
    if (array.dtype, tuple(array.shape), array.stype, len(array.data)) != ("uint8", (total,), FORM, total):
        raise WireError(f"{what} has not the {total} bytes of its tensors in {wire}")
    weights, start = {}, 0
    for name, size in sizes.items():
        kind = _kind(shapes[name], wire)
        values = np.frombuffer(array.data, kind, size // kind.itemsize, start)
        try:
            wide = compact.unpack(values, shapes[name]) if kind == compact.KIND else values.astype(kind.newbyteorder("="))
        except WireError as error:
            raise WireError(f"{what}: {name!r} {error}") from None
        weights[name] = torch.from_numpy(wide).float().reshape(shapes[name])
        start += size
    if (damaged := params.infinite(weights)) is not None:
        raise WireError(f"{what}: {damaged!r} holds a value that is not finite")
    return weights


def _narrow(name: str, value: Tensor, wire: Wire, what: str) -> NDArray[Any]:
    value, kind = value.detach().float().cpu().contiguous(), _kind(tuple(value.shape), wire)
    if not params.largest(value) <= LARGEST[wire]:  # nor with NaN
        raise WireError(f"{what}: {name!r} holds a value that is not finite, or over {LARGEST[wire]:g}, where {wire} ends")
    if kind == compact.KIND:
        return compact.pack(value.numpy())
    return value.to(torch.float16 if kind == TYPES["fp16"] else torch.float32).numpy().astype(kind, copy=False)  # numpy rounds slowly


def _kind(shape: tuple[int, ...], wire: Wire) -> Kind:
    """The type in which a parameter crosses; in int8, one without a channel's worth of numbers does so in fp16."""
    return TYPES["fp16"] if wire == "int8" and len(shape) < 2 else TYPES[wire]


def _size(shape: tuple[int, ...], wire: Wire) -> int:
    """The bytes that a parameter crosses in."""
    kind = _kind(shape, wire)
    return math.prod(compact.form(shape) if kind == compact.KIND else shape) * kind.itemsize


def _layout(shapes: Mapping[str, tuple[int, ...]], wire: Wire) -> str:
    return hashlib.sha256(json.dumps([FORM, wire, shapes], sort_keys=True).encode()).hexdigest()


def sizes(content: RecordDict) -> dict[str, int]:
    """The bytes of each array in a message's content."""
    return {name: len(array.data) for record in content.array_records.values() for name, array in record.items()}


def write_failure(code: Failure) -> RecordDict:
    """A client's failure: the code is all that crosses."""
    return RecordDict({FAILURE: ConfigRecord({"code": code.value})})


def read_failure(content: RecordDict) -> Failure | None:
    """The code in a client's reply, or None when it is no failure; a code that no device sends reads as INVALID."""
    if FAILURE not in content:
        return None
    code = content.config_records.get(FAILURE, ConfigRecord()).get("code")
    return next((known for known in Failure if known == code and known not in _FOUND), Failure.INVALID)
