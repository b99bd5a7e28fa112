"""The `[privacy]` table of a run, and the set of keys that `privacy.mode = "private"` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from fedstyle.errors import ConfigError
from fedstyle.tables import need

if TYPE_CHECKING:
    from fedstyle.config import Config

Mode = Literal["default", "private"]
PRIVATE: Mapping[str, Any] = MappingProxyType({"secure": True, "target_epsilon": 1.0, "delta": 1e-5, "clip": 0.01})
"""What the private mode sets where the table is silent; it takes a smaller epsilon and delta, and any clip: noise is measured in it."""
COHORT = 20
"""Clients that a round of the private mode expects, at least."""


@dataclass(frozen=True)
class Privacy:
    """What is done to updates: see SECURITY.md for what that promises. The allow-list of the wire is always on."""

    clip: float = 0.0
    """Largest joint L2 norm of a client's whole update; 0 does not clip."""
    noise: float = 0.0
    """Noise on a round's sum, once, as a multiple of `clip`: user-level differential privacy (McMahan et al. 2018); 0 adds none."""
    target_epsilon: float = 0.0
    """In place of `noise`: as much of it as all rounds of the run need for this epsilon."""
    delta: float = 0.0
    """The delta of the promise; 0 takes clients^-1.1."""
    budget: float = 0.0
    """The epsilon at which the rounds stop; 0 is none."""
    sampler: Literal["poisson", "fixed"] = "poisson"
    """How a private round draws its clients: each with the chance cohort / clients, or a cohort of a fixed size."""
    reproducible: bool = False
    """Draw clients and noise from the run's seed, for studies; whoever knows the seed can take the noise off again."""
    secure: bool = False
    """Sum updates securely, so that the server learns a round's sum and no single update; clients then add the noise, in shares.

    Just under a third of a round's clients may fall out, and as many may work with the server."""
    mode: Mode = "default"
    """`private` sets what is left out as PRIVATE says, and refuses what contradicts it: secure sums, with noise that the clients add for
    an epsilon of at most 1 at a delta of at most 1e-5 over all rounds, from randomness that nobody can repeat, over cohorts of 20 and more,
    with a method that keeps the norms on the device. Here a key at its default counts as left out; in a TOML file it does not."""

    def __post_init__(self) -> None:
        """Fill in the mode's keys, and check ranges."""
        if self.mode == "private":
            self._fill()
        for name in ("clip", "noise", "target_epsilon", "budget"):
            need(getattr(self, name) >= 0, f"privacy.{name}", getattr(self, name), "give a number over 0, or 0 for none")
        need(0 <= self.delta < 1, "privacy.delta", self.delta, "give a number between 0 and 1, or 0 for clients^-1.1")
        noisy = self.noise > 0 or self.target_epsilon > 0
        need(not noisy or self.clip > 0, "privacy.clip", self.clip, "noise is measured in it: give a norm over 0")
        need(not self.secure or self.clip > 0, "privacy.clip", self.clip, "secure sums are of clipped updates: give a norm over 0")
        need(not (self.noise and self.target_epsilon), "privacy.target_epsilon", self.target_epsilon, "it chooses privacy.noise; give one")
        need(noisy or not (self.budget or self.delta), "privacy.noise", self.noise, "there is no epsilon without noise; give some")

    def _fill(self) -> None:
        most = {"target_epsilon": PRIVATE["target_epsilon"], "delta": PRIVATE["delta"]}
        for name, limit in most.items():
            need(getattr(self, name) <= limit, f"privacy.{name}", getattr(self, name), f"the private mode allows {limit:g} at most")
        need(not self.noise, "privacy.noise", self.noise, "the private mode chooses it by privacy.target_epsilon; leave it out")
        need(not self.reproducible, "privacy.reproducible", True, "noise that can be drawn again hides nothing in the private mode")
        for name, value in PRIVATE.items():
            object.__setattr__(self, name, getattr(self, name) or value)

    def check_given(self, table: Mapping[str, Any]) -> None:
        """Raise ConfigError for a key that a file gives and the mode had to change, such as `secure = false` in the private mode."""
        for name, value in table.items():
            set_to = getattr(self, name)
            need(set_to == value, f"privacy.{name}", value, f"privacy.mode = {self.mode!r} sets {set_to!r}: leave it out, or the mode")


def check_mode(config: Config, clients: int) -> None:
    """Raise ConfigError where the private mode and the rest of a configuration do not go together, for a run of so many clients."""
    if config.privacy.mode != "private":
        return
    from fedstyle.methods import make_method

    there = clients - config.server.unseen
    cohort = min(config.server.cohort or there, there)
    need(cohort >= COHORT, "server.cohort", cohort, f"the private mode sums over {COHORT} clients a round or more")
    method = make_method(config.method)
    if hasattr(method, "companions"):
        raise ConfigError(
            f"method.name = {config.method['name']!r} sends further tensors beside the network's, which may tell of norms: the private "
            "mode keeps those on the device; take a method such as fedbn"
        )
    if any(method.shares(name) for name in ("down1.norm.weight", "blocks.0.first.norm.bias", "up2.norm.weight", "predictor.centre")):
        raise ConfigError(
            f"method.name = {config.method['name']!r} shares instance norms or a predictor of them: the private mode keeps them on the "
            "device; take a method such as fedbn"
        )
