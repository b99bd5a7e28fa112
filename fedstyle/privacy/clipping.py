"""Clipping of a whole update to a joint norm."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstyle.params import Params


def clip(update: Params, norm: float) -> dict[str, Tensor]:
    """Scale an update so that its joint L2 norm over all tensors is at most `norm`; 0 leaves it as it is (McMahan et al. 2018)."""
    if not norm or not update:
        return dict(update)
    length = torch.stack([value.double().square().sum() for value in update.values()]).sum().sqrt()
    scale = min(1.0, norm / max(float(length), 1e-12))
    return {name: value * scale for name, value in update.items()}
