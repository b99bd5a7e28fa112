"""The terms of one secure sum: who takes part, how many must stay, and how numbers are written. All messages are bound to them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from fedstyle.errors import ConfigError, FedstyleError, WireError
from fedstyle.privacy.grid import Grid
from fedstyle.tables import need


def threshold_for(clients: int, colluders: int | None = None) -> int:
    """The least threshold that stands against a server that lies and works with `colluders` of the clients: floor((n + c) / 2) + 1.

    Two sets of clients that both reach it share an honest client, who answers one list of survivors only (Bonawitz et al. 2017, section
    6.2). Without a number, just under a third of the clients may collude, which gives floor(2 n / 3) + 1 or one less, and as many
    as the rest may drop out.
    """
    assumed = (clients - 1) // 3 if colluders is None else colluders
    return max((clients + assumed) // 2 + 1, assumed + 2)


@dataclass(frozen=True)
class Terms:
    """What all parties of one secure sum agree on; made by the server, and checked by every client."""

    run: str
    """The run's name: rounds of two runs are never mistaken for each other."""
    round: int
    clients: tuple[int, ...]
    """The cohort's ids, increasing, each below 2^64 - 1; at least 3."""
    threshold: int
    """How many must stay to the end; at least `threshold_for(len(clients), colluders)`."""
    colluders: int
    """How many clients are assumed to work with the server; at least two honest updates then stand in every sum."""
    length: int
    """Numbers in an update."""
    grid: Grid
    noise: float = 0.0
    """The standard deviation, in steps, of the discrete Gaussian noise that each client adds; 0 is none."""
    signed: bool = False
    """Whether messages carry signatures, which the promise against a server that lies needs."""

    def __post_init__(self) -> None:
        """Check ranges; raises ConfigError."""
        count = len(self.clients)
        need(0 < len(self.run) <= 200, "secagg run", self.run, "give a name of 1 to 200 characters")
        need(0 <= self.round < 1 << 32, "secagg round", self.round, "give 0 or more")
        need(3 <= count <= 1 << 16, "secagg clients", count, "give at least 3: a sum of two tells each the other's update")
        increasing = all(a < b for a, b in pairwise(self.clients))
        need(
            increasing and self.clients[0] >= 0 and self.clients[-1] < (1 << 64) - 1, "secagg clients", count, "give distinct ids in order"
        )
        need(0 <= self.colluders < count, "secagg colluders", self.colluders, "give 0 or more, fewer than the clients")
        least = threshold_for(count, self.colluders)
        need(least <= self.threshold <= count, "secagg threshold", self.threshold, f"give {least} to {count} for {count} clients")
        need(1 <= self.length < 1 << 28, "secagg length", self.length, "give the update's size")
        need(math.isfinite(self.noise) and self.noise >= 0, "secagg noise", self.noise, "give 0 or more steps")
        self.grid.bits(count, self.noise)

    @classmethod
    def propose(
        cls, run: str, round: int, clients: Iterable[int], length: int, grid: Grid, *, colluders: int | None = None, **rest: Any
    ) -> Terms:
        """Terms with the least threshold for these clients; without a number, just under a third may collude."""
        ids = tuple(sorted(clients))
        assumed = max(0, (len(ids) - 1) // 3) if colluders is None else colluders
        return cls(run, round, ids, threshold_for(len(ids), assumed), assumed, length, grid, **rest)

    @property
    def bits(self) -> int:
        """The width of the numbers that are summed: 32 or 64 bits, by what the sum of all clients can reach."""
        return self.grid.bits(len(self.clients), self.noise)

    @cached_property
    def points(self) -> dict[int, int]:
        """Where each client's shares are taken, from 1 on."""
        return {client: place for place, client in enumerate(self.clients, 1)}

    def encode(self) -> bytes:
        """The terms as JSON, always the same bytes for the same terms."""
        return json.dumps({"secagg": 1, **dataclasses.asdict(self)}, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the encoded terms, that every key, share, message and signature is bound to."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, content: bytes) -> Terms:
        """Read encoded terms, strictly; raises WireError for anything that `encode` does not write."""
        try:
            table = json.loads(content)
            version, grid = table.pop("secagg"), Grid(**table.pop("grid"))
            made = cls(**{**table, "grid": grid, "clients": tuple(table["clients"])})
            whole = (version, made.round, *made.clients, made.threshold, made.colluders, made.length, grid.levels)
            typed = all(type(number) is int for number in whole) and type(made.run) is str and type(made.signed) is bool
            same = typed and version == 1 and made.encode() == content
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, ConfigError) as error:
            detail = f": {error}" if isinstance(error, FedstyleError) else ""
            raise WireError(f"the server sent no terms of a secure sum{detail}") from None
        if not same:
            raise WireError("the terms are not written as they should be: another version of fedstyle may have sent them")
        return made
