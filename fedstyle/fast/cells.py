"""Convolutions to and from cells of 2 x 2 pixels: after a doubling of the size, and at the end of the network."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedstyle.fast.convolution import correlate
from fedstyle.fast.layout import pad


@functools.cache
@torch.inference_mode(False)  # the constants outlive the call that made them, which may not be one that trains
def _doubling() -> Tensor:
    """(16, 9): which of a 3x3 kernel's numbers add up to each number of the 2x2 kernels of a cell's four pixels."""
    along = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (pixel, tap of 2, tap of 3)
    return torch.einsum("apu,bqv->abpquv", along, along).reshape(16, 9)


class _Quarter(torch.autograd.Function):
    """(H + 1, W + 1, 4 C) to cells (H, W, 2, 2, C), or to pixels (H, 2, W, 2, C): pixel (a, b) of a cell lies a down and b to the right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cells: bool) -> Tensor:
        h, w, c = x.shape[0] - 1, x.shape[1] - 1, x.shape[2] // 4
        ctx.cells = cells
        y = x.new_empty((h, w, 2, 2, c) if cells else (h, 2, w, 2, c))
        for a, b, part in _quarters(y, cells):
            part.copy_(x.view(h + 1, w + 1, 2, 2, c)[a : a + h, b : b + w, a, b])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        quarters = _quarters(g, ctx.cells)
        h, w, c = quarters[0][2].shape
        slope = g.new_zeros(h + 1, w + 1, 2, 2, c)
        for a, b, part in quarters:
            slope[a : a + h, b : b + w, a, b] = part
        return slope.view(h + 1, w + 1, 4 * c), None


def _quarters(y: Tensor, cells: bool) -> list[tuple[int, int, Tensor]]:
    return [(a, b, y[:, :, a, b] if cells else y[:, a, :, b]) for a in (0, 1) for b in (0, 1)]


def double_and_convolve(x: Tensor, weight: Tensor, mode: str, *, cells: bool) -> Tensor:
    """Nearest upsampling by 2 and a 3x3 convolution: (H, W, inputs) to (2 H, 2 W, outputs), or to cells (H, W, 2, 2, outputs)."""
    outputs, inputs = weight.shape[:2]
    quarters = (weight.reshape(-1, 9) @ _doubling().t()).view(outputs, inputs, 4, 2, 2)
    quarters = quarters.permute(2, 0, 1, 3, 4).reshape(4 * outputs, inputs, 2, 2)
    # The doubled picture's reflection about its border pixel is a repetition of the small one's.
    padded = pad(x[:, :, None, None], 1, "constant" if mode == "constant" else "replicate")[:, :, 0, 0]
    y: Tensor = _Quarter.apply(correlate(padded, quarters), cells)
    return y if cells else y.view(2 * x.shape[0], 2 * x.shape[1], outputs)


@functools.cache
@torch.inference_mode(False)  # the constants outlive the call that made them, which may not be one that trains
def _spread(kernel: int) -> Tensor:
    """(4 n n 4, k k): the place of each number of a k x k kernel in the n x n kernel of cells, for each pixel of the output's cell."""
    margin = kernel // 2
    cells = -(-margin // 2)
    along = torch.zeros(2, 2 * cells + 1, 2, kernel)  # (output pixel, cell, pixel in it, tap)
    for pixel in (0, 1):
        for tap in range(kernel):
            place = pixel + tap - margin + 2 * cells
            along[pixel, place // 2, place % 2, tap] = 1.0
    n = 2 * cells + 1
    return torch.einsum("apxu,bqyv->abxypquv", along, along).reshape(16 * n * n, kernel * kernel)


def convolve_cells(x: Tensor, weight: Tensor, bias: Tensor, mode: str) -> Tensor:
    """A convolution of stride 1 of a picture in cells (H, W, 2, 2, inputs) to one in cells (H, W, 2, 2, outputs)."""
    h, w = x.shape[:2]
    outputs, inputs, kernel = weight.shape[:3]
    n = 2 * -(-(kernel // 2) // 2) + 1
    spread = (weight.reshape(-1, kernel * kernel) @ _spread(kernel).t()).view(outputs, inputs, 4, 4, n, n)
    spread = spread.permute(2, 0, 3, 1, 4, 5).reshape(4 * outputs, 4 * inputs, n, n)
    padded = pad(x, kernel // 2, mode).flatten(2)
    return correlate(padded, spread).view(h, w, 2, 2, outputs) + bias
