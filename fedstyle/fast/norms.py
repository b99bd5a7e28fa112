"""Instance normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedstyle.fast.layout import from_planes, to_planes

LARGE = 1 << 19
"""Pixels from which moments are taken with care: PyTorch's channels-last kernel adds them up in single precision without compensation,
which on a picture of 5 megapixels turned colours by up to 75 of 255 levels."""


class _Norm(torch.autograd.Function):
    """Batch normalisation of a batch of one, which is instance normalisation, and a ReLU; torch has a fast kernel for channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        flat = x.view(x.shape[0], -1, weight.numel())
        if flat.shape[0] * flat.shape[1] > LARGE:
            variance, mean = torch.var_mean(flat.float(), (0, 1), correction=0)
            scale = (variance + 1e-5).rsqrt()
            y = torch.addcmul(bias - mean * scale * weight, flat.float(), scale * weight).view(x.shape).to(x.dtype)
        else:
            y, mean, scale = torch.native_batch_norm(to_planes(flat), weight, bias, None, None, True, 0.0, 1e-5)
            y = from_planes(y).view(x.shape)
        if relu:
            y.relu_()
        ctx.save_for_backward(flat, weight, mean, scale, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, mean, scale, y = ctx.saved_tensors
        g = g.contiguous()
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        how = (None, None, mean, scale, True, 1e-5, list(ctx.needs_input_grad[:3]))
        slope, *rest = torch.ops.aten.native_batch_norm_backward(to_planes(g.view(flat.shape)), to_planes(flat), weight, *how)
        return None if slope is None else from_planes(slope).view(g.shape), *rest, None  # none where only norms are trained


def norm(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """Instance normalisation of a picture (H, W, C), also in cells, then a ReLU or none."""
    y: Tensor = _Norm.apply(x, weight, bias, relu)
    return y
