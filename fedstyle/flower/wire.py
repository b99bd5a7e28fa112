"""What crosses between server and device, by name, type and shape, and nothing else.

Down, once a round and client: the whole base in fp32 (the norms' values too, and the predictor of norms where there is one, so that a new
client can start from them; a client that has norms of its own ignores them), the round's number and FedProx's factor. Up: the delta of the
shared parameters in the wire type, or one of a few codes. No weight, metric or photo count goes up: every client counts alike. Once a run:
the partition that a node holds.

Where sums are secure (`secure`), nothing of an update goes up but under masks, and a few keys and shares beside it.

Neither side believes the other: each reads with a contract made from its own configuration.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.errors import ParamsError, WireError

if TYPE_CHECKING:
    from fedstyle.flower.secure import Plan

BASE, ROUND, DELTA, FAILURE, HELLO = "base", "round", "delta", "failure", "hello"
"""The names of the records in a message."""

Kind = np.dtype[np.floating[Any]]
TYPES: dict[str, Kind] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}


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
    """What one side lets cross: every parameter's shape, the names that go up, and the type in which they do."""

    arch: str
    padding: str
    shapes: Mapping[str, tuple[int, ...]]
    shared: frozenset[str]
    wire: Literal["fp16", "fp32"] = "fp16"
    secure: Plan | None = None
    """How updates are summed securely; a device with a plan sends its update in no other way, and one without never so."""

    @classmethod
    def of(cls, base: Base, shares: Callable[[str], bool], wire: Literal["fp16", "fp32"] = "fp16") -> Self:
        """The contract for networks like `base`; `shares` is the method's allow-list."""
        shapes = {name: tuple(base.weights[name].shape) for name in sorted(base.weights)}
        return cls(base.arch, base.padding, shapes, frozenset(filter(shares, shapes)), wire)

    def write_order(self, order: Order) -> RecordDict:
        """The message's content for a client."""
        facts = ConfigRecord({"round": order.round, "proximal": order.proximal})
        return RecordDict({BASE: pack(order.base.weights, TYPES["fp32"]), ROUND: facts})

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
        weights = unpack(content.array_records.get(BASE), self.shapes, TYPES["fp32"], "the server's base")
        return Order(Base(self.arch, self.padding, weights, {"round": number - 1}), number, proximal)

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
        """The message's content for the server; raises WireError unless `delta` is exactly the shared names, finite in the wire type."""
        self.check_delta(delta)
        with np.errstate(over="ignore"):
            record = pack(delta, TYPES[self.wire])
        self.read_delta(RecordDict({DELTA: record}))  # fp16 ends at 65,504
        return RecordDict({DELTA: record})

    def read_delta(self, content: RecordDict) -> dict[str, Tensor]:
        """A client's delta, widened to fp32; raises WireError for anything but finite arrays of the shared names, shapes and type."""
        if set(content) != {DELTA}:
            raise WireError(f"the reply holds other records than {DELTA!r}")
        shapes = {name: self.shapes[name] for name in sorted(self.shared)}
        return unpack(content.array_records.get(DELTA), shapes, TYPES[self.wire], "the delta")


def pack(weights: params.Params, kind: Kind) -> ArrayRecord:
    """Tensors as Flower's arrays, names sorted, in this type."""
    arrays = {name: weights[name].detach().cpu().numpy() for name in sorted(weights)}
    return ArrayRecord({name: Array(np.ascontiguousarray(value, kind).reshape(value.shape)) for name, value in arrays.items()})


def unpack(record: ArrayRecord | None, shapes: Mapping[str, tuple[int, ...]], kind: Kind, what: str) -> dict[str, Tensor]:
    """Flower's arrays as fp32 tensors; raises WireError unless names, shapes and type are exactly these and all is finite.

    No header is parsed: the bytes must begin with the very header that numpy writes for this shape and type.
    """
    if record is None or set(record) != set(shapes):
        raise WireError(f"{what} has not the {len(shapes)} expected tensors")
    weights = {}
    for name in sorted(shapes):
        try:
            values = read_array(record[name], shapes[name], kind).astype(np.float32)
        except WireError as error:
            raise WireError(f"{what}: {name!r} {error}") from None
        if not np.isfinite(values).all():
            raise WireError(f"{what}: {name!r} holds a value that is not finite")
        weights[name] = torch.from_numpy(values)
    return weights


def read_array(array: Array, shape: tuple[int, ...], kind: Kind) -> NDArray[np.floating[Any]]:
    """Flower's array as numpy's, read-only; raises WireError unless shape, type and every byte of the header are those of such an array."""
    header = _header(shape, kind)
    if (array.dtype, tuple(array.shape), array.stype) != (kind.name, shape, "numpy.ndarray"):
        raise WireError(f"is not {kind.name} of shape {shape}")
    if array.data[: len(header)] != header or len(array.data) != len(header) + math.prod(shape) * kind.itemsize:
        raise WireError("has bytes that are not an array of its type and shape")
    return np.frombuffer(array.data, kind, offset=len(header)).reshape(shape)


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


@functools.cache
def _header(shape: tuple[int, ...], kind: Kind) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind.str, "fortran_order": False, "shape": shape})
    return stream.getvalue()
