"""The server's half of a secure sum: four exchanges with a cohort, five where clients sign, and of all updates no more than their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import RecordDict

from fedstyle.errors import FederationError, WireError
from fedstyle.flower.secure import AGREEMENT, SIGNED, STEPS, SUM, Step, weight
from fedstyle.flower.wire import Failure, read_failure
from fedstyle.privacy.secagg import server
from fedstyle.privacy.secagg.server import Round, Total
from fedstyle.privacy.secagg.terms import Terms

Codes = Mapping[int, Failure]
Ask = Callable[[Mapping[int, RecordDict], float], tuple[Mapping[int, RecordDict], Codes]]
"""Sends each client its message, waits until this share of the round's time is over, and gives replies, and why the others have none."""
SHARE = 0.1
"""The share of the round's time that each step after the first has at least: most of it is for training."""


@dataclass
class Summing:
    """A round's secure sum as it goes on: who fell out by what code, and the bytes of its messages."""

    terms: Terms
    ask: Ask
    check: Callable[[int, Codes, int], None]
    """Raises FederationError unless so many clients are left, or at least the third number."""
    least: int
    """Updates that must be in the sum."""
    roster: Mapping[int, bytes] | None = None
    """Verification keys by client where messages are signed."""
    failures: dict[int, Failure] = field(default_factory=dict)
    """Why clients have no part in the sum."""
    there: tuple[int, ...] = ()
    """Who came through the last step."""
    received: int = 0
    sent: int = 0

    def total(self, order: RecordDict, pay: Callable[[Terms], None]) -> Total:
        """The sum. `pay` is called when it is known whose updates are in it, before anything of it can be read.

        Raises FederationError when fewer clients than are needed come through a step, and when a share was altered.
        """
        round = Round(self.terms, self.roster)
        first = Step("advert", self.terms.round, self.terms.encode()).write()
        opening = RecordDict({**dict(order.items()), **dict(first.items())})
        round, adverts = self._exchange("advert", dict.fromkeys(self.terms.clients, opening), round, server.collect_adverts)
        asked = dict.fromkeys(self.there, self._step("shares", adverts))
        round, deliveries = self._exchange("shares", asked, round, server.collect_shares)
        asked = {one: self._step("masked", deliveries[one]) for one in self.there}
        round, survivors = self._exchange("masked", asked, round, server.collect_masked)
        pay(self.terms)
        shown = survivors
        if self.terms.signed:
            asked = dict.fromkeys(self.there, self._step(AGREEMENT, survivors))
            round, shown = self._exchange(AGREEMENT, asked, round, server.collect_agreements)
        else:
            round = server.skip_agreements(round)
        asked = dict.fromkeys(self.there, self._step("unmasking", shown))
        total: Total = self._exchange("unmasking", asked, round, server.collect_unmaskings)
        return total

    def _step(self, name: str, body: bytes) -> RecordDict:
        return Step(name, self.terms.round, body).write()

    def _exchange(self, name: str, contents: Mapping[int, RecordDict], round: Round, collect: Callable[..., Any]) -> Any:
        """Ask for a step, and collect the replies that are one; who falls out after the masked updates is in the sum all the same."""
        steps = SIGNED if self.terms.signed else STEPS
        summed = name in (AGREEMENT, STEPS[-1])
        failures, least = ({}, self.terms.threshold) if summed else (self.failures, self.least)
        self.sent += sum(weight(content) for content in contents.values())
        replies, gone = self.ask(contents, 1 - SHARE * (len(steps) - 1 - steps.index(name)))
        failures.update(gone)
        bodies = {}
        for client, content in replies.items():
            try:
                step = Step.read(content)
                if (step.name, step.round) != (name, self.terms.round) or set(content) != {SUM}:
                    raise WireError("the reply is another step's")
                bodies[client] = step.body
            except WireError:
                failures[client] = read_failure(content) or Failure.INVALID
        self.received += sum(map(len, bodies.values()))
        self.check(len(bodies), failures, least)
        try:
            result = collect(round, bodies.items())
        except FederationError as error:
            raise FederationError(f"round {self.terms.round}: {error}") from None
        refused = {one.client for one in (result if isinstance(result, Total) else result[0]).refused if one.client in bodies}
        failures.update(dict.fromkeys(refused, Failure.INVALID))
        self.there = tuple(sorted(bodies.keys() - refused))
        self.check(len(self.there), failures, least)
        return result
