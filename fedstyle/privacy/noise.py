"""The aggregate of a private round: a sum of clipped updates with noise added once, over a fixed denominator; `gaussian` has the noise."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstyle import params
from fedstyle.params import Params
from fedstyle.privacy.gaussian import Draw, discrete_gaussian, noise_std, shorten
from fedstyle.privacy.grid import LEVELS, Grid
from fedstyle.tables import need


def flatten(update: Params) -> NDArray[np.float64]:
    """All numbers of an update as one vector, tensors in the order of their names."""
    parts = [update[name].detach().reshape(-1).double() for name in sorted(update)]
    return (torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)).cpu().numpy()


def unflatten(vector: NDArray[np.floating], like: Params) -> dict[str, Tensor]:
    """The tensors, fp32, of a vector that `flatten` made of ones named and shaped as `like`."""
    need(len(vector) == sum(value.numel() for value in like.values()), "the vector's length", len(vector), "it is that of another net")
    whole, made, start = torch.from_numpy(np.array(vector, dtype=np.float32)), {}, 0
    for name in sorted(like):
        made[name] = whole[start : start + like[name].numel()].reshape(like[name].shape)
        start += like[name].numel()
    return made


def noisy_mean(
    updates: Iterable[Params], like: Params, *, clip: float, noise: float, denominator: float, levels: int = LEVELS, draw: Draw = os.urandom
) -> dict[str, Tensor]:
    """Sum whole updates clipped to one joint norm, add Gaussian noise once, and divide by a fixed number (McMahan et al. 2018).

    Every update counts the same and is clipped here too, to the L2 norm `clip`, whatever its client did: the promise does not hang on
    clients. `noise` is the multiplier: the noise on the sum has the standard deviation noise x (clip + rounding), where rounding is
    clip sqrt(d) / (2 levels), 0.03 % of clip at d = 415,443. `denominator` is the *expected* cohort, never the number of replies, which
    would tell who was there. No update at all gives noise alone, as it must. The update is seen by this process in the clear.

    Raises ParamsError for an update that is not named and shaped as `like`, or not finite (drop it before, and take it as absent), and
    ConfigError for numbers out of range.
    """
    need(math.isfinite(clip) and clip > 0, "the clipping norm", clip, "give a finite number over 0")
    need(math.isfinite(denominator) and denominator > 0, "the denominator", denominator, "give the expected cohort")
    grid = Grid(clip, levels)
    length = sum(value.numel() for value in like.values())
    total = np.zeros(length, np.int64)
    for update in updates:
        params.check_alike(update, like, "an update")
        total += grid.encode(shorten(flatten(update), clip))
    total += discrete_gaussian(length, noise_std(noise, grid, clip, length), draw)
    return unflatten(grid.decode(total) / denominator, like)
