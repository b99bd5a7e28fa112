"""Was this photo trained on? A score a photo from how its own gradient lies to what was seen of a user.

The attacker knows the base, the loss and the user's style, which is more than re-identification gives it, and holds a pile of photos of
which some few were trained on. A photo's score is the cosine between the step that it alone would make, against its gradient, and what was
seen; over rounds cosines are added. Scores are then measured in standard deviations from the pile's mean, so that users compare.
Photos of one user share what was seen of that user; intervals treat them as independent, and so are somewhat too narrow.
Stronger attacks train shadow models (LiRA, Carlini et al. 2022); one that finds nothing has proved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstyle.base import Base, build
from fedstyle.perceptual import Objective
from fedstyle.privacy.audit.statistics import Estimate, auc, tpr_at
from fedstyle.privacy.noise import flatten

Floats = NDArray[Any]


@dataclass(frozen=True)
class Membership:
    """How well members are told from non-members."""

    auc: Estimate
    tpr: Estimate
    """At 1 % false positives."""
    members: int
    others: int


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


def scores(steps: Floats, seen: Sequence[Floats]) -> Floats:
    """A score for each photo of a pile from their steps (n, d) and what was seen, vectors (d) a round; mean 0, variance 1 over the pile."""
    total = sum((steps @ one / max(float(np.linalg.norm(one)), 1e-12) for one in seen), np.zeros(len(steps)))
    raw = total / np.maximum(np.linalg.norm(steps, axis=1), 1e-12)
    return np.asarray((raw - raw.mean()) / max(float(raw.std()), 1e-12))


def measure(members: Floats, others: Floats) -> Membership:
    """The figures of all users' scores together."""
    return Membership(auc(members, others), tpr_at(members, others), len(members), len(others))
