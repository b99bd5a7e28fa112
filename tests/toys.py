"""A network with two parameters and an objective that a person can work out by hand."""

import torch
from torch import nn

from fedstyle.config import Training
from fedstyle.perceptual import Losses
from fedstyle.training import Task

CONV, NORM = "layer.conv.weight", "layer.norm.weight"
FIRST, LAST = "down1.conv.weight", "out.conv.weight"


class Two(nn.Module):
    """y = w x + b, where w counts as a convolution (`layer.conv.weight`) and b as a norm (`layer.norm.weight`)."""

    def __init__(self, w=1.0, b=0.5):
        super().__init__()
        self.layer = nn.Module()
        self.layer.conv, self.layer.norm = nn.Module(), nn.Module()
        self.layer.conv.weight = nn.Parameter(torch.tensor([w]))
        self.layer.norm.weight = nn.Parameter(torch.tensor([b]))

    def forward(self, x):
        return x * self.layer.conv.weight + self.layer.norm.weight

    @property
    def values(self):
        return [float(value.detach()) for value in (self.layer.conv.weight, self.layer.norm.weight)]


class Ends(nn.Module):
    """y = w x + b, where w counts as the network's first layer (`down1.conv.weight`) and b as its last (`out.conv.weight`)."""

    def __init__(self, w=1.0, b=0.5):
        super().__init__()
        self.down1, self.out = nn.Module(), nn.Module()
        self.down1.conv, self.out.conv = nn.Module(), nn.Module()
        self.down1.conv.weight = nn.Parameter(torch.tensor([w]))
        self.out.conv.weight = nn.Parameter(torch.tensor([b]))

    def forward(self, x):
        return x * self.down1.conv.weight + self.out.conv.weight

    @property
    def values(self):
        return [float(value.detach()) for value in (self.down1.conv.weight, self.out.conv.weight)]


class Ones:
    """Content whose every batch is two images of one pixel, 1.0, with 0.0 as content features."""

    def batch(self, size, seed):
        return torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)


class Coins:
    """Content whose batches are normal numbers drawn by the seed."""

    def batch(self, size, seed):
        return torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(seed)), torch.zeros(2, 1, 1, 1)


def square(y, content):
    """Loss y² an image; all of it is called content."""
    loss = (y - content).square().flatten(1).mean(1)
    return Losses(loss, torch.zeros_like(loss), loss)


def toy_task(content=None, *, objective=square, warmup=2, seed=0, proximal=0.0, **training):
    return Task(content or Ones(), objective, Training(warmup=warmup, **training), seed, proximal)
