"""A guard for any Flower strategy: it hands on the replies that hold, and drops, counts and names by code those that do not.

Stock strategies trust their clients. One reply that is not finite makes a base that is not, one of a wrong shape ends the run, and one
with a great weight is the base. `Guarded` stands around a strategy and needs no other part of fedstyle:

    strategy = Guarded(FedAvg(), bound=10.0, least=8)
    strategy.start(grid, initial_arrays, num_rounds=3)
"""

from __future__ import annotations

import functools
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from statistics import median_low

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedstyle.errors import FederationError, WireError
from fedstyle.tables import need


class Flaw(StrEnum):
    """Why a reply is dropped."""

    ERROR = "error"
    """The node answered with an error, or the node is gone."""
    STALE = "stale"
    """It answers no message of this round, or one that another node was sent."""
    REPEATED = "repeated"
    """A second reply of a node in a round."""
    RECORDS = "records"
    """It does not hold one record of arrays and one of metrics."""
    NAMES = "names"
    """Arrays are missing, or there are others."""
    ARRAY = "array"
    """An array has another shape or type, or its bytes are no such array."""
    NOT_FINITE = "not finite"
    NORM = "norm"
    """The arrays moved further than the bound."""
    WEIGHT = "weight"
    """There is no weight, or it is no finite number over 0."""


