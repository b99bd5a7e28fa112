"""A picture that is too large for the network in one piece, stylised in tiles that show no seam.

Two things tie a pixel of the network's output to the rest of the picture. Convolutions reach at most HALO pixels far, so every tile is
computed with so many pixels around it, which are cut off again. Instance norms reach everywhere: tiles that each had their own mean and
variance would differ in colour. So all tiles share those of the whole picture, which a first pass measures layer by layer: every tile's
features are brought to a layer, the layer's mean and variance are taken over all of them, and only then they go on to the next layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fedstyle.net import SMALLEST, STRIDE, Conv, Residual, TransformNet, double

HALO = 64
"""Pixels around a tile. Both networks reach less far: ten 3x3 convolutions at a quarter of the size make 40, the others at most 14."""
TILES = (512, 256, 128)
"""Sides of tiles in pixels; the largest for which the memory suffices is taken."""
FEWEST = 8
"""Tiles, at the least, over which means and variances are measured."""
FIXED = 32_000_000
"""Bytes that any work takes, whatever the picture's size: buffers of libraries, and holes in the heap."""


class NoRoomError(Exception):
    """The memory does not suffice even for small tiles; `bytes` would."""

    def __init__(self, least: int) -> None:
        super().__init__(f"{least} bytes are needed")
        self.bytes = least


@dataclass(frozen=True)
class Tile:
    """A part of a picture: where it lies, (left, top, right, bottom) in pixels, and the part with its surroundings."""

    box: tuple[int, int, int, int]
    around: tuple[int, int, int, int]

    def cut(self, x: Tensor) -> Tensor:
        """The tile's own part of features (1, C, H, W) of its surroundings, at whatever scale they are."""
        scale = x.shape[-1] / (self.around[2] - self.around[0])
        left, top, right, bottom = (
            round((edge - self.around[axis % 2]) * scale) for axis, edge in enumerate(self.box)
        )  # all edges are multiples of the network's stride
        return x[..., top:bottom, left:right]


def piece_bytes(net: TransformNet, width: int, height: int) -> int:
    """Memory that the network takes for a picture in one piece: measured, and rounded up."""
    return FIXED + max(20 * net.width, 160) * max(width, SMALLEST) * max(height, SMALLEST)


def _tile_bytes(net: TransformNet, side: int) -> tuple[int, int]:
    """Memory for the work on one tile, and for what is kept of each tile between layers."""
    edge = side + 2 * HALO
    return 32 * net.width * edge * edge, 2 * net.width * edge * edge


def tiles(width: int, height: int, side: int) -> list[Tile]:
    """A picture divided into tiles of at most `side`; width and height are multiples of 4.

    All are seen with surroundings of one shape, at the picture's edge more of them on the other side: memory that one tile gave back then
    fits the next, and the heap gets no holes.
    """
    columns, rows = _spans(width, side), _spans(height, side)
    return [
        Tile((left, top, right, bottom), (around_left, around_top, around_right, around_bottom))
        for (top, bottom), (around_top, around_bottom) in rows
        for (left, right), (around_left, around_right) in columns
    ]


