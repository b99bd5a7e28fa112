"""What rounds with noise promise: epsilon at delta for users, by dp-accounting, and the noise that a promise needs.

The unit is one user with all their photos. Neighbours, by sampler:

- `Poisson`: two federations that differ by one user more or less. That user moves the sum by C at most, and noise is measured in C.
- `Fixed`: two federations of one size that differ in one user's data. The sum moves by 2 C at most, so that noise of multiplier z
  counts as z / 2; forgetting this halves the epsilon that is shown.

RDP: Mironov 2017; Mironov, Talwar, Zhang 2019 with Poisson sampling; Wang, Balle, Kasiviswanathan 2019 without replacement. At whole
orders these bounds hold for the discrete Gaussian of `gaussian` too, for sums over the grid do not change under whole shifts (Canonne,
Kamath, Steinke 2020); between them the two differ by terms of the size exp(-2 pi^2 std^2 / C), std and C in steps, which vanish on any
fine grid.
PLD (Koskela et al. 2020; Doroshenko et al. 2022) is tighter, and computed for the continuous Gaussian with Poisson sampling. For the
discrete one it is a very close figure and no proof, so budgets go by RDP unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fedstyle.errors import ConfigError, FedstyleError
from fedstyle.privacy.sampling import Fixed, Sampler
from fedstyle.tables import need

Accountant = Literal["rdp", "pld"]
_WIDE = (72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024)
ORDERS = (*(2 + n / 8 for n in range(48)), *(8 + n / 2 for n in range(16)), *range(16, 65), *_WIDE)
SMALL = (1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875)
"""Orders that matter for an epsilon of 20 and more."""
STRATEGIES = ("FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")
"""Strategies that do no more with clients' updates than average them; what the server's optimiser then does is post-processing."""


@dataclass(frozen=True)
class Mechanism:
    """One round's release: the sum of clipped updates of a sampled cohort with Gaussian noise added once."""

    noise: float
    """The noise's standard deviation over the clipping norm, at least."""
    sampler: Sampler

    def __post_init__(self) -> None:
        """Check the range."""
        need(math.isfinite(self.noise) and self.noise > 0, "the noise multiplier", self.noise, "give a finite number over 0")


def relation(sampler: Sampler) -> str:
    """The neighbour relation of a sampler, in words."""
    return "replace one user" if isinstance(sampler, Fixed) else "add or remove one user"


def delta_for(population: int) -> float:
    """The largest delta that should be promised to so many users: population^-1.1."""
    need(population >= 2, "the population", population, "give at least 2")
    return float(population**-1.1)


def check_strategy(name: str) -> None:
    """Raise ConfigError unless differential privacy may stand over this strategy.

    The promise is proved for a sum with noise and whatever follows from it. A median, Krum or weights by example count look at single
    updates before any noise, and how far one user moves them is not bounded by the clipping norm.
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"server.strategy = {name!r} cannot be private: noise is accounted for averages only. Use {', '.join(STRATEGIES)}"
        )


def epsilon(noise: float, sampler: Sampler, rounds: int, delta: float, *, accountant: Accountant = "rdp") -> float:
    """Epsilon at delta after so many rounds with this noise multiplier and sampler; 0 rounds cost nothing.

    Raises ConfigError for numbers out of range, and for PLD with a fixed cohort, for which dp-accounting has none; FedstyleError when
    dp-accounting is not installed.
    """
    return total_epsilon([(Mechanism(noise, sampler), rounds)], delta, accountant=accountant)


def total_epsilon(charges: Iterable[tuple[Mechanism, int]], delta: float, *, accountant: Accountant = "rdp") -> float:
    """Epsilon at delta of rounds of several mechanisms, each with its number of rounds; their samplers must be of one kind."""
    need(0 < delta < 1, "delta", delta, "give a number between 0 and 1")
    need(accountant in ("rdp", "pld"), "the accountant", accountant, "choose 'rdp' or 'pld'")
    return _epsilon(tuple((mechanism, rounds) for mechanism, rounds in charges if rounds), delta, accountant)


@lru_cache(maxsize=256)
def _epsilon(charges: tuple[tuple[Mechanism, int], ...], delta: float, accountant: Accountant) -> float:
    if not charges:
        return 0.0
    dp = _load()
    kinds = {relation(mechanism.sampler) for mechanism, _ in charges}
    if len(kinds) > 1:
        raise ConfigError("rounds sampled by Poisson and rounds of a fixed cohort have no common promise: keep to one sampler")
    neighbours = dp.NeighboringRelation.REPLACE_ONE if kinds == {"replace one user"} else dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    if accountant == "pld":
        if neighbours == dp.NeighboringRelation.REPLACE_ONE:
            raise ConfigError("PLD accounts for Poisson sampling only: sample by Poisson, or account for the fixed cohort by RDP")
        total = dp.pld.PLDAccountant(neighbours)
    else:
        total = dp.rdp.RdpAccountant(_orders(charges), neighbours)
    for mechanism, rounds in charges:
        need(rounds > 0, "the number of rounds", rounds, "give 0 or more")
        total.compose(_event(dp, mechanism), rounds)
    return float(total.get_epsilon(delta))


def _orders(charges: tuple[tuple[Mechanism, int], ...]) -> tuple[float, ...]:
    """The orders to look at: any give a true bound, and more a tighter one.

    With sampling, dp-accounting's series for broken orders does not converge below 2, nor in useful time for noise much below 0.6.
    """
    if all(mechanism.sampler.rate == 1 for mechanism, _ in charges):
        return (*SMALL, *ORDERS)
    if min(mechanism.noise for mechanism, _ in charges) < 0.6:
        return tuple(order for order in ORDERS if order == int(order))
    return ORDERS


def _event(dp: Any, mechanism: Mechanism) -> Any:
    sampler = mechanism.sampler
    if isinstance(sampler, Fixed):
        halved = dp.GaussianDpEvent(mechanism.noise / 2)  # replacing one moves the sum by 2 C, and dp-accounting does not do this itself
        return halved if sampler.rate == 1 else dp.SampledWithoutReplacementDpEvent(sampler.population, sampler.cohort, halved)
    event = dp.GaussianDpEvent(mechanism.noise)
    return event if sampler.rate == 1 else dp.PoissonSampledDpEvent(sampler.rate, event)


def target_noise(wanted: float, sampler: Sampler, rounds: int, delta: float, *, accountant: Accountant = "rdp") -> float:
    """The least noise multiplier, to 0.01 %, whose epsilon is at most `wanted`; never one whose epsilon is over it.

    By bisection, for epsilon falls as noise grows. Raises ConfigError when no multiplier up to 10,000 does.
    """
    need(math.isfinite(wanted) and wanted > 0, "the target epsilon", wanted, "give a finite number over 0")
    need(rounds >= 1, "the number of rounds", rounds, "give at least 1")
    return _least(lambda noise: epsilon(noise, sampler, rounds, delta, accountant=accountant) <= wanted)


def _least(suffices: Callable[[float], bool]) -> float:
    high = 1.0
    while not suffices(high):
        high *= 2
        if high > 10_000:
            raise ConfigError("no noise multiplier up to 10,000 keeps this epsilon: allow more, run fewer rounds, or sample fewer users")
    low = high / 2
    while low > 1e-2 and suffices(low):
        low, high = low / 2, low
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _load() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise FedstyleError("accounting for privacy needs the dp-accounting package: pip install 'fedstyle[dp]'") from error
    return dp_accounting
