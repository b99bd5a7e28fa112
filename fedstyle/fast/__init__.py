"""The transform network's layers as a CPU computes them fastest: one picture at a time, channels last, in fp32 or bfloat16.

A picture is a tensor (H, W, C), or in *cells* of s x s pixels, (H/s, W/s, s, s, C). One picture at a time keeps the numbers in the
processor's cache, and each function gives what the plain operators of `net` give but for rounding:

- 3x3 convolutions take Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016): 36 products a tile of 16 pixels instead of 144.
- A doubling of the size and a 3x3 convolution are, for each of the four pixels of a cell, one 2x2 convolution of the small picture.
- A convolution to 3 channels fills 3 of 8 lanes of a vector unit; on cells it has 12.
- A convolution's bias before a norm has no effect and is left out; its gradient is zero.

A picture of bfloat16 gets sums in fp32, norms' moments too, and a result of bfloat16. Its 3x3 convolutions are plain ones: where a
processor has instructions for such products, they beat Winograd's filtering, which bfloat16 would also rob of its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedstyle.fast.cells import convolve_cells, double_and_convolve
from fedstyle.fast.convolution import convolve
from fedstyle.fast.norms import LARGE, norm
from fedstyle.fast.winograd import convolve3

__all__ = ["LARGE", "convolve", "convolve3", "convolve_cells", "double_and_convolve", "norm", "usable"]


LEAST = 100_000
"""Pixels times the network's width from which these functions win: below, calling them costs more than they save (80 px for `cnnLite`)."""


def usable(x: Tensor, width: int) -> bool:
    """Whether pictures (N, C, H, W) are of the kind, and large enough, that these functions are for."""
    large = x.shape[-2] * x.shape[-1] * width >= LEAST
    return large and x.device.type == "cpu" and x.dtype == torch.float32
