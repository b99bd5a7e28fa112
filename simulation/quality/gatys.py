"""Gatys' optimiser: L-BFGS on the pixels of one image, the lower bound of what a filter can reach under the same objective.

Gatys et al. 2016 match layers up to relu5_1; here the objective is fedstyle's own, whose feature networks end at relu3_3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedstyle.perceptual import Objective

CHUNK = 10
"""Iterations between two looks at whether the loss has come to rest."""
OUTSIDE = 100.0
"""What the mean squared distance of pixels from [0, 1] costs."""


def optimise(photo: Tensor, objective: Objective, most: int, tolerance: float = 0.01) -> tuple[Tensor, int]:
    """The image that descent from a photo (1, 3, H, W) in [0, 1] finds, and the number of L-BFGS iterations it took.

    It ends after `most` iterations, or once ten of them lowered the total loss by less than the share `tolerance`. Pixels are free on the
    way, at the price OUTSIDE, and clamped to [0, 1] at the end. Without that price a style of pure colours drives them far out, and the
    clamped image was half as bad again; a sigmoid of free values got as low, in twice the iterations.
    """
    with torch.no_grad():
        content = objective.content_features(photo)
    image = photo.clone().requires_grad_()
    lbfgs = torch.optim.LBFGS([image], history_size=20, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0)
    (group,) = lbfgs.param_groups

    best = float("inf")

    def loss() -> Tensor:
        nonlocal best
        lbfgs.zero_grad()
        total = objective(image, content).total.mean() + OUTSIDE * (image - image.clamp(0, 1)).square().mean()
        torch.autograd.backward(total)
        best = min(best, float(total.detach()))
        return total.detach()

    done, last = 0, float("inf")
    while done < most:
        group["max_iter"] = min(CHUNK, most - done)
        group["max_eval"] = 3 * group["max_iter"]
        lbfgs.step(loss)
        done = int(lbfgs.state[image]["n_iter"])
        if best >= (1 - tolerance) * last:
            break
        last = best
    return image.detach().clamp(0, 1), done
