"""Was this photo trained on? A score a photo from how its own step lies to what was seen of a user.

The attacker knows the base, the loss and the user's style, which is more than re-identification gives it, and holds a pile of photos of
which some few were trained on. A photo's score is the inner product of the step that it alone would make, against its gradient or as
Adam's first one (the gradient's signs), with what was seen; in two of four ways less what the attacker's own users of that style
show, none of whom has the photo (after Carlini et al. 2022, who calibrate each photo by shadow models). It takes the way that tells its
own users' photos best in that release. Over rounds scores are added, and then measured in standard deviations from the pile's mean, so that
users compare. Photos of one user share what was seen of that user: intervals go by users. One that finds nothing has proved nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstyle.base import Base, build
from fedstyle.perceptual import Objective
from fedstyle.privacy.audit.statistics import Estimate, auc, clustered
from fedstyle.privacy.noise import flatten

Floats = NDArray[Any]
WAYS = tuple((signs, calibrated) for signs in (False, True) for calibrated in (False, True))


@dataclass(frozen=True)
class Told:
    """How well members are told from non-members."""

    auc: Estimate
    tpr: Estimate
    """At 1 % false positives; how well the others fix that threshold is not in its interval."""
    members: int
    others: int


@dataclass(frozen=True)
class Shown:
    """Inner products (n) of a pile's steps with what was seen of a user in a moment, and with what users of its style show on average."""

    seen: Floats
    expected: Floats
    length: float
    rest: float
    """The lengths of what was seen, and of what it is apart from the expected."""


@dataclass(frozen=True)
class Pile:
    """The photos that are asked about of one user, members first, and what their steps say of all that was seen, by way and release."""

    user: int
    members: int
    shown: Mapping[tuple[bool, Hashable], Shown]
    own: Mapping[bool, Floats]
    """Inner products of the steps over shared numbers with each other, (n, n): the covariance of noise in them."""


def steps(base: Base, objective: Objective, pixels: Tensor) -> Floats:
    """The step against its gradient that each picture uint8 (n, 3, S, S) alone would make: (n, d), in `flatten`'s order."""
    net = build(base.arch, base.padding, base.transform())
    names = sorted(base.transform())
    values = dict(net.named_parameters())
    rows = []
    for pixel in pixels:
        x = pixel[None].float() / 255
        with torch.no_grad():
            content = objective.content_features(x)
        found = torch.autograd.grad(objective(net(x), content).total.sum(), [values[name] for name in names], allow_unused=True)
        slopes = {name: torch.zeros_like(values[name]) if s is None else s for name, s in zip(names, found, strict=True)}
        rows.append(-flatten(slopes).astype(np.float32))
    return np.stack(rows)


def ask(
    user: int, members: int, steps: Floats, views: Mapping[Hashable, tuple[NDArray[np.bool_], Floats, Floats]], shared: NDArray[np.bool_]
) -> Pile:
    """A user's pile, of steps (n, d) of its photos, members first; `views` are by release: numbers, what was seen, what is expected."""
    shown: dict[tuple[bool, Hashable], Shown] = {}
    own: dict[bool, Floats] = {}
    for signs in (False, True):
        rows = np.sign(steps) if signs else steps
        masks = {view[0].tobytes(): view[0] for view in views.values()}
        lengths = {key: np.sqrt(np.square(rows) @ mask.astype(np.float32)) for key, mask in masks.items()}
        for name, (mask, seen, expected) in views.items():
            sizes = np.maximum(lengths[mask.tobytes()], 1e-12)
            found = rows @ np.stack([_spread(seen, mask), _spread(expected, mask)], axis=1) / sizes[:, None]
            shown[signs, name] = Shown(found[:, 0], found[:, 1], float(np.linalg.norm(seen)), float(np.linalg.norm(seen - expected)))
        part = rows[:, shared]
        sizes = np.maximum(np.linalg.norm(part, axis=1), 1e-12)
        own[signs] = (part @ part.T / np.outer(sizes, sizes)).astype(np.float64)
    return Pile(user, members, shown, own)


def _spread(values: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Values of the numbers of a mask, among zeros."""
    whole = np.zeros(len(mask), np.float32)
    whole[mask] = values
    return whole


def scores(pile: Pile, way: tuple[bool, bool], moments: Sequence[Hashable], noise: float, draws: int, rng: np.random.Generator) -> Floats:
    """Scores (draws, n) of a pile in one of WAYS by what was seen in some moments; mean 0, variance 1 over the pile.

    `noise` is the standard deviation of the noise in a number, drawn anew so many times in every moment.
    """
    signs, calibrated = way
    total = np.zeros((draws, len(pile.own[signs])))
    root = np.linalg.cholesky(pile.own[signs] + 1e-6 * np.eye(total.shape[1]))
    for moment in moments:
        one = pile.shown[signs, moment]
        length = 1.0 if noise else max(one.rest if calibrated else one.length, 1e-12)
        total += (one.seen - one.expected if calibrated else one.seen) / length + noise * rng.normal(size=total.shape) @ root.T
    return np.asarray((total - total.mean(1, keepdims=True)) / np.maximum(total.std(1, keepdims=True), 1e-12))


def tell(
    piles: Sequence[Pile], shadows: Sequence[Pile], moments: Sequence[Hashable], noise: float, draws: int, rng: np.random.Generator,
    clusters: Sequence[int],
) -> Told:  # fmt: skip
    """How well members are told from others in the users' piles, in the way that tells them best in the attacker's own.

    `clusters` are of the users, by pile. No moments at all is guessing.
    """
    if not moments:
        blind = [(rng.normal(size=(draws, p.members)), rng.normal(size=(draws, len(p.own[False]) - p.members))) for p in piles]
        return _measure(blind, clusters)
    best = max(WAYS, key=lambda way: _measure(_split(shadows, way, moments, noise, draws, rng), range(len(shadows))).auc.value)
    return _measure(_split(piles, best, moments, noise, draws, rng), clusters)


def _split(
    piles: Sequence[Pile], way: tuple[bool, bool], moments: Sequence[Hashable], noise: float, draws: int, rng: np.random.Generator
) -> list[tuple[Floats, Floats]]:
    found = [(pile.members, scores(pile, way, moments, noise, draws, rng)) for pile in piles]
    return [(one[:, :members], one[:, members:]) for members, one in found]


def _measure(parts: Sequence[tuple[Floats, Floats]], clusters: Sequence[int]) -> Told:
    members, others = (np.concatenate([part[side].ravel() for part in parts]) for side in (0, 1))
    named = tuple(np.repeat(np.asarray(clusters), [part[side].size for part in parts]) for side in (0, 1))
    distinct = sum(part[0].shape[1] for part in parts), sum(part[1].shape[1] for part in parts)
    allowed = np.sort(others)[len(others) - 1 - int(0.01 * len(others))]
    return Told(auc(members, others, clusters=(named[0], named[1])), clustered((members > allowed) * 1.0, named[0]), *distinct)
