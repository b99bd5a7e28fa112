"""Rebuild a photo from an update by gradient inversion, and prove first that the attack can.

A picture is searched whose own step, against its gradient, has the direction of what was seen (cosine as in Geiping et al. 2020, with a
little total variation), by L-BFGS in 64-bit floats (Zhu et al. 2019), from the mean of the attacker's public pictures. The user is the
worst case: one with a single photo. The attacker knows the base, the loss and the style.

What is found counts as a *gain*: PSNR over the best of what knows nothing of the user, which is the mean of public pictures, that mean
smoothed by total variation, and the same attack on a random update. It counts only if two positive controls hold, with as many iterations:

1. The search rebuilds pictures to CONTROL dB from the plain gradient of a small smooth network (LeNet with sigmoids, batch 1, one
   step), which is known to leak: the code works.
2. It gains as much as the limit from the plain gradient of the audited network itself, batch 1, one step: it works here.

Instance norms, ReLUs and Gram matrices make the search rugged, so the second may well fail where the first holds; then nothing is
resolved, for a search that finds nothing has proved nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedstyle.base import Base, build
from fedstyle.net import portable
from fedstyle.perceptual import Objective

CONTROL = 25.0
"""PSNR in dB that the positive control must reach, as the median of up to four pictures."""
ITERATIONS = 80
"""Of L-BFGS, for the control and for every attack alike."""
SMOOTH = 1e-4
"""The weight of total variation beside the cosine distance, which is between 0 and 2."""
SIDE = 16
"""The control's pictures, in pixels."""

Step = Callable[[Tensor], Tensor]
"""A picture (1, 3, S, S) in [0, 1] -> the step that it alone would make, as one vector; differentiable."""


@dataclass(frozen=True)
class Rebuilt:
    """PSNR in dB of one photo, rebuilt and by those that know nothing of the user."""

    found: float
    mean: float
    smoothed: float
    random: float

    @property
    def gain(self) -> float:
        """How many dB it is over the best that knows nothing."""
        return self.found - max(self.mean, self.smoothed, self.random)


def invert(step: Step, seen: Tensor, start: Tensor, *, iterations: int | None = None) -> Tensor:
    """The picture (1, 3, S, S) in [0, 1], 64-bit, whose step lies most like what was seen; the search begins at `start`."""
    iterations = iterations or ITERATIONS
    picture = start.double().clone().requires_grad_(True)
    wanted = seen.double() / seen.double().norm().clamp_min(1e-30)
    search = torch.optim.LBFGS(
        [picture], max_iter=iterations, max_eval=iterations + iterations // 4, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-14, tolerance_change=1e-16,
    )  # fmt: skip

    def distance() -> Tensor:
        search.zero_grad()
        made = step(picture)
        value: Tensor = 1 - made @ wanted / made.norm().clamp_min(1e-30) + SMOOTH * variation(picture)
        torch.autograd.backward(value)
        return value.detach()

    search.step(distance)  # type: ignore[no-untyped-call]
    found = picture.detach()
    return (found if bool(torch.isfinite(found).all()) else start.double()).clamp(0, 1)


def step_of(base: Base, objective: Objective, mask: NDArray[np.bool_]) -> Step:
    """How a transform network steps for a picture; `mask` picks the numbers that are seen, in `flatten`'s order."""
    net = portable(build(base.arch, base.padding, base.transform())).double()  # the fast kernels cannot be differentiated twice
    values = dict(net.named_parameters())
    names, chosen = sorted(base.transform()), torch.from_numpy(mask)
    doubled = _doubled(objective)

    def step(picture: Tensor) -> Tensor:
        total = doubled(net(picture), doubled.content_features(picture)).total.sum()
        slopes = torch.autograd.grad(total, [values[name] for name in names], create_graph=True, allow_unused=True)
        whole = [torch.zeros_like(values[name]) if slope is None else slope for name, slope in zip(names, slopes, strict=True)]
        return -torch.cat([slope.reshape(-1) for slope in whole])[chosen]

    return step


def _doubled(objective: Objective) -> Objective:
    """The objective in 64-bit floats, on features of its own."""
    features = copy.deepcopy(objective.features).double()
    return dataclasses.replace(objective, features=features, targets=tuple(target.double() for target in objective.targets))


def control(pixels: Tensor, start: Tensor, seed: int) -> float:
    """The PSNR of the positive control on a picture (1, 3, 16, 16) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Conv2d(3, 12, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, 1, 2), nn.Sigmoid()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * (SIDE // 4) ** 2, 10)).double()
    values = list(net.parameters())
    with torch.no_grad():
        for value in values:
            value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) - 0.5)

    def step(picture: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(net(picture), torch.tensor([3]))
        return -torch.cat([slope.reshape(-1) for slope in torch.autograd.grad(loss, values, create_graph=True)])

    picture = pixels.double()
    return psnr(invert(step, step(picture).detach(), start), picture)


def holds(psnrs: Sequence[float], plain: Sequence[float], limit: float) -> bool:
    """Whether both positive controls do, each by its median: PSNR on the small network, gain on the audited one."""
    return float(np.median(psnrs)) >= CONTROL and float(np.median(plain)) >= limit


def variation(picture: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels."""
    down, across = picture[..., 1:, :] - picture[..., :-1, :], picture[..., 1:] - picture[..., :-1]
    return down.abs().mean() + across.abs().mean()


def smoothed(picture: Tensor, weight: float = 0.1, steps: int = 100) -> Tensor:
    """The picture with its total variation lowered (Rudin, Osher, Fatemi 1992), by plain descent."""
    found = picture.double().clone().requires_grad_(True)
    descent = torch.optim.Adam([found], lr=0.01)
    for _ in range(steps):
        descent.zero_grad()
        value = (found - picture).square().mean() + weight * variation(found)
        torch.autograd.backward(value)
        descent.step()
    return found.detach().clamp(0, 1)


def psnr(found: Tensor, picture: Tensor) -> float:
    """In dB, of values in [0, 1]; 99 for equal pictures."""
    error = float((found.double() - picture.double()).square().mean())
    return min(99.0, -10 * math.log10(error)) if error else 99.0
