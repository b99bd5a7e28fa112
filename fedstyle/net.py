"""The image transform network of Johnson et al. 2016 with instance normalisation (Ulyanov et al. 2016).

Two architectures, named as Create ML names its algorithms: `cnn` is the classic network (1,679,235 parameters). `cnnLite` (415,443) has
the classic one's residual blocks at half the width, halves the picture in its first convolution, and keeps a quarter of the channels at
full resolution, where the classic network spends half of its time on a CPU.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle import fast
from fedstyle.errors import ConfigError

Arch = Literal["cnn", "cnnLite"]
Padding = Literal["reflect", "zeros", "replicate"]

ARCHITECTURES: tuple[Arch, ...] = get_args(Arch)
PADDINGS: tuple[Padding, ...] = get_args(Padding)
WIDTH: dict[str, int] = {"cnn": 32, "cnnLite": 16}
"""A quarter of the channels of the residual blocks, from which all other numbers of channels follow."""
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
        x = F.pad(x, self.margin, mode=self.mode)
        if self.norm is None:
            x = self.conv(x)
        elif self.portable:
            x = self.norm(self.conv(x))
        else:  # the norm undoes whatever a bias did, and Adam would walk on the rounding errors of the bias's gradient
            x = self.norm(F.conv2d(x, self.conv.weight, None, self.conv.stride))
        return F.relu(x) if self.relu else x

    def picture(self, x: Tensor, *, cells: bool = False) -> Tensor:
        """`forward` as `fast` computes it: one picture (H, W, inputs); `cells` gives a doubled one in cells of 2 x 2 pixels."""
        weight = self.conv.weight
        if self.upsample:
            x = fast.double_and_convolve(x, weight, self.mode, cells=cells)
        elif weight.shape[2] == 3 and self.conv.stride == (1, 1):
            x = fast.convolve3(x, weight, self.mode)
        else:
            x = fast.convolve(x, weight, self.conv.stride[0], self.mode)
        assert self.norm is not None
        return fast.norm(x, self.norm.weight, self.norm.bias, relu=self.relu)  # it undoes whatever the convolution's bias did


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

    def picture(self, x: Tensor, *, half: bool) -> Tensor:
        """`forward` as `fast` computes it: one picture (H, W, channels); `half` has both convolutions, not the sum, in bfloat16."""
        return self.second.picture(self.first.picture(x.bfloat16() if half else x)) + x


class TransformNet(nn.Module):
    """A photo in, a stylised photo out: (N, 3, H, W) RGB in [0, 1], H and W multiples of 4 from 8 on.

    `width` overrides the architecture's number in WIDTH; tests use it to be quick. The output goes through a
    sigmoid, as in Turi Create: bounded, with a slope everywhere, so that no pixel gets stuck outside the range.
    Raises ConfigError for an unknown architecture or padding.
    """

    portable = False

    def __init__(self, arch: str = "cnn", padding: str = "reflect", *, width: int | None = None) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ConfigError(f"unknown architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}")
        if padding not in PADDINGS:
            raise ConfigError(f"unknown padding {padding!r}: choose one of {', '.join(PADDINGS)}")
        self.arch, self.padding = arch, padding
        self.width = w = width or WIDTH[arch]
        if arch == "cnn":
            full, last = w, 9
            self.down1 = Conv(3, w, 9, padding)
            self.down2 = Conv(w, 2 * w, 3, padding, stride=2)
            self.down3: Conv | None = Conv(2 * w, 4 * w, 3, padding, stride=2)
        else:
            full, last = max(1, w // 2), 5
            self.down1 = Conv(3, 2 * w, 7, padding, stride=2)
            self.down2 = Conv(2 * w, 4 * w, 3, padding, stride=2)
            self.down3 = None
        self.blocks = nn.Sequential(*(Residual(4 * w, padding) for _ in range(5)))
        self.up1 = Conv(4 * w, 2 * w, 3, padding, upsample=True)
        self.up2 = Conv(2 * w, full, 3, padding, upsample=True)
        self.out = Conv(full, 3, last, padding, bare=True)

    def forward(self, x: Tensor) -> Tensor:
        """Stylise (N, 3, H, W) RGB in [0, 1] to the same shape and range."""
        if self.portable or x.device.type != "cpu":
            return self._plain(x)
        half = torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):  # `fast` knows what to round, and the plain norms of bfloat16 are slow
            if not fast.usable(x, self.width):
                return self._plain(x)
            return torch.stack([self.picture(photo, half=half) for photo in x])

    def _plain(self, x: Tensor) -> Tensor:
        """`forward` in torch's operators."""
        x = self.down2(self.down1(x))
        if self.down3 is not None:
            x = self.down3(x)
        x = self.up2(self.up1(self.blocks(x)))
        return torch.sigmoid(self.out(x))

    def picture(self, x: Tensor, *, half: bool) -> Tensor:
        """`forward` of one photo (3, H, W) as `fast` computes it.

        `half` computes in bfloat16 but where rounding shows most: up to the blocks, on whose input all else rests, and in their sums.
        """
        x = self.down2.picture(self.down1.picture(x.permute(1, 2, 0)))
        if self.down3 is not None:
            x = self.down3.picture(x)
        for block in self.blocks:
            assert isinstance(block, Residual)
            x = block.picture(x, half=half)
        x = self.up2.picture(self.up1.picture(x.bfloat16() if half else x), cells=True)
        assert self.out.conv.bias is not None
        x = torch.sigmoid(fast.convolve_cells(x, self.out.conv.weight, self.out.conv.bias, self.out.mode))
        return x.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)


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
        if isinstance(module, InstanceNorm | Conv | TransformNet):
            module.portable = True
    return twin
