"""Who can be asked in which round: clients that are unseen in training, that arrive late, or that fail now and then.

A function of `[server]`, the number of clients, the run's seed and the round, and of nothing that happened: a run that is resumed, and any
engine, finds the same. No photo is needed to know it, so a server can.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from fedstyle.config import Server
from fedstyle.tables import need

Fate = Literal["lost", "late"]
"""How a flaky client fails: it is gone before it trains, or it trains and its update comes after the round."""


class Role(StrEnum):
    """What part a client has in the rounds. All make a filter of their own at the end, and are judged."""

    SEEN = "seen"
    """Can be asked in every round."""
    FLAKY = "flaky"
    """The same, but when it is asked it fails with the chance `server.flaky_rate`."""
    LATE = "late"
    """Can be asked from round `server.late_round` on."""
    UNSEEN = "unseen"
    """Is never asked: it tells what the base is worth to someone who had no part in it."""


@dataclass(frozen=True)
class Roster:
    """The partitions that are not simply there in every round; the default is that all are."""

    unseen: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()
    flaky: frozenset[int] = frozenset()
    late_round: int = 1
    flaky_rate: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, server: Server, clients: int, seed: int) -> Self:
        """The roster of a run; which clients have which role is drawn from the seed.

        More clients of one role leave those that had it with it, and more clients in all shift some. Raises ConfigError when nobody is
        left for the first round, or when the roles are more than the clients.
        """
        for key, count in (("unseen", server.unseen), ("late", server.unseen + server.late)):
            need(count < clients, f"server.{key}", getattr(server, key), f"none of the {clients} clients is left for round 1")
        need(
            server.unseen + server.late + server.flaky <= clients,
            "server.flaky",
            server.flaky,
            f"of the {clients} clients, {server.unseen + server.late} are unseen or late; lower one of these",
        )
        order = sorted(range(clients), key=lambda partition: _draw(seed, "role", partition)) if _odd(server) else []
        ends = (server.unseen, server.unseen + server.late, server.unseen + server.late + server.flaky)
        unseen, late, flaky = (frozenset(order[start:end]) for start, end in zip((0, *ends), ends, strict=False))
        return cls(unseen, late, flaky, server.late_round, server.flaky_rate, seed)

    def role(self, partition: int) -> Role:
        """The client's role."""
        sets = {Role.UNSEEN: self.unseen, Role.LATE: self.late, Role.FLAKY: self.flaky}
        return next((role for role, members in sets.items() if partition in members), Role.SEEN)

    def there(self, partition: int, number: int) -> bool:
        """Whether the client can be asked in round `number`, counted from 1."""
        return partition not in self.unseen and (partition not in self.late or number >= self.late_round)

    def fate(self, partition: int, number: int) -> Fate | None:
        """How the client fails when it is asked in this round, or None; half of the failures are of either kind."""
        if partition not in self.flaky:
            return None
        luck = int.from_bytes(_draw(self.seed, "fate", number, partition)[:8], "big") / 2**64
        return None if luck >= self.flaky_rate else "lost" if luck < self.flaky_rate / 2 else "late"


def _odd(server: Server) -> bool:
    return bool(server.unseen or server.late or server.flaky)


def _draw(seed: int, *words: object) -> bytes:
    """Bytes that depend on the seed and each word; `training.derive` makes its seeds the same way, and a server cannot import that."""
    return hashlib.sha256("\0".join(map(str, (seed, *words))).encode()).digest()