def _spans(length: int, side: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """A length divided into about equal parts of at most `side`, each with the span around it; all edges are multiples of STRIDE."""
    count = -(-length // side)
    edges = [length // STRIDE * index // count * STRIDE for index in range(count + 1)]
    around = min(max(end - start for start, end in itertools.pairwise(edges)) + 2 * HALO, length)
    starts = [min(max(start - HALO, 0), length - around) for start in edges[:-1]]
    return [(span, (start, start + around)) for span, start in zip(itertools.pairwise(edges), starts, strict=True)]


def plan(net: TransformNet, width: int, height: int, room: int) -> tuple[list[Tile], int]:
    """The tiles of a picture, and over how many of them there is room to measure means and variances; raises NoRoomError."""
    width, height = (-(-length // STRIDE) * STRIDE for length in (width, height))
    for side in TILES:
        work, kept = _tile_bytes(net, side)
        parts = tiles(width, height, side)
        count = min(len(parts), int(room - FIXED - work) // kept)
        if count >= min(FEWEST, len(parts)):
            return parts, count
    raise NoRoomError(FIXED + work + kept * min(FEWEST, len(parts)))


@torch.inference_mode()
def paint(net: TransformNet, picture: Image.Image, room: int) -> Image.Image:
    """Stylise a picture (RGB) in tiles, in at most about `room` bytes beside the picture and the result; raises NoRoomError.

    The result is that of the network in one piece but for rounding, as long as the features of all tiles fit in the memory (about 50
    bytes a pixel for `cnnLite`, 100 for `cnn`). Otherwise means and variances are measured over as many tiles as fit, at least FEWEST,
    drawn with a fixed seed: the colours are then off from those of one piece, but everywhere alike.
    """
    parts, count = plan(net, *picture.size, room)
    sample = [parts[i] for i in sorted(np.random.default_rng(0).permutation(len(parts))[:count])]
    frozen = _measure(net, sample, lambda part: _pixels(picture, part))
    result = Image.new("RGB", picture.size)
    for part in parts:
        y = part.cut(frozen(_pixels(picture, part)))[0].permute(1, 2, 0)
        made = (y * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        result.paste(Image.fromarray(made), part.box[:2])  # what a margin added is outside
    return result


def _pixels(picture: Image.Image, part: Tile) -> Tensor:
    """A tile with its surroundings as (1, 3, H, W) in [0, 1]; beyond the picture its last rows and columns are repeated."""
    left, top, right, bottom = part.around
    seen = np.array(picture.crop((left, top, min(right, picture.width), min(bottom, picture.height))))
    x = torch.from_numpy(seen).permute(2, 0, 1)[None].float() / 255
    margin = (0, right - left - x.shape[3], 0, bottom - top - x.shape[2])
    return F.pad(x, margin, mode="replicate").contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Frozen:
    """The network with means and variances that are known: every norm is a scale and a shift a channel."""

    net: TransformNet
    norms: dict[Conv, tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor) -> Tensor:
        """Stylise (1, 3, H, W) in [0, 1]."""
        for conv in _downs(self.net):
            x = self.after(conv, convolve(conv, x))
        for block in _blocks(self.net):
            change = self.after(block.second, convolve(block.second, self.after(block.first, convolve(block.first, x))))
            x = x + change
        for conv in (self.net.up1, self.net.up2):
            x = self.after(conv, convolve(conv, x))
        return torch.sigmoid(convolve(self.net.out, x))

    def after(self, conv: Conv, x: Tensor) -> Tensor:
        """What follows a convolution: its norm and its ReLU; `x` is overwritten."""
        scale, shift = self.norms[conv]
        x = x.mul_(scale).add_(shift)
        return x.relu_() if conv.relu else x


def convolve(conv: Conv, x: Tensor) -> Tensor:
    """The doubling, padding and convolution of a layer, without its norm."""
    if conv.upsample:
        x = double(x, portable=True)
    weight = conv.conv.weight.contiguous(memory_format=torch.channels_last)
    return F.conv2d(F.pad(x, conv.margin, mode=conv.mode), weight, conv.conv.bias, conv.conv.stride)


def _downs(net: TransformNet) -> list[Conv]:
    return [conv for conv in (net.down1, net.down2, net.down3) if conv is not None]


def _blocks(net: TransformNet) -> Iterator[Residual]:
    for block in net.blocks:
        assert isinstance(block, Residual)
        yield block


def _measure(net: TransformNet, parts: list[Tile], load: Callable[[Tile], Tensor]) -> Frozen:
    """Freeze the network at the means and variances of these tiles together.

    Between layers only features at a quarter of the size are kept; those that are larger are computed again from there.
    """
    frozen = Frozen(net, {})
    downs, kept = _downs(net), [torch.empty(0)] * len(parts)
    for depth, conv in enumerate(downs):
        moments = _Moments()
        for place, part in enumerate(parts):
            x = load(part)
            for earlier in downs[:depth]:
                x = frozen.after(earlier, convolve(earlier, x))
            x = convolve(conv, x)
            moments.add(part.cut(x))
            if conv is downs[-1]:
                kept[place] = x
        frozen.norms[conv] = moments.norm(conv)
    kept = [frozen.after(downs[-1], x) for x in kept]
    inner = [torch.empty_like(x) for x in kept]  # all memory for features is taken here: what came and went by turns would leave holes
    for block in _blocks(net):
        for conv, source in ((block.first, kept), (block.second, inner)):
            moments = _Moments()
            for features, part, result in zip(source, parts, inner, strict=True):
                y = convolve(conv, features)
                moments.add(part.cut(y))
                result.copy_(y)
            frozen.norms[conv] = moments.norm(conv)
            for x in inner:
                frozen.after(conv, x)
        for x, change in zip(kept, inner, strict=True):
            x.add_(change)
    for conv in (net.up1, net.up2):
        moments = _Moments()
        for small, part in zip(kept, parts, strict=True):
            x = small if conv is net.up1 else frozen.after(net.up1, convolve(net.up1, small))
            moments.add(part.cut(convolve(conv, x)))
        frozen.norms[conv] = moments.norm(conv)
    return frozen


class _Moments:
    """Mean and variance a channel over tiles, joined as Chan, Golub and LeVeque do (1979), in double precision."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Take in features (1, C, H, W)."""
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        count, more = self.count, x.shape[2] * x.shape[3]
        away = mean.double() - self.mean
        total = count + more
        self.square = self.square + variance.double() * more + away * away * (count * more / total)
        self.mean = self.mean + away * (more / total)
        self.count = total

    def norm(self, conv: Conv) -> tuple[Tensor, Tensor]:
        """The scale and the shift, (1, C, 1, 1) each, that a layer's norm comes to."""
        assert conv.norm is not None
        scale = conv.norm.weight.double() / (self.square / self.count + 1e-5).sqrt()
        shift = conv.norm.bias.double() - self.mean * scale
        return scale.float()[None, :, None, None], shift.float()[None, :, None, None]
