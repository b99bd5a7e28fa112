"""3x3 convolutions of stride 1 by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fedstyle.fast.convolution import convolve
from fedstyle.fast.layout import fold, surround

TILES = 300_000
"""Numbers of a block of transformed tiles: what fits the caches."""


def _cook(a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """Winograd's matrices A (4, 6), G (6, 3), B (6, 6) for the points 0, ±a, ±b and infinity: A ((G g) * (B d)) is the correlation."""
    points = [0.0, a, -a, b, -b]
    forth, kernel, back = (torch.zeros(shape, dtype=torch.float64) for shape in ((4, 6), (6, 3), (6, 6)))

    def product(roots: list[float]) -> Tensor:
        """Coefficients of the polynomial with these roots, the constant first."""
        total = torch.ones(1, dtype=torch.float64)
        for root in roots:
            total = F.pad(total, (1, 0)) - root * F.pad(total, (0, 1))
        return total

    for i, point in enumerate(points):
        rest = [other for other in points if other != point]
        scale = 1.0
        for other in rest:
            scale *= point - other
        forth[:, i] = point ** torch.arange(4, dtype=torch.float64)
        kernel[i] = forth[:3, i] / scale
        back[i, :5] = product(rest)
    forth[3, 5] = kernel[5, 2] = 1.0
    back[5] = product(points)
    return forth, kernel, back


@functools.cache
@torch.inference_mode(False)  # the constants outlive the call that made them, which may not be one that trains
def _winograd() -> tuple[Tensor, Tensor, Tensor]:
    """A, G, B for both axes at once, of shape (16, 36), (36, 9), (36, 36)."""
    forth, kernel, back = (torch.kron(m, m).float().contiguous() for m in _cook(2 / 3, 3 / 2))
    return forth, kernel, back


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, mode: str) -> Tensor:
        forth, kernel, back = _winograd()
        h, w, inputs = x.shape
        outputs = weight.shape[0]
        down, across = -(-h // 4), -(-w // 4)
        padded = surround(x[:, :, None, None], 1, mode, below=4 * down - h, right=4 * across - w)[:, :, 0, 0]
        filters = (kernel @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, inputs, outputs)
        y = x.new_empty(down, 4, across, 4, outputs)
        rows = max(1, TILES // (36 * across * max(inputs, outputs)))
        for row in range(0, down, rows):
            tiles = _tiles(padded, row, min(rows, down - row), across, 6)
            products = torch.bmm((back @ tiles).view(36, -1, inputs), filters)
            y[row : row + rows] = (forth @ products.view(36, -1)).view(4, 4, -1, across, outputs).permute(2, 0, 3, 1, 4)
        ctx.save_for_backward(padded if ctx.needs_input_grad[1] else None, filters if ctx.needs_input_grad[0] else None)
        ctx.how = mode, h, w, inputs, outputs
        y = y.view(4 * down, 4 * across, outputs)
        return y if y.shape[:2] == (h, w) else y[:h, :w].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        forth, kernel, back = _winograd()
        padded, filters = ctx.saved_tensors
        mode, h, w, inputs, outputs = ctx.how
        down, across = -(-h // 4), -(-w // 4)
        if (h, w) != (4 * down, 4 * across):
            g = F.pad(g, (0, 0, 0, 4 * across - w, 0, 4 * down - h))
        g = g.contiguous()
        slope = filter_slope = None
        if filters is not None:
            slope = g.new_zeros(down + 1, 4, across + 1, 4, inputs)
        if padded is not None:
            filter_slope = g.new_zeros(36, inputs, outputs)
        rows = max(1, TILES // (36 * across * max(inputs, outputs)))
        for row in range(0, down, rows):
            count = min(rows, down - row)
            products = (forth.t() @ _tiles(g, row, count, across, 4)).view(36, -1, outputs)
            if filter_slope is not None:
                tiles = (back @ _tiles(padded, row, count, across, 6)).view(36, -1, inputs)
                filter_slope.baddbmm_(tiles.transpose(1, 2), products)
            if slope is not None and filters is not None:
                tiles = back.t() @ torch.bmm(products, filters.transpose(1, 2)).view(36, -1)
                tiles = tiles.view(6, 6, count, across, inputs).permute(2, 0, 3, 1, 4)  # a tile overlaps the next ones by two pixels
                for rows_to, i in ((slice(row, row + count), slice(4)), (slice(row + 1, row + count + 1), slice(4, 6))):
                    for columns_to, j in ((slice(across), slice(4)), (slice(1, None), slice(4, 6))):
                        part = tiles[:, i, :, j]
                        slope[rows_to, : part.shape[1], columns_to, : part.shape[3]] += part
        if slope is not None:
            slope = slope.view(4 * down + 4, 4 * across + 4, 1, 1, inputs)[: h + 2, : w + 2]
            slope = fold(slope, 1, mode)[:, :, 0, 0].contiguous()
        if filter_slope is not None:
            filter_slope = (kernel.t() @ filter_slope.view(36, -1)).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        return slope, filter_slope, None


def _tiles(x: Tensor, row: int, rows: int, across: int, side: int) -> Tensor:
    """Tiles of side x side pixels, every 4 pixels, as (side * side, tiles * channels)."""
    down, pixel, _ = x.stride()
    shape, strides = (side, side, rows, across, x.shape[2]), (down, pixel, 4 * down, 4 * pixel, 1)
    return x.as_strided(shape, strides, x.storage_offset() + 4 * row * down).reshape(side * side, -1)


def convolve3(x: Tensor, weight: Tensor, mode: str) -> Tensor:
    """A 3x3 convolution of stride 1 of a picture (H, W, C) with a pixel around it, by Winograd's filtering; of bfloat16 a plain one."""
    if x.dtype == torch.bfloat16:
        return convolve(x, weight, 1, mode)
    y: Tensor = _Winograd.apply(x, weight, mode)
    return y
