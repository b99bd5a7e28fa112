"""Content, style and total-variation loss; all are relative to their target but the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedstyle.perceptual.networks import FeatureNet

CONTENT_TAP = 1
"""The tap whose activations the content loss compares: the middle one (relu2_2 in VGG)."""


class _Gram(torch.autograd.Function):
    """Gram matrices of (N, C, P), with a gradient that uses their symmetry: autograd takes two products and a sum of the tap's size."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors
        both = (g + g.transpose(1, 2)) / flat.shape[2]
        return torch.bmm(flat.transpose(1, 2), both).transpose(1, 2)  # in this order, for taps that are stored channels last


def gram(tap: Tensor) -> Tensor:
    """Gram matrices (N, C, C) of a tap (N, C, H, W), divided by the number of positions so that size does not matter."""
    with torch.autocast(tap.device.type, enabled=False):  # in fp32: bfloat16 would round the sums to three digits
        matrices: Tensor = _Gram.apply(tap.flatten(2).float())
    return matrices


@dataclass(frozen=True)
class Losses:
    """Content, style and total-variation loss, and their weighted total; scalars, or one value an image."""

    content: Tensor
    style: Tensor
    total: Tensor

    def numbers(self) -> dict[str, float]:
        """The means as plain numbers."""
        return {key: float(getattr(self, key).detach().mean()) for key in ("content", "style", "total")}


@dataclass(frozen=True)
class Objective:
    """What a filter is trained to reach: total = content weight x content + style weight x style + tv weight x tv.

    `targets` are the style image's Gram matrices, one (C, C) a tap.
    """

    features: FeatureNet
    targets: tuple[Tensor, ...]
    content_weight: float = 1.0
    style_weight: float = 1.0
    layers: tuple[float, ...] = (1.0, 1.0, 1.0)
    tv_weight: float = 0.0

    def content_features(self, x: Tensor) -> Tensor:
        """The content tap of photos (N, 3, H, W)."""
        tap: Tensor = self.features(x, CONTENT_TAP + 1)[CONTENT_TAP]
        return tap

    def __call__(self, y: Tensor, content: Tensor) -> Losses:
        """Losses of stylised images `y`, one value an image, against the content tap of their photos."""
        taps = self.features(y)
        change = (taps[CONTENT_TAP] - content).square().sum((1, 2, 3)) / content.square().sum((1, 2, 3)).clamp_min(1e-8)
        terms = [
            weight * (gram(tap) - target).square().sum((1, 2)) / target.square().sum().clamp_min(1e-8)
            for tap, target, weight in zip(taps, self.targets, self.layers, strict=True)
            if weight
        ]
        style = torch.stack(terms).sum(0) / sum(self.layers)
        total = self.content_weight * change + self.style_weight * style
        if self.tv_weight:
            total = total + self.tv_weight * total_variation(y)
        return Losses(change, style, total)


def total_variation(y: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, one value an image."""
    down, across = y[..., 1:, :] - y[..., :-1, :], y[..., 1:] - y[..., :-1]
    return torch.add(down.square().mean((1, 2, 3)), across.square().mean((1, 2, 3)))
