"""VGG-16 with fewer channels: what the next version of `tiny` is to be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle import params
from fedstyle.perceptual import FeatureNet

DEPTHS = (2, 2, 3)
"""VGG-16's convolutions up to each tap."""
RANKS = (48, 64, 96)
"""Directions of VGG's taps that the heads give."""


class PrunedStage(nn.Module):
    """VGG's convolutions up to a tap, with fewer channels; the head reads VGG's own tap, pooled by 2, off them."""

    def __init__(self, channels: Sequence[int], rank: int) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in itertools.pairwise(channels))
        self.head = nn.Conv2d(channels[-1], rank, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, channels, H, W); the head is applied by the network."""
        for conv in self.body:
            x = F.relu_(conv(x))
        return x


class PrunedNet(FeatureNet):
    """VGG-16 with fewer channels, at VGG's own sizes; taps are VGG's, pooled by 2, in a rotated frame of lower rank."""

    def forward(self, x: Tensor, depth: int = 3) -> list[Tensor]:
        """The first `depth` taps of a batch of images."""
        taps = []
        x = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        for stage, scale in zip(self.stages[:depth], self.scales, strict=False):
            assert isinstance(stage, PrunedStage)
            x = stage(x if not taps else F.max_pool2d(x, 2))
            taps.append(stage.head(F.avg_pool2d(x, 2)) * scale)
        return taps


def pruned_network(plan: Sequence[int]) -> PrunedNet:
    """The network without its weights; `plan` has the channels of the seven convolutions."""
    channels = [3, *plan]
    ends = [0, *itertools.accumulate(DEPTHS)]
    stages = [PrunedStage(channels[a : b + 1], rank) for (a, b), rank in zip(itertools.pairwise(ends), RANKS, strict=True)]
    return PrunedNet("tiny", stages).to(memory_format=torch.channels_last)


def load(path: Path) -> PrunedNet:
    """A network of which prune.py wrote the weights."""
    weights = params.load(path)
    found = [weights[f"stages.{stage}.body.{conv}.weight"].shape[0] for stage, depth in enumerate(DEPTHS) for conv in range(depth)]
    net = pruned_network(found)
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net
