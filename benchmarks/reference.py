"""What fedstyle is measured against, in plain torch, and how: pytorch/examples' fast neural style, procedural pictures, fair timing.

The network is Johnson's as pytorch/examples has it (32 channels, reflection padding, instance norm, nearest upsampling, output in 0..255);
the losses compare VGG-16's relu1_2, relu2_2, relu3_3 and relu4_3 (Gram matrices) and relu2_2 (content) by mean squared error.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = (3, 8, 15, 22)
"""Indices of relu1_2, relu2_2, relu3_3, relu4_3 in torchvision's `features`."""
PLAN = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512)


def layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Reflection padding and a convolution."""
    return [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, stride)]


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = layer(channels, channels, 3), layer(channels, channels, 3)
        norms = [nn.InstanceNorm2d(channels, affine=True) for _ in range(2)]
        self.change = nn.Sequential(*first, norms[0], nn.ReLU(), *second, norms[1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        return self.change(x) + x


def reference_net(width: int = 32) -> nn.Sequential:
    """The transform network: (N, 3, H, W) RGB in 0..255 to the same shape, unbounded."""
    w = width

    def norm(channels: int) -> list[nn.Module]:
        return [nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]

    def up(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2, mode="nearest"), *layer(inputs, outputs, 3), *norm(outputs)]

    down = [*layer(3, w, 9), *norm(w), *layer(w, 2 * w, 3, 2), *norm(2 * w), *layer(2 * w, 4 * w, 3, 2), *norm(4 * w)]
    return nn.Sequential(*down, *(Block(4 * w) for _ in range(5)), *up(4 * w, 2 * w), *up(2 * w, w), *layer(w, 3, 9))


class Vgg(nn.Module):
    """VGG-16 up to a tap; weights are random (timing does not depend on them) unless given under torchvision's names.

    With weights that end before relu4_3 the network ends there too.
    """

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in PLAN:
            if weights is not None and step != "pool" and f"features.{len(layers)}.weight" not in weights:
                break
            if isinstance(step, int):
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU(inplace=True)]
                channels = step
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        if weights is not None:
            self.load_state_dict({name: weights[name] for name in self.state_dict()})
        self.taps = tuple(tap for tap in TAPS if tap < len(layers))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The taps of images in 0..255."""
        x = (x / 255 - x.new_tensor([0.485, 0.456, 0.406])[:, None, None]) / x.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        found = []
        for index, step in enumerate(self.features[: self.taps[-1] + 1]):
            x = step(x)
            if index in self.taps:
                found.append(x)
        return found


def gram(tap: Tensor) -> Tensor:
    """Gram matrices over C x H x W."""
    flat = tap.flatten(2)
    return flat.bmm(flat.transpose(1, 2)) / tap[0].numel()


class Recipe:
    """The published training: Adam 1e-3 on all parameters, content features of each batch computed anew.

    `weights` are content and style weight: 1e5 and 1e10 for torchvision's VGG-16, whose activations are near 1; 1 and 5, those of Johnson's
    own code, for the original Caffe weights, whose activations are some 200 times as large (content goes with their square, Gram matrices
    with their fourth power).
    """

    def __init__(self, vgg: Vgg, style: Tensor, weights: tuple[float, float] = (1e5, 1e10), width: int = 32) -> None:
        self.net, self.vgg, (self.content, self.style) = reference_net(width), vgg, weights
        with torch.no_grad():
            self.targets = [gram(tap) for tap in vgg(style)]
        self.adam = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def step(self, photos: Tensor) -> None:
        """One iteration on photos (N, 3, H, W) in 0..255."""
        self.adam.zero_grad()
        y = self.net(photos)
        made, seen = self.vgg(y), self.vgg(photos)
        loss = self.content * F.mse_loss(made[1], seen[1])
        for tap, target in zip(made, self.targets, strict=True):
            loss = loss + self.style * F.mse_loss(gram(tap), target.expand(len(tap), -1, -1))
        loss.backward()
        self.adam.step()
        loss.item()


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Procedural pictures, uint8 (count, 3, side, side): noise at several scales, the coarse ones stronger, as in photos."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, side, side)
    cells = 2
    while cells <= side:
        grid = torch.rand(count, 3, cells, cells, generator=generator)
        total += F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False) / cells**0.5
        cells *= 2
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return ((total - low) / (high - low) * 255).round().to(torch.uint8)


QUICK = {"repeats": 1, "size": 48, "batch": 2, "width": 4, "matrix": 128, "steps": 3}
"""What `--quick` sets: it shows that a benchmark runs, and its numbers mean nothing."""


def options(text: str, example: str, *, repeats: int, size: int) -> argparse.ArgumentParser:
    """The options that all benchmarks share; `text` is a module's docstring."""
    parser = argparse.ArgumentParser(description=text.partition("\n")[0], epilog=f"example: python benchmarks/{example}")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"medians are over this many ({repeats})")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (2)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu, with --threads 1, for a machine that is shared")
    parser.add_argument("--size", type=int, default=size, help=f"side of the pictures in pixels ({size})")
    parser.add_argument("--quick", action="store_true", help="tiny networks and pictures, once: seconds; the numbers mean nothing")
    return parser


def settle(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """The options as they are used; `width` is that of all networks, None for each one's own."""
    args = parser.parse_args(words)
    args.width = None
    if args.quick:
        vars(args).update(QUICK)
        print("quick: tiny networks and pictures, so that the numbers below mean nothing")
    torch.set_num_threads(args.threads)
    return args


def seconds(step: Callable[[], object], clock: str) -> float:
    """How long a step takes: `wall` time, or the processor time of this process (`cpu`)."""
    now = time.perf_counter if clock == "wall" else time.process_time
    start = now()
    step()
    return now() - start


def ratio(times: Mapping[str, list[float]], name: str) -> float:
    """How many times as fast as the reference: the median over repeats of the ratio within a repeat."""
    return statistics.median(a / b for a, b in zip(times["reference"], times[name], strict=True))
