"""How a picture lies in memory, and the margins around it.

Modes are those of `torch.nn.functional.pad`: `reflect` (about the border pixel), `replicate`, and `constant` for zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def to_planes(x: Tensor) -> Tensor:
    """(H, W, C) as (1, C, H, W) in the memory format channels last; nothing is copied."""
    return x[None].permute(0, 3, 1, 2)  # in this order, for a stride of the first axis that is no picture's would hide the format


def from_planes(x: Tensor) -> Tensor:
    """(1, C, H, W) as (H, W, C)."""
    return x[0].permute(1, 2, 0)


def _edges(x: Tensor, margin: int, mode: str) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a row or column in the margin of a picture in cells, and the one that it copies; columns after rows.

    Where cells are pixels, a pair is of two lines, one on either side: half as many operations, and the same sums in the same order.
    """
    step = x.shape[2]
    offset = -(-margin // step) * step
    pairs = []
    for axis in (0, 1):
        last = (x.shape[axis]) * step - offset - 1
        for p in range(1, margin + 1):
            inner = p if mode == "reflect" else 0
            if step == 1 and offset + inner < last - inner:
                ends = ((offset - p, last + p), (offset + inner, last - inner))
                margins, copied = (x[(slice(None),) * axis + (slice(a, b + 1, b - a),)] for a, b in ends)
                pairs.append((margins, copied))
                continue
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


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, margin: int, mode: str) -> Tensor:
        ctx.how = margin, mode
        return surround(x, margin, mode)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        margin, mode = ctx.how
        return fold(g.clone(), margin, mode).contiguous(), None, None


def pad(x: Tensor, margin: int, mode: str) -> Tensor:
    """`surround` with a gradient."""
    y: Tensor = _Pad.apply(x, margin, mode)
    return y
