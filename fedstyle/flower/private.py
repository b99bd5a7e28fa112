"""The private aggregate of a round, which a stock strategy gets in place of the clients' replies, and the accounting for it.

Strategies that average do the same with one reply as with many that are equal to it, so that the strategy sees one client: the cohort.
In a round the order is: draw who takes part, collect, charge the ledger, keep it on disk, and only then add the noise and release.

Where sums are secure, the clients add the noise in shares (`privacy.shares`), and the order is: draw, collect masked updates, charge, keep,
and only then unmask the sum. The promise then holds against the server, too, which knows whom it asked: rounds are charged without what
sampling would save, as if every user took part in each.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from fedstyle.config import Config
from fedstyle.errors import ConfigError
from fedstyle.params import Params
from fedstyle.privacy.accounting import Mechanism, check_strategy, delta_for, target_noise
from fedstyle.privacy.gaussian import Draw, seeded
from fedstyle.privacy.ledger import BESIDE, Budget, Ledger, statement
from fedstyle.privacy.noise import noisy_mean
from fedstyle.privacy.sampling import SECURE, Fixed, Poisson, Sampler
from fedstyle.tables import need

EXTRA = "privacy"
"""Where a run's state keeps the ledger."""
HOLDS = {
    False: "an operator who keeps the protocol and works with less than a third of a round's clients",
    True: "an operator who lies, too, as long as less than a third of a round's devices are its own, or work with it",
}
"""Whom secure sums hold against, by whether devices sign what they send in them."""
LIMITS = {
    False: "a server that lies, or works with a third of a round's clients or more",
    True: "a server that works with a third of a round's devices or more, or with an authority that vouches for such",
}


@dataclass(frozen=True)
class Promise:
    """What is done in every round of a private run, and what all of them may cost."""

    mechanism: Mechanism
    clip: float
    delta: float
    budget: Budget | None
    seed: int | None
    """For a simulation that repeats: who knows it can take the noise off again. None draws from the operating system."""
    secure: bool = False
    """Whether the sum is a secure one, with noise in shares."""

    @classmethod
    def of(cls, config: Config, clients: int) -> Self | None:
        """The promise of `[privacy]` to so many clients, or None when there is no noise.

        Raises ConfigError for settings that promise nothing, and FedstyleError when dp-accounting is not installed.
        """
        wishes, server = config.privacy, config.server
        if server.level and (wishes.secure or wishes.noise or wishes.target_epsilon):
            raise ConfigError(
                "server.level = true compares single updates, which noise and secure sums do not account for: set it to false"
            )
        if not wishes.noise and not wishes.target_epsilon:
            return None
        check_strategy(server.strategy)
        population = clients - server.unseen
        cohort = server.cohort or population
        sampler: Sampler = Fixed(population, cohort) if wishes.sampler == "fixed" else Poisson(population, cohort / population)
        if isinstance(sampler, Fixed) and server.late:
            raise ConfigError("privacy.sampler = 'fixed' draws from all clients in every round: set server.late = 0, or sample by poisson")
        delta = wishes.delta or delta_for(population)
        charged = _unsampled(sampler) if wishes.secure else sampler
        noise = wishes.noise or target_noise(wishes.target_epsilon, charged, max(1, server.rounds), delta)
        budget = Budget(wishes.budget, delta) if wishes.budget else None
        seed = config.training.seed if wishes.reproducible else None
        promise = cls(Mechanism(noise, sampler), wishes.clip, delta, budget, seed, wishes.secure)
        if budget:
            one = Ledger().charge(promise.charged).epsilon(delta)
            need(one <= budget.epsilon, "privacy.budget", budget.epsilon, f"one round alone costs {one:.3g}: add noise, or allow more")
        return promise

    @property
    def charged(self) -> Mechanism:
        """What a round costs."""
        return replace(self.mechanism, sampler=_unsampled(self.mechanism.sampler)) if self.secure else self.mechanism

    def draw(self, there: Sequence[int], number: int) -> tuple[int, ...]:
        """Who takes part in a round, of those who are there."""
        return tuple(self.mechanism.sampler.draw(list(there), SECURE if self.seed is None else random.Random(self._seed(number, "who"))))

    def allows(self, ledger: Ledger) -> bool:
        """Whether a round more keeps within the budget."""
        return self.budget is None or self.budget.allows(ledger, self.charged)

    def mean(self, updates: Iterable[Params], like: Params, number: int) -> dict[str, Tensor]:
        """The round's release: the noisy sum over the *expected* number of clients, never the number that replied."""
        bytes_of: Draw = os.urandom if self.seed is None else seeded(self._seed(number, "noise"))
        cohort = float(self.mechanism.sampler.cohort)
        return noisy_mean(updates, like, clip=self.clip, noise=self.mechanism.noise, denominator=cohort, draw=bytes_of)

    def statement(self, ledger: Ledger, *, signed: bool = False) -> dict[str, Any]:
        """What a report says of the run: see `privacy.ledger.statement`; `simulated` when the noise follows from a seed.

        `signed` are the secure sums of a run over a network.
        """
        budget = {"budget": self.budget.epsilon} if self.budget else {}
        facts = statement(ledger, self.delta)
        if self.secure:
            noise = "with Gaussian noise that clients add in shares"
            facts["mechanism"] = f"the secure sum of updates clipped to one norm each, {noise}, over a fixed denominator"
            facts["not covered"] = [LIMITS[signed], *facts["not covered"][1:]]
        return {**facts, "clip": self.clip, "simulated": self.seed is not None, **budget}

    def _seed(self, number: int, what: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}\0{number}\0{what}".encode()).digest()[:8])


def describe(config: Config, clients: int, ledger: Ledger, *, signed: bool) -> dict[str, Any]:
    """What a report says of how a run treats updates, in words and numbers; an epsilon is among them only where there is noise."""
    wishes, promise = config.privacy, Promise.of(config, clients)
    reads = "sums of updates, and no single one" if wishes.secure else "each device's update"
    said: dict[str, Any] = {"clip": wishes.clip, "noise": promise.mechanism.noise if promise else 0.0, "operator reads": reads}
    if wishes.secure:
        said["holds against"] = HOLDS[signed]
    if promise:
        return said | promise.statement(ledger, signed=signed)
    masked = [LIMITS[signed], "what sums tell, and sums of different clients together: only noise bounds that"]
    return {**said, "not covered": [*(masked if wishes.secure else ["what updates and bases tell: only noise bounds that"]), *BESIDE]}


def _unsampled(sampler: Sampler) -> Sampler:
    """The sampler that takes everybody: what one that is no secret is worth."""
    return Fixed(sampler.population, sampler.population) if isinstance(sampler, Fixed) else Poisson(sampler.population, 1.0)


def read_ledger(extra: Mapping[str, Any]) -> Ledger:
    """The ledger of a run's state; a run that charged nothing yet has an empty one. Raises FederationError when it is damaged."""
    return Ledger.from_json(extra[EXTRA]) if EXTRA in extra else Ledger()
