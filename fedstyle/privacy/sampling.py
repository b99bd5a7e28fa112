"""Who takes part in a round: samplers that the accounting knows, from secure randomness unless a simulation seeds it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from fedstyle.errors import FederationError
from fedstyle.tables import need

SECURE = secrets.SystemRandom()
"""The operating system's randomness; a simulation gives `random.Random(seed)` in its place, and then promises nothing."""


@dataclass(frozen=True)
class Poisson:
    """Each user takes part with the same chance, apart from all others; cohorts differ in size and may be empty."""

    population: int
    rate: float

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_population(self.population)
        need(0 < self.rate <= 1, "the sampling rate", self.rate, "give a number over 0, at most 1")

    @property
    def cohort(self) -> float:
        """The expected number of users: the fixed denominator."""
        return self.rate * self.population

    def draw(self, available: Sequence[int], rng: random.Random = SECURE) -> list[int]:
        """The users of a round. A user who is not available is simply absent: that lowers the chance and weakens no promise."""
        _check_available(available, self.population)
        return [user for user in available if rng.random() < self.rate]


@dataclass(frozen=True)
class Fixed:
    """A cohort of a fixed size, drawn without replacement: each of its kind with the same chance."""

    population: int
    cohort: int

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_population(self.population)
        need(1 <= self.cohort <= self.population, "the cohort", self.cohort, f"give 1 to {self.population}, the population")

    @property
    def rate(self) -> float:
        """The chance of a user to take part."""
        return self.cohort / self.population

    def draw(self, available: Sequence[int], rng: random.Random = SECURE) -> list[int]:
        """The users of a round, in the order of `available`.

        Raises FederationError when not all of the population is available: a fixed cohort drawn from fewer takes each with a greater chance
        than accounted. Draw first and ask afterwards: a drawn user who does not answer is left out.
        """
        _check_available(available, self.population)
        if len(available) < self.population:
            raise FederationError(
                f"{len(available)} of {self.population} users are available: a fixed cohort drawn from them would take each more often than"
                " accounted. Draw from all users, or sample by Poisson"
            )
        chosen = set(rng.sample(list(available), self.cohort))
        return [user for user in available if user in chosen]


Sampler = Poisson | Fixed


def _check_population(population: int) -> None:
    need(population >= 1, "the population", population, "give at least 1")


def _check_available(available: Sequence[int], population: int) -> None:
    if len(set(available)) != len(available):
        raise FederationError("a user is listed twice among those available, and would be drawn more often than accounted: list each once")
    if len(available) > population:
        raise FederationError(f"{len(available)} users are available of a population of {population}: account for all of them")
