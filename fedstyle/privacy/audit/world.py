"""What users and attacker of an audit have in common: styles, pictures, the bases of all rounds, and the attacker's simulated users."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedstyle.base import Base
from fedstyle.config import Config
from fedstyle.demo import demo_photos
from fedstyle.errors import ConfigError
from fedstyle.methods import make_method
from fedstyle.params import Params
from fedstyle.photos import Photos
from fedstyle.population import first_base, plan
from fedstyle.privacy.audit.releases import Lens, Mask
from fedstyle.privacy.audit.users import (
    Trace,
    advance,
    change,
    client_of,
    draws,
    filter_change,
    halves,
    seed_of,
    styles_of,
    tiles,
    vector,
)
from fedstyle.privacy.noise import unflatten
from fedstyle.style import Style

CANDIDATES = 4
"""Users that the attacker simulates for each style, on public pictures."""
FILTERS = 2
"""Of these, users who make a filter."""
PUBLIC = 400
"""Pictures that the attacker has, at most."""


@dataclass(frozen=True)
class World:
    """The setting of an audit. The attacker's users train the bases, so that its candidates are of the rounds that are attacked."""

    config: Config
    styles: Sequence[Style]
    pixels: Tensor
    """The users' pictures, uint8 (n, 3, S, S)."""
    public: Tensor
    """The attacker's, of other photographs."""
    bases: Sequence[Base]
    """The base that each round begins with, and the one after the last."""
    rounds: Sequence[NDArray[np.float16]]
    """The changes of the attacker's users in each round, (styles, candidates, parameters)."""
    filters: Sequence[NDArray[np.float16]]
    """Of their filters after the first and after the last round."""
    held: Sequence[tuple[int, ...]]
    """Which public pictures each of the attacker's users holds, a style's users after another's."""
    norms: Mask
    shared: Mask

    def like(self) -> Params:
        """Tensors named and shaped as what the method shares."""
        method = make_method(self.config.method)
        return {name: value for name, value in self.bases[0].transform().items() if method.shares(name)}

    def honest(self, users: Sequence[Trace], count: int = 20) -> list[Params]:
        """What some users shared in their first round."""
        return [unflatten(user.rounds[0][self.shared], self.like()) for user in users[:count]]

    def lens(self) -> Lens:
        """How releases are made of changes."""
        return Lens.of(self.bases[0], make_method(self.config.method))

    def describe(self) -> dict[str, Any]:
        """The workload in words and numbers."""
        base, training = self.bases[0], self.config.training
        return {
            "network": base.arch,
            "parameters": len(self.norms),
            "of them norms": int(self.norms.sum()),
            "of them shared": int(self.shared.sum()),
            "method": str(self.config.method["name"]),
            "styles": len(self.styles),
            "pixels": f"{training.size} x {training.size}",
            "users' pictures": len(self.pixels),
            "attacker's pictures": len(self.public),
        }


def build_world(config: Config, pictures: int, watch: Callable[[str, int, int], None]) -> World:
    """Cut the pictures, and let the attacker's users train the bases of all rounds.

    Raises ConfigError where the configuration has no round, a method with companions, or too little data.
    """
    if config.server.rounds < 1:
        raise ConfigError("server.rounds = 0: an audit looks at what rounds release; give 1 or more")
    if hasattr(make_method(config.method), "companions"):
        raise ConfigError(
            f"method.name = {config.method['name']!r} sends further tensors beside the network's, which no attack of the audit reads: "
            "audit a method such as fedavg, which sends less"
        )
    private, public = halves(_photos(config), seed_of(config, "photographs"))
    pixels = tiles(private, pictures, config.training.size, seed_of(config, "private"))
    others = tiles(public, PUBLIC, config.training.size, seed_of(config, "public"))
    each = min(config.training.crops, len(pixels) // 2, len(others))
    if each < 1:
        raise ConfigError("data.photos: the photos are too few or too small for an audit; name more or larger ones")
    styles, base = styles_of(config), first_base(config)
    method = make_method(config.method)
    lens = Lens.of(base, method)
    shares = [name for name in base.transform() if method.shares(name)]
    chosen = draws(np.random.default_rng(seed_of(config, "candidates")), len(others), each)
    bases, rounds, filters, held = [base], [], [], []
    with contextlib.ExitStack() as stack:
        crew = []
        for index, style in enumerate(styles):
            for k in range(CANDIDATES):
                home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                held.append(next(chosen))
                crew.append(client_of(config, home, others[list(held[-1])], style, seed_of(config, "candidate", index, k)))
        for number in range(1, config.server.rounds + 1):
            watch("bases", number - 1, config.server.rounds)
            changes = [change(client, bases[-1], number) for client in crew]
            bases.append(advance(bases[-1], changes, shares))
            rounds.append(np.stack([vector(one) for one in changes]).reshape(len(styles), CANDIDATES, -1))
            if number in (1, config.server.rounds):
                makers = [client for index, client in enumerate(crew) if index % CANDIDATES < FILTERS]
                made = [vector(filter_change(client, bases[-1], config.training.iterations)) for client in makers]
                filters.append(np.stack(made).reshape(len(styles), min(FILTERS, CANDIDATES), -1))
    watch("bases", config.server.rounds, config.server.rounds)
    return World(config, styles, pixels, others, bases, rounds, filters, held, lens.norms, lens.shared)


def _photos(config: Config) -> Photos:
    """All photos of the run, whoever holds them."""
    if config.data.photos == "demo":
        return Photos.open(list(demo_photos().values()))
    devices = plan(config).devices
    return Photos.open(sorted({path for device in devices for part in (device.photos, device.heldout) for path in part.paths}))
