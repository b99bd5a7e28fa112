"""Convolutions of any size and stride, with a faster gradient of their weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fedstyle.fast.layout import from_planes, pad, to_planes

COLUMNS = 2**19
"""Numbers of a block of gathered neighbourhoods."""


def _weight_slope(x: Tensor, g: Tensor, kernel: int, stride: int) -> Tensor:
    """The gradient (outputs, inputs, k, k) of a convolution's weight, from its padded input and its output's gradient, in products of
    gathered neighbourhoods: torch's own takes 2 to 5 times as long with channels last in fp32.
    """
    h, w, outputs = g.shape
    inputs = x.shape[2]
    swap = stride == 1 and outputs < inputs  # gather around whichever has fewer channels
    if swap:
        k = kernel - 1
        near, far = F.pad(g, (0, 0, k, k, k, k)), x
        h, w = x.shape[:2]
    else:
        near, far = x.contiguous(), g
    few = near.shape[2]
    total = x.new_zeros(kernel * kernel * few, far.shape[2])
    rows = max(1, COLUMNS // (w * kernel * kernel * few))
    across, pixel = near.stride()[:2]
    for row in range(0, h, rows):
        count = min(rows, h - row)
        shape, strides = (count, w, kernel, kernel, few), (stride * across, stride * pixel, across, pixel, 1)
        columns = near.as_strided(shape, strides, near.storage_offset() + row * stride * across).reshape(count * w, -1)
        total.addmm_(columns.t(), far[row : row + count].reshape(count * w, -1))
    slope = total.view(kernel, kernel, few, far.shape[2])
    return slope.flip(0, 1).permute(2, 3, 0, 1) if swap else slope.permute(3, 2, 0, 1)


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        weight = weight.to(x.dtype, memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return from_planes(F.conv2d(to_planes(x), weight, stride=stride))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = g.contiguous()
        slope = weight_slope = None
        if ctx.needs_input_grad[0]:
            slope = from_planes(_slopes(x, g, weight, ctx.stride, [True, False, False])[0])
        if ctx.needs_input_grad[1]:
            if x.dtype == torch.bfloat16:
                weight_slope = _slopes(x, g, weight, ctx.stride, [False, True, False])[1].float()
            else:
                weight_slope = _weight_slope(x, g, weight.shape[2], ctx.stride)
        return slope, weight_slope, None


def _slopes(x: Tensor, g: Tensor, weight: Tensor, stride: int, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's own gradients of a convolution: of its input, its weight and its bias."""
    how = ([stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, wanted)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(to_planes(g), to_planes(x), weight, None, *how)
    return found


def correlate(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """The convolution (outputs, inputs, k, k) of a picture (H, W, C) as it is, with no margin added."""
    y: Tensor = _Correlate.apply(x, weight, stride)
    return y


def convolve(x: Tensor, weight: Tensor, stride: int, mode: str) -> Tensor:
    """A convolution (outputs, inputs, k, k) of a picture (H, W, C) with k//2 pixels around it."""
    return correlate(pad(x[:, :, None, None], weight.shape[2] // 2, mode)[:, :, 0, 0], weight, stride)
