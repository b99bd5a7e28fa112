"""The frozen feature networks without their weights: VGG-16 and VGG-19 up to the third tap, and fedstyle's own `tiny`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle.threads import threads

# Indices into torchvision's `features` of the ReLUs that are tapped, fine to coarse, and the convolutions up to the last of them.
_VGG_TAPS = {"vgg16": (3, 8, 15), "vgg19": (3, 8, 17)}
_VGG_PLAN: dict[str, tuple[int | str, ...]] = {
    "vgg16": (64, 64, "pool", 128, 128, "pool", 256, 256, 256),
    "vgg19": (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256),
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNet(nn.Module):
    """A frozen network that turns (N, 3, H, W) RGB in [0, 1] into three taps, fine to coarse, each of root mean square 1.

    The taps are scaled by constants measured on fixed procedural images (`calibrate`), never on a user's.
    """

    scales: Tensor

    def __init__(self, name: str, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.stages = nn.ModuleList(stages)
        self.register_buffer("scales", torch.ones(len(stages)))
        self.requires_grad_(False)

    def forward(self, x: Tensor, depth: int = 3) -> list[Tensor]:
        """The first `depth` taps of a batch of images."""
        taps = []
        for stage, scale in zip(self.stages[:depth], self.scales, strict=False):
            x = stage(x)
            taps.append(x * scale)
        return taps


def procedural_images(side: int = 128) -> Tensor:
    """Four fixed images (4, 3, side, side) in [0, 1]: ramps, colour waves, noise at several scales, and hard edges."""
    generator = torch.Generator().manual_seed(20161116)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    ramps = torch.stack([x, y, (x + y) / 2])
    waves = torch.stack([torch.sin(6.283 * (f * x + g * y)) / 2 + 0.5 for f, g in ((3, 1), (7, 5), (2, 11))])
    noise = torch.zeros(3, side, side)
    for cells in (4, 16, 64):
        grid = torch.rand(1, 3, cells, cells, generator=generator)
        noise += F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)[0] / 3
    edges = ((x * 6).floor() + (y * 6).floor()).remainder(2).expand(3, -1, -1) * torch.tensor([0.9, 0.5, 0.2])[:, None, None]
    return torch.stack([ramps, waves, noise, edges])


@torch.no_grad()
def calibrate(net: FeatureNet) -> FeatureNet:
    """Scale each tap to a root mean square of 1 on the procedural images; on one thread, for the sums' bits depend on their number."""
    with threads(1):
        net.scales.fill_(1.0)
        for index, tap in enumerate(net(procedural_images())):
            net.scales[index] = 1 / tap.square().mean().sqrt()
    return net


class _Normalise(nn.Module):
    """Shift and scale RGB in [0, 1] as the VGG networks expect it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]


def vgg_network(name: str) -> FeatureNet:
    """A VGG network up to its third tap, without weights; its parameters bear torchvision's names `features.N.weight`."""
    layers: list[nn.Module] = []
    channels = 3
    for step in _VGG_PLAN[name]:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU(inplace=True)]
            channels = step
    starts = (0, *(tap + 1 for tap in _VGG_TAPS[name]))
    stages = [nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise(starts)]
    stages[0].insert(0, _Normalise())
    return FeatureNet(name, stages)


def vgg_layers(net: FeatureNet) -> list[nn.Module]:
    """A VGG network's layers in torchvision's order."""
    return [layer for stage in net.stages for layer in stage.children() if not isinstance(layer, _Normalise)]


class TinyStage(nn.Module):
    """VGG-16's convolutions up to a tap, with few channels; a 1x1 head reads VGG's tap off them, pooled by 2."""

    def __init__(self, channels: Sequence[int], rank: int) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in itertools.pairwise(channels))
        self.head = nn.Conv2d(channels[-1], rank, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, channels, H, W); the head is applied by the network."""
        for conv in self.body:
            x = F.relu_(conv(x))
        return x


class TinyNet(FeatureNet):
    """The embedded network: VGG-16 pruned to few channels; each head gives VGG's tap in a rotated frame of lower rank, at half its size."""

    def forward(self, x: Tensor, depth: int = 3) -> list[Tensor]:
        """The first `depth` taps of a batch of images."""
        taps: list[Tensor] = []
        x = (2 * x - 1).contiguous(memory_format=torch.channels_last)  # a sixth faster on a CPU: convolutions need no repacking
        for stage, scale in zip(self.stages[:depth], self.scales, strict=False):
            assert isinstance(stage, TinyStage)
            x = stage(F.max_pool2d(x, 2) if taps else x)
            taps.append(stage.head(F.avg_pool2d(x, 2)) * scale)
        return taps


_TINY_CHANNELS, _TINY_DEPTHS, _TINY_RANKS = (16, 16, 32, 48, 64, 48, 96), (2, 2, 3), (48, 64, 96)


def tiny_network(channels: Sequence[int] = _TINY_CHANNELS) -> TinyNet:
    """The network `tiny` without its weights: seven convolutions, of which 48, 64 and 96 principal directions of VGG-16's taps are read."""
    plan, ends = (3, *channels), (0, *itertools.accumulate(_TINY_DEPTHS))
    stages = [TinyStage(plan[a : b + 1], rank) for (a, b), rank in zip(itertools.pairwise(ends), _TINY_RANKS, strict=True)]
    return TinyNet("tiny", stages).to(memory_format=torch.channels_last)