class Guarded(Strategy):
    """A strategy that gets, of each node and round, one reply with the names, shapes and types that were sent, finite and bounded.

    `bound` is the largest joint L2 norm by which a reply's arrays may differ from those that were sent. With `level`, of the replies that
    hold, those that moved further than the median are drawn back to that distance (see `privacy.clipping`). Every reply weighs the same;
    with `heaviest`, weights count up to that number. A reply's other metrics are dropped, for nothing bounds what they say. `dropped`
    names the last round's dropped replies by node. What the strategy gets does not depend on the order in which replies came. Bounds limit
    what one node does to an average, not what many do: for that, guard a robust strategy such as FedMedian or Bulyan.

    `aggregate_train` raises FederationError when fewer than `least` replies hold. Raises ConfigError for numbers out of range.
    """

    def __init__(
        self, strategy: Strategy, *, bound: float = math.inf, level: bool = False, least: int = 1, heaviest: float | None = None
    ) -> None:
        need(bound > 0, "bound", bound, "give a norm over 0")
        need(least >= 1, "least", least, "give 1 or more")
        need(heaviest is None or 0 < heaviest < math.inf, "heaviest", heaviest, "give a finite weight over 0, or None for equal weights")
        self.strategy = strategy
        self.weighted_by = _weighted_by(strategy)
        self.bound, self.level, self.least, self.heaviest = bound, level, least, heaviest
        self.dropped: Mapping[int, Flaw] = {}
        self._sent: dict[str, NDArray[np.floating]] = {}
        self._asked: list[Message] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """As the strategy; the arrays that it sends are what replies are measured by."""
        self._sent = {name: array.numpy() for name, array in arrays.items()}
        self._asked = list(self.strategy.configure_train(server_round, arrays, config, grid))
        return self._asked

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's aggregate of the replies that hold."""
        nodes = {message.metadata.message_id: message.metadata.dst_node_id for message in self._asked}
        good: dict[int, Message] = {}
        dropped: dict[int, Flaw] = {}
        came = list(replies)
        for reply in sorted(came, key=lambda reply: reply.metadata.src_node_id):
            node = reply.metadata.src_node_id
            if nodes.get(reply.metadata.reply_to_message_id) != node:
                dropped.setdefault(node, Flaw.STALE)
            elif node in good or dropped.get(node, Flaw.STALE) is not Flaw.STALE:
                dropped.setdefault(node, Flaw.REPEATED)  # the first reply stands
            elif isinstance(checked := self._check(reply), Flaw):
                dropped[node] = checked
            else:
                reply.content = checked
                good[node] = reply
        self.dropped = dropped
        if len(good) < self.least:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(Counter(dropped.values()).items())) or "none came"
            raise FederationError(f"round {server_round}: {len(good)} replies hold ({codes}), and {self.least} must")
        if self.level:
            self._shorten([next(iter(reply.content.array_records.values())) for reply in good.values()])
        return self.strategy.aggregate_train(server_round, list(good.values()))

    def _check(self, reply: Message) -> RecordDict | Flaw:
        """What the strategy gets of a reply, or its flaw."""
        if reply.has_error():
            return Flaw.ERROR
        arrays, metrics = list(reply.content.array_records.items()), list(reply.content.metric_records.items())
        if len(arrays) != 1 or len(metrics) != 1:
            return Flaw.RECORDS
        (key, record), (named, told) = arrays[0], metrics[0]
        if set(record) != set(self._sent):
            return Flaw.NAMES
        try:
            values = {name: read_array(record[name], sent.shape, sent.dtype) for name, sent in self._sent.items()}
        except WireError:
            return Flaw.ARRAY
        if not all(np.isfinite(value).all() for value in values.values()):
            return Flaw.NOT_FINITE
        if self.bound < math.inf and self._moved(values) > self.bound:
            return Flaw.NORM
        weight = self._weigh(told)
        if weight is None:
            return Flaw.WEIGHT
        ordered = ArrayRecord({name: record[name] for name in self._sent})  # Bulyan goes by position, not by name
        return RecordDict({key: ordered, named: MetricRecord({self.weighted_by: weight})})

    def _weigh(self, told: MetricRecord) -> float | None:
        """What a reply weighs, or None when it does not say."""
        if self.heaviest is None:
            return 1.0
        weight = told.get(self.weighted_by)
        return min(float(weight), self.heaviest) if isinstance(weight, int | float) and 0 < weight < math.inf else None

    def _moved(self, values: Mapping[str, NDArray[np.floating]]) -> float:
        """The joint L2 norm of what a reply changed; infinite where 64-bit floats do not hold it."""
        with np.errstate(over="ignore"):
            return math.sqrt(sum(float(np.square(value.astype(np.float64) - self._sent[name]).sum()) for name, value in values.items()))

    def _shorten(self, records: list[ArrayRecord]) -> None:
        """Draw what moved further than the median back to its distance; of two in the middle the nearer counts."""
        moved = [self._moved({name: array.numpy() for name, array in record.items()}) for record in records]
        middle = median_low(moved)
        for record, far in zip(records, moved, strict=True):
            if far > middle:
                for name, sent in self._sent.items():
                    step = record[name].numpy().astype(np.float64) - sent
                    record[name] = Array((sent + step * (middle / far)).astype(sent.dtype))

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """As the strategy."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the strategy; evaluations make no base and are not guarded."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """As the strategy."""
        self.strategy.summary()


def read_array(array: Array, shape: tuple[int, ...], kind: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Flower's array as numpy's, read-only; raises WireError unless shape, type and every byte of the header are those of such an array.

    No header is parsed: the bytes must begin with the very header that numpy writes for this shape and type.
    """
    header = _header(shape, kind)
    if (array.dtype, tuple(array.shape), array.stype) != (kind.name, shape, "numpy.ndarray"):
        raise WireError(f"is not {kind.name} of shape {shape}")
    if array.data[: len(header)] != header or len(array.data) != len(header) + math.prod(shape) * kind.itemsize:
        raise WireError("has bytes that are not an array of its type and shape")
    return np.frombuffer(array.data, kind, offset=len(header)).reshape(shape)


@functools.cache
def _header(shape: tuple[int, ...], kind: np.dtype[np.floating]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind.str, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _weighted_by(strategy: object) -> str:
    """The name of the weight in a reply's metrics, also where the strategy is one that stands around another."""
    while not isinstance(key := getattr(strategy, "weighted_by_key", None), str):
        strategy = getattr(strategy, "strategy", None)
        if strategy is None:
            return "num-examples"  # Flower's own
    return key
