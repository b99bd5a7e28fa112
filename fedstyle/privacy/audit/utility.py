"""What a setting leaves of the base: the loss of users whom no round asked, after a few iterations from it, against the base without noise.

A setting's base is the first one plus its rounds' noisy means of clipped changes, those of a cohort of the attacker's users. Their changes
were trained from the bases of the unprotected run: under noise that hurts, real ones would be trained from worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedstyle.base import Base, build
from fedstyle.privacy.audit.users import client_of, seed_of
from fedstyle.privacy.audit.world import World
from fedstyle.privacy.gaussian import Draw
from fedstyle.privacy.noise import flatten, noisy_mean, unflatten
from fedstyle.training import evaluate

ITERATIONS = 25
HELDOUT = 4
"""Pictures on which an unseen user's filter is judged; none is among those that it was made with."""


def private_base(world: World, *, clip: float, noise: float, cohort: int, draw: Draw) -> Base:
    """The base after all rounds of a setting with this expected cohort."""
    like, base = world.like(), world.bases[0]
    moved = dict(base.weights)
    for changes in world.rounds:
        rows = changes.reshape(-1, changes.shape[-1])
        updates = [unflatten(row[world.shared], like) for row in rows[np.linspace(0, len(rows) - 1, min(cohort, len(rows))).astype(int)]]
        mean = noisy_mean(updates, like, clip=clip, noise=noise, denominator=float(cohort), draw=draw)
        moved |= {name: moved[name] + value for name, value in mean.items()}
    return replace(base, weights=moved)


def size(world: World) -> float:
    """The length of the first base's shared parameters."""
    return float(np.linalg.norm(flatten(world.like())))


def losses(world: World, base: Base, users: int) -> NDArray[np.float64]:
    """The total loss of each of so many unseen users on pictures that it does not hold, after ITERATIONS from this base."""
    each = world.config.training.crops
    found = []
    for index in range(users):
        rng = np.random.default_rng(seed_of(world.config, "unseen", index))
        chosen = rng.choice(len(world.pixels), each + HELDOUT, replace=False)
        style = world.styles[index % len(world.styles)]
        client = client_of(world.config, None, world.pixels[chosen[:each]], style, seed_of(world.config, "unseen", index, "seed"))
        made = client.personalize(base, iterations=ITERATIONS).result()
        net = build(made.arch, made.padding, made.weights)
        found.append(evaluate(net, client.objective(), list(world.pixels[chosen[each:]]))["total"])
    return np.array(found)


def worse(these: Sequence[float] | NDArray[np.float64], those: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """By user, how much larger a loss is than another: 0.1 for a tenth."""
    return np.asarray(np.asarray(these) / np.asarray(those) - 1)
