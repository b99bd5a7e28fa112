"""What was spent and what may be: a ledger that is charged before a release and never goes down, and a budget that stops a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedstyle.errors import ConfigError, FederationError
from fedstyle.privacy.accounting import Accountant, Mechanism, relation, total_epsilon
from fedstyle.privacy.sampling import Fixed, Poisson, Sampler
from fedstyle.tables import need

VERSION = 1
BESIDE = ("metrics, logs, timing, and who took part", "the personal parameters, which never leave, and filters that users share")
"""What neither noise nor secure sums cover."""


@dataclass(frozen=True)
class Ledger:
    """The rounds that were charged, by mechanism, in the order of their first charge.

    Charge first, store the charged ledger with its checkpoint, and release then: a crash in between has paid for nothing, which is the
    safe way round, and the round that is then run again is charged again, for its noise is drawn anew.
    """

    charges: tuple[tuple[Mechanism, int], ...] = ()

    def __post_init__(self) -> None:
        """Check that rounds count and samplers are of one kind; raises ConfigError."""
        for _, rounds in self.charges:
            need(rounds >= 1, "a ledger's rounds", rounds, "each entry has at least 1")
        need(
            len({mechanism for mechanism, _ in self.charges}) == len(self.charges),
            "a ledger's entries",
            len(self.charges),
            "list each once",
        )
        if len({relation(mechanism.sampler) for mechanism, _ in self.charges}) > 1:
            raise ConfigError("rounds sampled by Poisson and rounds of a fixed cohort have no common promise: keep to one sampler")

    @property
    def rounds(self) -> int:
        """All rounds charged."""
        return sum(rounds for _, rounds in self.charges)

    def charge(self, mechanism: Mechanism, rounds: int = 1) -> Ledger:
        """The ledger with so many rounds more; raises ConfigError for fewer than one."""
        need(rounds >= 1, "the rounds to charge", rounds, "give at least 1")
        table = dict(self.charges)
        table[mechanism] = table.get(mechanism, 0) + rounds
        return Ledger(tuple(table.items()))

    def epsilon(self, delta: float, *, accountant: Accountant = "rdp") -> float:
        """Epsilon at delta of all that was charged."""
        return total_epsilon(self.charges, delta, accountant=accountant)

    def covers(self, older: Ledger) -> bool:
        """Whether all that an older ledger was charged stands in this one; where it does not, a ledger went down."""
        table = dict(self.charges)
        return all(table.get(mechanism, 0) >= rounds for mechanism, rounds in older.charges)

    def to_json(self) -> dict[str, Any]:
        """The ledger as a table for JSON, numbers as they are."""
        return {"version": VERSION, "charges": [{**_describe(mechanism), "rounds": rounds} for mechanism, rounds in self.charges]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Ledger:
        """Read what `to_json` gave; raises FederationError for anything else, for an unreadable ledger must stop a run."""
        try:
            made = cls(tuple(_read(entry) for entry in table["charges"]))
            good = made.to_json() == dict(table)
        except (KeyError, TypeError, AttributeError, ValueError, ConfigError):
            good = False
        if not good:
            raise FederationError(
                "the privacy ledger is damaged, or of another version: restore it from a checkpoint; do not start a new one"
            )
        return made


def _describe(mechanism: Mechanism) -> dict[str, Any]:
    sampler = mechanism.sampler
    how = {"sampler": "fixed", "cohort": sampler.cohort} if isinstance(sampler, Fixed) else {"sampler": "poisson", "rate": sampler.rate}
    return {"noise": mechanism.noise, "population": sampler.population, **how}


def _read(entry: Mapping[str, Any]) -> tuple[Mechanism, int]:
    whole = [entry["population"], entry["rounds"], *([entry["cohort"]] if "cohort" in entry else [])]
    if any(type(number) is not int for number in whole):
        raise TypeError
    fixed = entry["sampler"] == "fixed"
    sampler: Sampler = Fixed(entry["population"], entry["cohort"]) if fixed else Poisson(entry["population"], entry["rate"])
    return Mechanism(entry["noise"], sampler), entry["rounds"]


@dataclass(frozen=True)
class Budget:
    """What may be spent in all: epsilon at delta."""

    epsilon: float
    delta: float
    accountant: Accountant = "rdp"

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.epsilon > 0, "the privacy budget", self.epsilon, "give an epsilon over 0")
        need(0 < self.delta < 1, "delta", self.delta, "give a number between 0 and 1")

    def allows(self, ledger: Ledger, mechanism: Mechanism, rounds: int = 1) -> bool:
        """Whether so many rounds more keep within the budget: asked before a round, so that none is released that does not."""
        return ledger.charge(mechanism, rounds).epsilon(self.delta, accountant=self.accountant) <= self.epsilon

    def check(self, ledger: Ledger, mechanism: Mechanism) -> None:
        """Raise FederationError unless one round more keeps within the budget."""
        if not self.allows(ledger, mechanism):
            spent = ledger.epsilon(self.delta, accountant=self.accountant)
            raise FederationError(
                f"the privacy budget is spent: after {ledger.rounds} rounds epsilon is {spent:.3g} of {self.epsilon:g} at delta"
                f" {self.delta:g}, and one more round would pass it. Stop here, or start with more noise"
            )


def statement(ledger: Ledger, delta: float, *, accountant: Accountant = "rdp") -> dict[str, Any]:
    """What a report must say beside an epsilon: unit, neighbours, samplers, accountant, both numbers, and what is not covered."""
    kinds = {relation(mechanism.sampler) for mechanism, _ in ledger.charges}
    return {
        "unit": "one user, with all their photos",
        "neighbours": kinds.pop() if kinds else "nothing was released",
        "mechanism": "the sum of updates clipped to one norm each, with Gaussian noise added once, over a fixed denominator",
        "samplers": [{**_describe(mechanism), "rounds": rounds} for mechanism, rounds in ledger.charges],
        "accountant": accountant,
        "epsilon": ledger.epsilon(delta, accountant=accountant),
        "delta": delta,
        "not covered": [
            "what the server, or any other party that sees updates before noise is added, learns",
            *BESIDE,
            "choosing settings by looking at runs on the same users",
        ],
    }
