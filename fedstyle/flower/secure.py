"""What both sides of a secure sum go by: the plan that makes a round's terms, and the records in which its steps cross.

A round is four exchanges of `privacy.secagg`; the device's half is `masking`, the server's `summing`:

    down: the order, and the terms     up: advert       the device trains, then draws its keys
    down: everybody's adverts          up: shares       of its secrets, sealed to each of the others
    down: the shares sealed for it     up: masked       the update, under masks that cancel in the sum
    down: who sent one                 up: unmasking    one share of each client, and the server has the sum

Training comes first, for it is what takes long and fails. A client that fails there has no masks with anyone, so that nothing of it is to
be recovered; and keys, deadline and threshold are not at risk for as long as others train. It costs no exchange: wherever training
stands, there are four.

In a simulation messages carry no signatures, for its nodes have no keys of their own, and the promise is that against a server which keeps
the protocol and is curious: see `privacy.secagg`. Devices over the network sign all that they send, with keys that the authority vouches
for (`vouching`), which also holds against a server that lies; that takes a fifth exchange, before the last:

    down: who sent one                 up: agreement    its signature under that list
    down: everybody's agreements       up: unmasking

A simulation's run that was killed in a round asks for that round again, under another name. If it had come to a sum before, there are two
of that round, and where others fell out, what they differ by is those clients' own: only noise covers that, and is charged for both.
Devices over the network take part in a round once, whatever became of it, so that a server cannot ask for the same updates in two sums;
a run that goes on begins with the next round.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from flwr.app import ConfigRecord, RecordDict

from fedstyle.config import Config, Privacy
from fedstyle.errors import ConfigError, WireError
from fedstyle.flower.private import Promise
from fedstyle.flower.wire import CodedError, Failure, sizes
from fedstyle.privacy.accounting import STRATEGIES, target_noise
from fedstyle.privacy.grid import Grid
from fedstyle.privacy.sampling import Fixed, Poisson
from fedstyle.privacy.secagg.terms import Terms
from fedstyle.privacy.shares import private_terms
from fedstyle.tables import need

if TYPE_CHECKING:
    from fedstyle.flower.vouching import Register
    from fedstyle.privacy.secagg.keys import Identity

SUM = "sum"
"""The record of a step."""
STEPS = ("advert", "shares", "masked", "unmasking")
"""What a client sends, in this order; a step is named by it."""
AGREEMENT = "agreement"
SIGNED = (*STEPS[:3], AGREEMENT, *STEPS[3:])
"""The same where messages are signed."""
LEAST = 3
"""Clients of a sum, at least: of two, each could take its own update off."""
AVERAGES = (*STRATEGIES, "FedProx")
"""Strategies that need no more of a round than the mean."""


@dataclass(frozen=True)
class Plan:
    """What the secure sums of a run are; each side has it from its own configuration, and takes no terms but those that it makes."""

    clip: float
    """The joint L2 norm of an update, at most."""
    noise: float = 0.0
    """The noise multiplier of a sum, added by the clients in shares; 0 is none."""
    seed: int | None = None
    """Draws the noise in a simulation that repeats, and never a mask; None draws it from the operating system."""
    register: Register | None = None
    """The devices whose signatures count; None signs nothing."""
    secret: bytes = field(default=b"", repr=False)
    """On a device that signs, the secret that it signs with."""

    @classmethod
    def of(cls, config: Config, clients: int, promise: Promise | None) -> Self | None:
        """The plan of `[privacy]`, or None when sums are not to be secure; `clients` are asked in the first round.

        Raises ConfigError for what cannot be summed securely, and FedstyleError when `cryptography` is not installed.
        """
        wishes, server = config.privacy, config.server
        if not wishes.secure:
            return None
        from fedstyle.privacy.secagg import keys  # noqa: F401  it says which package is missing

        if server.strategy not in AVERAGES:
            raise ConfigError(
                f"server.strategy = {server.strategy!r} looks at single updates, which a secure sum hides: set privacy.secure = false, or "
                f"use {', '.join(AVERAGES)}"
            )
        need(not server.bound, "server.bound", server.bound, "a secure sum hides single updates: leave it out")
        need(clients >= LEAST, "server.cohort", clients, f"a secure sum is of {LEAST} clients a round or more")
        return cls(wishes.clip, promise.mechanism.noise if promise else 0.0, promise.seed if promise else None)

    def terms(self, run: str, round: int, clients: Iterable[int], length: int) -> Terms:
        """The terms of a round's sum of updates of `length` numbers.

        Where devices sign, the run has the federation's name and the register's hash in place of `run`: all are bound to the same register.
        """
        signed = self.register is not None
        name = f"{self.register.federation} {self.register.sha256}" if self.register else run
        if self.noise:
            return private_terms(name, round, clients, length, clip=self.clip, noise=self.noise, signed=signed)
        return Terms.propose(name, round, clients, length, Grid(self.clip), signed=signed)

    @property
    def identity(self) -> Identity | None:
        """What a device signs with, and whom it believes; None where nothing is signed."""
        from fedstyle.privacy.secagg.keys import Identity  # it needs the cryptography package

        return Identity(self.secret, self.register.by_number) if self.register else None

    def number(self) -> int:
        """This device's number in the register; raises CodedError when it is not on it."""
        identity = self.identity
        found = [number for number, key in identity.roster.items() if key == identity.public] if identity else []
        if not found:
            raise CodedError(Failure.IDENTITY, "this device is not on the register that the authority signed: ask the operator to enrol it")
        return found[0]


@dataclass(frozen=True)
class Step:
    """A message of a secure sum, either way: what it is about, its round, and the bytes of `privacy.secagg`."""

    name: str
    round: int
    body: bytes

    def write(self) -> RecordDict:
        """The message's content."""
        return RecordDict({SUM: ConfigRecord({"step": self.name, "round": self.round, "body": self.body})})

    @classmethod
    def read(cls, content: RecordDict) -> Self:
        """The step in a message's content; raises WireError where there is none."""
        facts = content.config_records.get(SUM, ConfigRecord())
        name, round, body = facts.get("step"), facts.get("round"), facts.get("body")
        if name not in SIGNED or type(round) is not int or round < 1 or not isinstance(body, bytes) or len(facts) != 3:
            raise WireError("the message is no step of a secure sum: this device sends its update in no other way")
        return cls(str(name), round, body)


def device_noise(wishes: Privacy, rounds: int) -> float:
    """The noise multiplier of a sum as a device reckons it that takes part in so many rounds at most, in each of them once.

    It is the server's, if that one does as many rounds: secure sums are accounted without sampling, and so whatever the population.
    """
    if not wishes.target_epsilon:
        return wishes.noise
    sampler = Fixed(LEAST, LEAST) if wishes.sampler == "fixed" else Poisson(LEAST, 1.0)
    return target_noise(wishes.target_epsilon, sampler, rounds, wishes.delta)


def check_network(wishes: Privacy) -> None:
    """Raise ConfigError for wishes that both sides of a network cannot have of secure sums: each makes the terms from its own TOML."""
    if wishes.secure:
        known = wishes.delta > 0 or not wishes.target_epsilon
        need(known, "privacy.delta", wishes.delta, "devices do not know how many they are: give a delta, or privacy.noise")
        need(not wishes.reproducible, "privacy.reproducible", True, "devices draw their noise in secret: that is for simulations")


def weight(content: RecordDict) -> int:
    """The bytes of a message: of its arrays, and of a step."""
    body = content.config_records.get(SUM, ConfigRecord()).get("body")
    return sum(sizes(content).values()) + (len(body) if isinstance(body, bytes) else 0)
