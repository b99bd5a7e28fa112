"""The grid that stands between a stock strategy and Flower's: it shows the strategy one seeded, complete, ordered cohort a round.

Strategies are not subclassed. All that fedstyle adds on the server happens in what they send and receive through their grid.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.errors import FederationError, WireError
from fedstyle.flower.held import hold
from fedstyle.flower.secure import LEAST
from fedstyle.flower.wire import HELLO, Contract, Failure, Order, read_failure, sizes
from fedstyle.privacy.clipping import length, level
from fedstyle.privacy.noise import unflatten
from fedstyle.privacy.secagg.terms import Terms
from fedstyle.roster import Roster

PATIENCE = 180.0
"""Seconds to wait for the next client to join when a run starts; Ray alone takes 20 for the first on an idle machine."""


@dataclass(frozen=True)
class Traffic:
    """What a round sent and received: who was sampled, who replied, why others did not, and bytes of arrays both ways."""

    number: int
    cohort: tuple[int, ...]
    replied: tuple[int, ...]
    failures: Mapping[int, str]
    bytes_up: int
    bytes_down: int


def sample(there: Iterable[int], size: int, seed: int, number: int) -> tuple[int, ...]:
    """The partitions of a round's cohort, sorted, at most `size` of those that are `there`.

    A function of these, the seed and the round alone, the same on every engine and Python.
    """
    order = sorted(there, key=lambda partition: hashlib.sha256(f"{seed}\0{number}\0{partition}".encode()).digest())
    return tuple(sorted(order[:size]))


def shared_arrays(arrays: ArrayRecord) -> dict[str, Tensor]:
    """A strategy's arrays as fp32 tensors; some stock strategies reckon in fp64."""
    with np.errstate(over="ignore"):  # what became infinite is found where the base is checked
        return {name: torch.from_numpy(array.numpy().astype(np.float32)) for name, array in arrays.items()}


