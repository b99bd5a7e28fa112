"""The private aggregate of a round, which a stock strategy gets in place of the clients' replies, and the accounting for it.

Strategies that average do the same with one reply as with many that are equal to it, so that the strategy sees one client: the cohort.
In a round the order is: draw who takes part, collect, charge the ledger, keep it on disk, and only then add the noise and release.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from fedstyle.config import Config
from fedstyle.errors import ConfigError
from fedstyle.params import Params
from fedstyle.privacy.accounting import Mechanism, check_strategy, delta_for, target_noise
from fedstyle.privacy.gaussian import Draw, seeded
from fedstyle.privacy.ledger import Budget, Ledger, statement
from fedstyle.privacy.noise import noisy_mean
from fedstyle.privacy.sampling import SECURE, Fixed, Poisson, Sampler
from fedstyle.tables import need

EXTRA = "privacy"
"""Where a run's state keeps the ledger."""


@dataclass(frozen=True)
class Promise:
    """What is done in every round of a private run, and what all of them may cost."""

    mechanism: Mechanism
    clip: float
    delta: float
    budget: Budget | None
    seed: int | None
    """For a simulation that repeats: who knows it can take the noise off again. None draws from the operating system."""

    @classmethod
    def of(cls, config: Config, clients: int) -> Self | None:
        """The promise of `[privacy]` to so many clients, or None when there is no noise.

        Raises ConfigError for settings that promise nothing, and FedstyleError when dp-accounting is not installed.
        """
        wishes, server = config.privacy, config.server
        if not wishes.noise and not wishes.target_epsilon:
            return None
        check_strategy(server.strategy)
        population = clients - server.unseen
        cohort = server.cohort or population
        sampler: Sampler = Fixed(population, cohort) if wishes.sampler == "fixed" else Poisson(population, cohort / population)
        if isinstance(sampler, Fixed) and server.late:
            raise ConfigError("privacy.sampler = 'fixed' draws from all clients in every round: set server.late = 0, or sample by poisson")
        delta = wishes.delta or delta_for(population)
        noise = wishes.noise or target_noise(wishes.target_epsilon, sampler, max(1, server.rounds), delta)
        budget = Budget(wishes.budget, delta) if wishes.budget else None
        promise = cls(Mechanism(noise, sampler), wishes.clip, delta, budget, config.training.seed if wishes.reproducible else None)
        if budget:
            one = Ledger().charge(promise.mechanism).epsilon(delta)
            need(one <= budget.epsilon, "privacy.budget", budget.epsilon, f"one round alone costs {one:.3g}: add noise, or allow more")
        return promise

    def draw(self, there: Sequence[int], number: int) -> tuple[int, ...]:
        """Who takes part in a round, of those who are there."""
        return tuple(self.mechanism.sampler.draw(list(there), SECURE if self.seed is None else random.Random(self._seed(number, "who"))))

    def allows(self, ledger: Ledger) -> bool:
        """Whether a round more keeps within the budget."""
        return self.budget is None or self.budget.allows(ledger, self.mechanism)

    def mean(self, updates: Iterable[Params], like: Params, number: int) -> dict[str, Tensor]:
        """The round's release: the noisy sum over the *expected* number of clients, never the number that replied."""
        bytes_of: Draw = os.urandom if self.seed is None else seeded(self._seed(number, "noise"))
        cohort = float(self.mechanism.sampler.cohort)
        return noisy_mean(updates, like, clip=self.clip, noise=self.mechanism.noise, denominator=cohort, draw=bytes_of)

    def statement(self, ledger: Ledger) -> dict[str, Any]:
        """What a report says of the run: see `privacy.ledger.statement`; `simulated` when the noise follows from a seed."""
        budget = {"budget": self.budget.epsilon} if self.budget else {}
        return {**statement(ledger, self.delta), "clip": self.clip, "simulated": self.seed is not None, **budget}

    def _seed(self, number: int, what: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}\0{number}\0{what}".encode()).digest()[:8])


def read_ledger(extra: Mapping[str, Any]) -> Ledger:
    """The ledger of a run's state; a run that charged nothing yet has an empty one. Raises FederationError when it is damaged."""
    return Ledger.from_json(extra[EXTRA]) if EXTRA in extra else Ledger()
