"""The transform network's layers as a CPU computes them fastest: one picture at a time, channels last, in fp32.

A picture is a tensor (H, W, C), or in *cells* of s x s pixels, (H/s, W/s, s, s, C). One picture at a time keeps the numbers in the
processor's cache, and each function gives what the plain operators of `net` give but for rounding:

- 3x3 convolutions take Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016): 36 products a tile of 16 pixels instead of 144.
- A doubling of the size and a 3x3 convolution are, for each of the four pixels of a cell, one 2x2 convolution of the small picture.
- A convolution to 3 channels fills 3 of 8 lanes of a vector unit; on cells it has 12.
- A convolution's bias before a norm has no effect and is left out; its gradient is zero.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILES = 300_000
"""Numbers of a block of transformed tiles: what fits the caches."""
COLUMNS = 2**19
"""Numbers of a block of gathered neighbourhoods."""


def usable(x: Tensor) -> bool:
    """Whether pictures (N, C, H, W) are of the kind that these functions are for."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def to_planes(x: Tensor) -> Tensor:
    """(H, W, C) as (1, C, H, W) in the memory format channels last; nothing is copied."""
    return x[None].permute(0, 3, 1, 2)  # in this order, for a stride of the first axis that is no picture's would hide the format


def from_planes(x: Tensor) -> Tensor:
    """(1, C, H, W) as (H, W, C)."""
    return x[0].permute(1, 2, 0)


class _Norm(torch.autograd.Function):
    """Batch normalisation of a batch of one, which is instance normalisation, and a ReLU; torch has a fast kernel for channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        flat = x.view(x.shape[0], -1, weight.numel())
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


def _edges(x: Tensor, margin: int, mode: str) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a row or column in the margin of a picture in cells, and the one that it copies; columns after rows."""
    step = x.shape[2]
    offset = -(-margin // step) * step
    pairs = []
    for axis in (0, 1):
        last = (x.shape[axis]) * step - offset - 1
        for p in range(1, margin + 1):
            inner = p if mode == "reflect" else 0
            for to, source in ((offset - p, offset + inner), (last + p, last - inner)):
                lines = [x.select(axis, place // step).select(axis + 1, place % step) for place in (to, source)]
                pairs.append((lines[0], lines[1]))
    return pairs


def surround(x: Tensor, margin: int, mode: str, *, right: int = 0, below: int = 0) -> Tensor:
    """A picture in cells with `margin` pixels around it, rounded up to whole cells; `right` and `below` add columns and rows of zeros."""
    h, w, s, _, c = x.shape
    k = -(-margin // s)
    whole = mode != "constant" and k * s == margin and not right and not below
    buffer = (x.new_empty if whole else x.new_zeros)(h + 2 * k + below, w + 2 * k + right, s, s, c)
    inner = buffer[: h + 2 * k, : w + 2 * k]
    inner[k : k + h, k : k + w] = x
    if mode != "constant":
        for to, source in _edges(inner, margin, mode):
            to.copy_(source)
    return buffer


def fold(g: Tensor, margin: int, mode: str) -> Tensor:
    """The transpose of `surround`, for gradients; `g` is overwritten."""
    k = -(-margin // g.shape[2])
    if mode != "constant":
        for to, source in reversed(_edges(g, margin, mode)):
            source.add_(to)
    return g[k : g.shape[0] - k, k : g.shape[1] - k]


class _Surround(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, margin: int, mode: str) -> Tensor:
        ctx.how = margin, mode
        return surround(x, margin, mode)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        margin, mode = ctx.how
        return fold(g.clone(), margin, mode).contiguous(), None, None


def _weight_slope(x: Tensor, g: Tensor, kernel: int, stride: int) -> Tensor:
    """The gradient (outputs, inputs, k, k) of a convolution's weight, from its padded input and its output's gradient, in products of
    gathered neighbourhoods: torch's own takes 2 to 5 times as long with channels last.
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


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        weight = weight.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return from_planes(F.conv2d(to_planes(x), weight, stride=stride))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = g.contiguous()
        slopes: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            how = ([ctx.stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [True, False, False])
            slopes[0] = from_planes(torch.ops.aten.convolution_backward(to_planes(g), to_planes(x), weight, None, *how)[0])
        if ctx.needs_input_grad[1]:
            slopes[1] = _weight_slope(x, g, weight.shape[2], ctx.stride)
        return tuple(slopes)


def convolve(x: Tensor, weight: Tensor, stride: int, mode: str) -> Tensor:
    """A convolution (outputs, inputs, k, k) of a picture (H, W, C) with k//2 pixels around it."""
    padded = _Surround.apply(x[:, :, None, None], weight.shape[2] // 2, mode)
    y: Tensor = _Convolve.apply(padded[:, :, 0, 0], weight, stride)
    return y


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
        forth[:, i] = torch.tensor([point**k for k in range(4)])
        kernel[i] = torch.tensor([point**k / scale for k in range(3)])
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
    """A 3x3 convolution of stride 1 of a picture (H, W, C) with a pixel around it, by Winograd's filtering."""
    y: Tensor = _Winograd.apply(x, weight, mode)
    return y


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
    padded = _Surround.apply(x[:, :, None, None], 1, "constant" if mode == "constant" else "replicate")[:, :, 0, 0]
    y: Tensor = _Quarter.apply(_Convolve.apply(padded, quarters, 1), cells)
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
    padded = _Surround.apply(x, kernel // 2, mode).flatten(2)
    y: Tensor = _Convolve.apply(padded, spread, 1)
    return y.view(h, w, 2, 2, outputs) + bias