@dataclass
class Cohort(Grid):
    """A strategy's view of `grid`: the nodes of the round's cohort, and replies in which base + delta stands under the shared names.

    `base` gives the values of the parameters that are not shared. `done` rounds went before. `stop` ends the waiting from another thread;
    `pause` is the time between two looks for replies. An update whose joint L2 norm is over `bound` is dropped; with `level`, longer ones
    are shortened to the round's median. `choose` gives a round's clients of those that are there, and `release` makes of their deltas what
    the strategy gets: one a client, or a single one for all. Where the contract asks for secure sums, the strategy gets their mean: the
    sum over `denominator`, or over the clients in it. `pay` is called before such a sum can be read. A round that draws fewer than three
    asks nobody then, and moves nothing. Raises FederationError when too few clients join or reply.

    By `roster` some clients are not asked in some rounds, and some fail: one that is lost gets no message, and of one that is late the
    reply is waited for, so that the simulation stays exact, and dropped. Strategy, traffic and `min_replies` see what they see when a
    device is really gone or late; only no time passes until the deadline.
    """

    grid: Grid
    contract: Contract
    base: Base
    clients: int
    size: int
    seed: int
    min_replies: float
    timeout: float
    done: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    pause: float = 0.05
    roster: Roster = field(default_factory=Roster)
    bound: float = math.inf
    level: bool = False
    choose: Callable[[Sequence[int], int], tuple[int, ...]] | None = None
    release: Callable[[Mapping[int, params.Params], params.Params], Iterable[params.Params]] = lambda deltas, _: deltas.values()
    pay: Callable[[Terms], None] = lambda _: None
    denominator: float = 0.0
    run_name: str = field(default_factory=lambda: secrets.token_hex(16))
    """A name for secure sums: a run that is taken up again has another, so that devices answer the round that was cut off."""
    traffic: Traffic | None = None
    nodes: dict[int, int] = field(default_factory=dict)
    """The node that holds each partition."""

    def gather(self) -> None:
        """Wait until every partition's node is there and has said so: sampling before that would see a part of them.

        PATIENCE begins anew with each client that joins. A node that does not answer holds up neither the others nor its end.
        """
        asked: set[int] = set()
        waiting: dict[str, int] = {}
        patience = min(PATIENCE, self.timeout)
        late = time.monotonic() + patience
        while len(self.nodes) < self.clients:
            before, new = len(self.nodes), sorted(set(self.grid.get_node_ids()) - asked)
            asked.update(new)
            waiting |= self._push({node: Message(RecordDict(), node, MessageType.QUERY) for node in new})
            replies = self._pull(waiting)
            for node, reply in sorted(replies.items()):
                self._enter(node, reply)
            if len(self.nodes) > before:
                late = time.monotonic() + patience
            elif time.monotonic() > late:
                raise FederationError(
                    f"only {len(self.nodes)} of {self.clients} clients are there, of {len(asked)} nodes: start as many nodes as the "
                    f"configuration has clients (flwr run: --federation-config num-supernodes={self.clients})"
                )
            if self.stop.wait(0.0 if new or replies else 0.05):
                raise FederationError("the run was stopped")

    def _enter(self, node: int, reply: Message) -> None:
        if reply.has_error() or HELLO not in reply.content.config_records:
            return
        partition = reply.content.config_records[HELLO].get("partition")
        if type(partition) is not int or not 0 <= partition < self.clients:
            return  # a node more than the configuration has clients takes no part
        if partition in self.nodes:
            raise FederationError(f"two nodes say that they hold partition {partition}: give every node its own partition-id")
        self.nodes[partition] = node

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of the next round's cohort, by partition; where a strategy gets one delta for all, a node that stands for them."""
        if self.choose or self.contract.secure:
            return [self.nodes[0]]
        return [self.nodes[partition] for partition in self._draw(self.done + 1)]

    def _draw(self, number: int) -> tuple[int, ...]:
        there = [partition for partition in range(self.clients) if self.roster.there(partition, number)]
        return self.choose(there, number) if self.choose else sample(there, self.size, self.seed, number)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """Do a round: ask the cohort, check every reply, and give the strategy those that hold, by partition.

        `self.timeout` rules, whatever the strategy asks.
        """
        orders = list(messages)
        if not orders:  # the evaluation that is switched off
            return []
        self.done += 1
        before = shared_arrays(orders[0].content.array_records["arrays"])
        order = self._order(before, orders[0].content.config_records["config"])
        self.traffic, deltas = (self._sum if self.contract.secure else self._collect)(order, before)
        return [self._reply(orders[0], params.add(before, delta)) for delta in self.release(deltas, before)]

    def _collect(self, order: Order, _: params.Params) -> tuple[Traffic, dict[int, dict[str, Tensor]]]:
        """The round's deltas."""
        content, drawn = self.contract.write_order(order), self._draw(self.done)
        replies, failures = self._ask(dict.fromkeys(drawn, content), self.timeout, self._fates(drawn))
        deltas: dict[int, dict[str, Tensor]] = {}
        for partition, reply in replies.items():
            try:
                delta = self.contract.read_delta(reply)
                if self.bound < math.inf and length(delta) > self.bound:
                    failures[partition] = Failure.LARGE
                else:
                    deltas[partition] = delta
            except WireError:
                failures[partition] = read_failure(reply) or Failure.INVALID
        self._need(len(deltas), len(drawn), failures, self._least(len(drawn)))
        received, sent = sum(sum(sizes(reply).values()) for reply in replies.values()), len(drawn) * sum(sizes(content).values())
        return self._traffic(drawn, deltas, failures, received, sent), level(deltas) if self.level else deltas

    def _sum(self, order: Order, before: params.Params) -> tuple[Traffic, dict[int, dict[str, Tensor]]]:
        """The mean of the round's deltas, by a secure sum, as if it were one client's."""
        from fedstyle.flower.summing import Summing  # it needs the cryptography package

        drawn, plan = self._draw(self.done), self.contract.secure
        assert plan is not None  # the caller looked
        if len(drawn) < LEAST:
            return self._traffic((), (), {}, 0, 0), {0: {name: torch.zeros_like(value) for name, value in before.items()}}
        terms = plan.terms(self.run_name, self.done, drawn, self.contract.length)
        fates, start = self._fates(drawn), time.monotonic()

        def ask(contents: Mapping[int, RecordDict], until: float) -> tuple[dict[int, RecordDict], dict[int, Failure]]:
            return self._ask(contents, start + until * self.timeout - time.monotonic(), fates)

        least = max(self._least(len(drawn)), terms.threshold)
        roster = plan.register.by_number if plan.register else None
        summing = Summing(terms, ask, lambda left, codes, least: self._need(left, len(drawn), codes, least), least, roster)
        total = summing.total(self.contract.write_order(order), self.pay)
        mean = unflatten(total.values / (self.denominator or len(total.clients)), before)
        return self._traffic(drawn, total.clients, summing.failures, summing.received, summing.sent), {0: mean}

    def _fates(self, drawn: Iterable[int]) -> dict[int, Failure]:
        return {partition: Failure(fate) for partition in drawn if (fate := self.roster.fate(partition, self.done))}

    def _ask(
        self, contents: Mapping[int, RecordDict], seconds: float, fates: Mapping[int, Failure]
    ) -> tuple[dict[int, RecordDict], dict[int, Failure]]:
        """Send each its message; gives the replies by partition, in order, and why the others have none."""
        messages = {one: Message(content, self.nodes[one], MessageType.TRAIN) for one, content in contents.items()}
        replies, late = self._exchange({one: message for one, message in messages.items() if fates.get(one) is not Failure.LOST}, seconds)
        failures = {one: fates.get(one, Failure.LATE if one in late else Failure.LOST) for one in contents}
        # an error is Flower's own: a dead process or node; its text is not looked at
        good = {one: reply.content for one, reply in sorted(replies.items()) if one not in fates and not reply.has_error()}
        return good, {one: code for one, code in failures.items() if one not in good}

    def _traffic(self, drawn: Iterable[int], replied: Iterable[int], failures: Mapping[int, Failure], received: int, sent: int) -> Traffic:
        codes = {partition: failures[partition].value for partition in sorted(failures)}
        return Traffic(self.done, tuple(drawn), tuple(replied), codes, received, sent)

    def _order(self, shared: Mapping[str, Tensor], config: Mapping[str, Any]) -> Order:
        private = {name: value for name, value in self.base.weights.items() if name not in shared}
        base = Base(self.base.arch, self.base.padding, params.merge(private, shared))
        return Order(base, self.done, float(config.get("proximal-mu", 0.0)))

    def _reply(self, order: Message, shared: params.Params) -> Message:
        """A reply as a stock strategy wants it: base + delta, and the same weight for every client."""
        content = RecordDict({"arrays": hold(shared), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=order)

    def _least(self, asked: int) -> int:
        return max(0 if self.choose else 1, math.ceil(self.min_replies * asked - 1e-9))  # a draw may be of nobody

    def _need(self, replied: int, asked: int, failures: Mapping[int, Failure], least: int) -> None:
        """Raise FederationError when fewer clients than `least` are left, with the codes of the others."""
        if replied >= least:
            return
        codes = ", ".join(f"{code} {count}" for code, count in sorted(Counter(code.value for code in failures.values()).items()))
        advice = "or lower server.min_replies" if least <= self._least(asked) else "for a secure sum needs so many"
        raise FederationError(
            f"round {self.done}: only {replied} of {asked} clients replied ({codes}), and {least} must: "
            f"see errors.log in those clients' folders, {advice}"
        )

    def _exchange(self, messages: Mapping[int, Message], seconds: float) -> tuple[dict[int, Message], set[int]]:
        """Send messages and wait for their replies; gives the replies by the messages' keys, and the keys that were not answered in time.

        A message that the grid does not take is in neither.
        """
        waiting = self._push(messages)
        replies: dict[int, Message] = {}
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            found = self._pull(waiting)
            replies |= found
            if waiting and not found and self.stop.wait(self.pause):
                raise FederationError("the run was stopped")
        return replies, set(waiting.values())

    def _push(self, messages: Mapping[int, Message]) -> dict[str, int]:
        """Send messages; gives the keys of those that the grid takes, by the ids that it gave them."""
        taken = set(self.grid.push_messages(list(messages.values()))) if messages else set()
        return {message.metadata.message_id: key for key, message in messages.items() if message.metadata.message_id in taken}

    def _pull(self, waiting: dict[str, int]) -> dict[int, Message]:
        """The replies that are there by now, by key; they leave `waiting`."""
        found = list(self.grid.pull_messages(list(waiting))) if waiting else []
        keys = [(waiting.pop(reply.metadata.reply_to_message_id, None), reply) for reply in found]
        return {key: reply for key, reply in keys if key is not None}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not for strategies: a message that goes round `send_and_receive` would go round its checks."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not for strategies, see `push_messages`."""
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Not for strategies, see `push_messages`."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """As the grid below."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the grid below."""
        return self.grid.run
