"""The image transform network of Johnson et al. 2016 with instance normalisation (Ulyanov et al. 2016).

Two architectures, named as Create ML names its algorithms: `cnn` is the classic network (1,679,235 parameters), `cnnLite` the
same at half the width (424,899).
"""

from __future__ import annotations

import copy
import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle.errors import ConfigError

Arch = Literal["cnn", "cnnLite"]
Padding = Literal["reflect", "zeros", "replicate"]

ARCHITECTURES: tuple[Arch, ...] = get_args(Arch)
PADDINGS: tuple[Padding, ...] = get_args(Padding)
WIDTH: dict[str, int] = {"cnn": 32, "cnnLite": 16}
STRIDE = 4
"""Height and width that the network takes are multiples of this."""
SMALLEST = 8
"""The least height and width: a 9x9 convolution cannot reflect less than 5 pixels."""


def is_norm(name: str) -> bool:
    """Whether a parameter is an instance-norm scale or shift, where a style lives (Dumoulin et al. 2017)."""
    return ".norm" in name


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift per channel, eps 1e-5."""

    portable = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image; `x` is (N, C, H, W)."""
        if self.portable:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=1e-5)
        # One group a channel is the same function; its kernel is 3 to 8 times as fast on a CPU.
        return F.group_norm(x, self.weight.numel(), self.weight, self.bias, 1e-5)


class Conv(nn.Module):
    """Padding, convolution, and unless `bare` instance norm and a ReLU; `upsample` doubles the size first."""

    portable = False

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        padding: Padding,
        *,
        stride: int = 1,
        upsample: bool = False,
        relu: bool = True,
        bare: bool = False,
    ) -> None:
        super().__init__()
        self.margin = (kernel // 2,) * 4
        self.mode = "constant" if padding == "zeros" else padding
        self.upsample, self.relu = upsample, relu and not bare
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        self.norm = None if bare else InstanceNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        if self.upsample:
            x = double(x, self.portable)
        x = self.conv(F.pad(x, self.margin, mode=self.mode))
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x) if self.relu else x


def double(x: Tensor, portable: bool = False) -> Tensor:
    """Double height and width by nearest-neighbour upsampling; `x` is (N, C, H, W)."""
    if portable or x.device.type != "cpu":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # The same function; its backward pass is several times as fast as interpolate's on a CPU.
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection, no ReLU after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.first = Conv(channels, channels, 3, padding)
        self.second = Conv(channels, channels, 3, padding, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        change: Tensor = self.second(self.first(x))
        return x + change


class TransformNet(nn.Module):
    """A photo in, a stylised photo out: (N, 3, H, W) RGB in [0, 1], H and W multiples of 4 from 8 on.

    `width` overrides the architecture's number of channels at full resolution; tests use it to be quick. The output goes through a
    sigmoid, as in Turi Create: bounded, with a slope everywhere, so that no pixel gets stuck outside the range.
    Raises ConfigError for an unknown architecture or padding.
    """

    def __init__(self, arch: str = "cnn", padding: str = "reflect", *, width: int | None = None) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ConfigError(f"unknown architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}")
        if padding not in PADDINGS:
            raise ConfigError(f"unknown padding {padding!r}: choose one of {', '.join(PADDINGS)}")
        self.arch, self.padding = arch, padding
        self.width = w = width or WIDTH[arch]
        self.down1 = Conv(3, w, 9, padding)
        self.down2 = Conv(w, 2 * w, 3, padding, stride=2)
        self.down3 = Conv(2 * w, 4 * w, 3, padding, stride=2)
        self.blocks = nn.Sequential(*(Residual(4 * w, padding) for _ in range(5)))
        self.up1 = Conv(4 * w, 2 * w, 3, padding, upsample=True)
        self.up2 = Conv(2 * w, w, 3, padding, upsample=True)
        self.out = Conv(w, 3, 9, padding, bare=True)

    def forward(self, x: Tensor) -> Tensor:
        """Stylise (N, 3, H, W) RGB in [0, 1] to the same shape and range."""
        x = self.down3(self.down2(self.down1(x)))
        x = self.up2(self.up1(self.blocks(x)))
        return torch.sigmoid(self.out(x))


def initialise(net: nn.Module, seed: int) -> None:
    """Draw all weights from `seed` alone: convolutions uniform in ±1/sqrt(fan-in), norms at scale 1 and shift 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(net.named_parameters()):
            if is_norm(name):
                value.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            weight = net.get_parameter(name.rpartition(".")[0] + ".weight")
            bound = 1 / math.sqrt(weight[0].numel())
            value.copy_(torch.rand(value.shape, generator=generator) * 2 * bound - bound)


def portable(net: TransformNet) -> TransformNet:
    """A copy of the network in the operators that Core ML and ONNX have names for; the same function, slower to train.

    The choice is the copy's own: torch's `is_exporting` is one flag a process, and other threads may be training.
    """
    twin = copy.deepcopy(net)
    for module in twin.modules():
        if isinstance(module, InstanceNorm | Conv):
            module.portable = True
    return twin
