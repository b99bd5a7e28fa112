"""A small stylised picture brought back to its photo's size, with the photo's detail where the two agree.

Around every pixel of the small pictures the stylised one is, at best, a times the photo's luminance plus b: the local linear model of the
guided filter (He, Sun and Tang 2013, "Guided Image Filtering", equations 5 and 6; computed at the small size and enlarged, as in He and
Sun 2015, "Fast Guided Filter"). Each pixel of the result is the enlarged stylised picture plus a times what the photo's luminance has
there and its own small version has not. Where a stroke follows an edge of the photo, that edge becomes sharp, in the stroke's own
colours; where a stroke lies elsewhere, a is near 0 and no ghost of the photo shows. The guided filter's own output, a times the photo
plus b, would lose the strokes; the photo's detail added in equal shares everywhere (a Laplacian pyramid's upper levels) draws hairlines
beside the strokes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

Plane = NDArray[np.float32]

RADIUS = 2
"""Half a window's side in pixels of the small picture: windows of 5 x 5."""
NOISE = 40.0
"""Variance, in squared levels of 255, below which a window of the photo counts as flat and lends no detail."""
MOST = 1.5
"""The largest a, either way, so that a faint edge of the photo never becomes a glaring one."""
STRIP = 2**18
"""Pixels of the large picture that are worked on at once."""


def enlarge(photo: Image.Image, small: Image.Image, stylised: Image.Image) -> Image.Image:
    """The stylised picture in the photo's size: RGB, made in strips, so that it takes little more memory than the result.

    `small` is the photo (RGB) in the size of `stylised` (RGB). Strips leave no trace: each reads what lies around it.
    """
    guide = _plane(small.convert("L"))
    strokes = [_plane(stylised.getchannel(channel)) for channel in range(3)]
    gains = [Image.fromarray(gain) for gain in _gains(guide, strokes)]
    width, height = photo.size
    result = Image.new("RGB", photo.size)
    rows = max(8, STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        size = (width, bottom - top)
        # In floating point: with whole numbers Pillow's strips would differ by some levels, for it rounds between its two passes.
        box = (0.0, top * small.height / height, float(small.width), min(bottom * small.height / height, small.height))
        fine = np.asarray(photo.crop((0, top, width, bottom)).convert("L"), np.float32)
        fine -= np.asarray(guide.resize(size, Image.Resampling.BICUBIC, box=box))
        made = np.empty((*fine.shape, 3), np.uint8)
        for channel, (stroke, gain) in enumerate(zip(strokes, gains, strict=True)):
            change = np.asarray(gain.resize(size, Image.Resampling.BILINEAR, box=box)) * fine
            change += np.asarray(stroke.resize(size, Image.Resampling.BICUBIC, box=box))
            made[..., channel] = np.rint(change, out=change).clip(0, 255)
        result.paste(Image.fromarray(made), (0, top))
    return result


def _plane(channel: Image.Image) -> Image.Image:
    """A channel of bytes as one of floating point numbers."""
    return Image.fromarray(np.asarray(channel, np.float32))


def _gains(guide: Image.Image, strokes: list[Image.Image]) -> list[Plane]:
    """Each channel's a at every pixel: the guided filter's, averaged over the windows that hold the pixel."""
    p: Plane = np.array(guide, np.float32)
    mean = _mean(p)
    variance = _mean(p * p) - mean * mean + NOISE
    gains = []
    for stroke in strokes:
        s: Plane = np.array(stroke, np.float32)
        gain = ((_mean(p * s) - mean * _mean(s)) / variance).astype(np.float32)
        gains.append(_mean(gain).clip(-MOST, MOST))
    return gains


def _mean(x: Plane) -> Plane:
    """The mean of the window around each pixel; the border pixels are repeated outwards."""
    padded = F.pad(torch.from_numpy(x)[None, None], (RADIUS,) * 4, mode="replicate")
    mean: Plane = F.avg_pool2d(padded, 2 * RADIUS + 1, 1)[0, 0].numpy()
    return mean
