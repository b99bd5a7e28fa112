"""Norms predicted from the style image, so that a base gives a filter at zero iterations (Ghiasi et al. 2017, arXiv:1705.06830).

A small network reads a style's *code*, the mean and deviation of each channel of the feature network's taps, and gives an offset to every
instance-norm scale and shift. It is part of a base; the code, like the style image, stays on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedstyle.net import TransformNet, is_norm
from fedstyle.perceptual import FeatureNet, gram
from fedstyle.threads import threads

PREFIX = "predictor."
HIDDEN = 64
"""Units between code and norms."""
FAMILIES = ("brush", "points", "marble", "mosaic", "watercolour")
"""The painters on whose pictures codes are measured, so that they can be brought to mean 0 and deviation 1."""
PARTS = (0.7, 0.85)
"""Sides of a style image's parts that are read beside the whole, as shares of its shorter side."""
LARGEST = 3.0
"""A code's entries are cut off at so many deviations: a strange style must not drive the norms astray."""


def is_predictor(name: str) -> bool:
    """Whether a parameter belongs to the predictor."""
    return name.startswith(PREFIX)


def is_constant(name: str) -> bool:
    """Whether a parameter was measured once and is never trained."""
    return name in (f"{PREFIX}centre", f"{PREFIX}spread")


@dataclass(frozen=True)
class Look:
    """What a feature network sees in a style image: Gram matrices (C, C), one a tap, and the code, a vector."""

    targets: tuple[Tensor, ...]
    code: Tensor


@torch.no_grad()
def look_at(features: FeatureNet, pixels: Tensor, reader: FeatureNet | None = None) -> Look:
    """The look of a style image (1, 3, H, W) in [0, 1]; `reader` makes the code where another network sets the targets."""
    pixels = pixels.to(features.scales.device)
    taps = features(pixels)
    read = taps if reader is None or reader is features else reader(pixels)
    moments = [part for tap in read for part in (tap.mean((0, 2, 3)), tap.var((0, 2, 3)).sqrt())]
    return Look(tuple(gram(tap)[0] for tap in taps), torch.cat(moments))


@torch.no_grad()
def read_style(reader: FeatureNet, pixels: Tensor) -> Tensor:
    """The code (K,) that a filter begins from: the mean over a style image (1, 3, H, W), its mirror image and its corners.

    A single code tells of one layout, too; of ten layouts the mean keeps what they have in common, and norms are nearer from it.
    """
    pixels = pixels.to(reader.scales.device)
    height, width = pixels.shape[-2:]
    views = [pixels, pixels.flip(-1)]
    for share in PARTS:
        edge = max(32, int(share * min(height, width)) // 8 * 8)
        if edge < min(height, width):
            views += [pixels[..., y : y + edge, x : x + edge] for y in (0, height - edge) for x in (0, width - edge)]
    return torch.stack([look_at(reader, view).code for view in views]).mean(0)


def variants(pixels: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """Pictures in the manner of a style image (1, 3, H, W): parts of it, mirrored, rescaled, recoloured; each (1, 3, side, side).

    They teach a predictor what changes with a palette and what with a stroke, where few styles are at hand.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(count):
        picture = pixels[:, torch.randperm(3, generator=generator)] if draw(0, 1) < 0.5 else pixels
        height, width = picture.shape[-2:]
        edge = min(int(draw(160, 256)), height, width)
        top, left = int(draw(0, height - edge + 0.999)), int(draw(0, width - edge + 0.999))
        picture = picture[..., top : top + edge, left : left + edge]
        side = max(32, int(edge * draw(0.8, 1.2)) // 8 * 8)
        picture = F.interpolate(picture, size=(side, side), mode="bilinear", antialias=True)
        if draw(0, 1) < 0.5:
            picture = picture.flip(-1)
        if draw(0, 1) < 0.5:
            gain = 0.7 + 0.6 * torch.rand(1, 3, 1, 1, generator=generator)
            picture = (picture - 0.5) * gain + 0.5 + draw(-0.1, 0.1)
        yield picture.clamp(0, 1)


class Predictor(nn.Module):
    """From a code (K,) to offsets (M,) of all norms; without training it gives zeros."""

    def __init__(self, code: int, norms: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(code), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(code), requires_grad=False)
        self.hidden = nn.Linear(code, HIDDEN)
        self.out = nn.Linear(HIDDEN, norms)

    def read(self, code: Tensor) -> Tensor:
        """A code as the first layer sees it: mean 0 and deviation 1 over painted styles, cut off at LARGEST."""
        return ((code - self.centre) / self.spread).clamp(-LARGEST, LARGEST)

    def forward(self, code: Tensor) -> Tensor:
        """The offsets."""
        offsets: Tensor = self.out(torch.tanh(self.hidden(self.read(code))))
        return offsets


class PredictiveNet(TransformNet):
    """A transform network with a predictor of its norms; without a code it is a plain one."""

    def __init__(self, arch: str, padding: str, *, width: int | None = None, code: int) -> None:
        super().__init__(arch, padding, width=width)
        norms = sum(value.numel() for name, value in self.named_parameters() if is_norm(name))
        self.predictor = Predictor(code, norms)

    def norms(self, code: Tensor) -> dict[str, Tensor]:
        """Every norm parameter by name, as predicted for a style."""
        own = {name: value for name, value in self.named_parameters() if is_norm(name)}
        offsets = self.predictor(code).split([value.numel() for value in own.values()])
        return {name: value + offset for (name, value), offset in zip(own.items(), offsets, strict=True)}

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """Stylise (N, 3, H, W); with a code in the style that it stands for."""
        if code is None:
            return super().forward(x)
        y: Tensor = functional_call(self, self.norms(code), (x,))
        return y


def new_predictor(net: TransformNet, features: FeatureNet, seed: int) -> dict[str, Tensor]:
    """A predictor for this network, by parameter name, drawn from `seed` alone: offsets of zero, codes measured on painted styles.

    One thread measures, for the bits of a sum depend on their number.
    """
    from fedstyle.paint import paint

    codes = []
    with threads(1):
        for family in FAMILIES:
            for variant in range(4):
                picture = torch.frombuffer(bytearray(paint(family, side=192, seed=variant).tobytes()), dtype=torch.uint8)
                codes.append(look_at(features, picture.view(1, 192, 192, 3).permute(0, 3, 1, 2).float() / 255).code)
    measured = torch.stack(codes)
    norms = sum(value.numel() for name, value in net.named_parameters() if is_norm(name))
    predictor = Predictor(measured.shape[1], norms)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(measured.shape[1])
    with torch.no_grad():
        predictor.centre.copy_(measured.mean(0))
        predictor.spread.copy_(measured.std(0) + 0.05)
        predictor.hidden.weight.copy_(torch.rand(predictor.hidden.weight.shape, generator=generator) * 2 * bound - bound)
        for value in (predictor.hidden.bias, predictor.out.weight, predictor.out.bias):
            value.zero_()
    return {f"{PREFIX}{name}": value.detach() for name, value in predictor.named_parameters()}
