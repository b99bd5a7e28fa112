"""Clipping of a whole update to a joint norm."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low

import torch
from torch import Tensor

from fedstyle.params import Params


def clip(update: Params, norm: float) -> dict[str, Tensor]:
    """Scale an update so that its joint L2 norm over all tensors is at most `norm`; 0 leaves it as it is (McMahan et al. 2018)."""
    if not norm or not update:
        return dict(update)
    scale = min(1.0, norm / max(length(update), 1e-12))
    return {name: value * scale for name, value in update.items()}


def length(update: Params) -> float:
    """The joint L2 norm of an update over all tensors; 0 of one that has none, as of a method that shares nothing."""
    return 0.0 if not update else float(torch.stack([value.double().square().sum() for value in update.values()]).sum().sqrt())


def level(updates: Mapping[int, Params]) -> dict[int, dict[str, Tensor]]:
    """Shorten every update that is longer than the median of their lengths to that (norm clipping, Sun et al. 2019, arXiv:1911.07963).

    Of two in the middle the shorter one counts, so that fewer than half of the clients cannot make it longer than an honest one's.
    """
    middle = median_low(map(length, updates.values())) if updates else 0.0
    return {client: clip(update, max(middle, 1e-12)) for client, update in updates.items()}
