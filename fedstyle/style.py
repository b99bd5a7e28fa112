"""A style image and its parameters: what the filter is to look like, how strongly, and at what size of strokes."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedstyle.errors import StyleError
from fedstyle.perceptual import FeatureNet, gram
from fedstyle.photos import open_image
from fedstyle.picture import MAX_ASPECT, MIN_SIDE, UnusableError, upright

STRENGTH_STEP = 2.0
"""One step of strength multiplies the style weight by this: 1 is a sixteenth of the weight at 5, 10 is 32 times it."""
AIM = 0.65
"""The content loss that an automatic strength aims at; at 1 a photo is as far from what it was as a grey one."""
OCTAVES = 0.3
"""How many times one step of strength doubles a filter's content loss: 0.13 to 0.34 for four styles, from 3 to 5; a cautious figure."""


@dataclass(frozen=True)
class Style:
    """A style image (a path or a PIL image) with strength 1..10 and density 64..1024.

    *Strength* scales the style weight geometrically around 5, by 2 a step. Set by eye on two styles
    after 80 iterations: at 1 the photo keeps its detail and takes on the palette, at 5 it is painted, at 10 the style overwhelms it.
    *Density* is the length in pixels of the style image's shorter side when the feature network sees it: strokes are that much larger in
    the filter's output. A value that is no multiple of 4 is rounded down with a notice, as Create ML does.
    A strength of None is chosen when a filter is made, from 3 to 7, so that the user's photos stay recognisable: see `fitting`.
    Until then, and in a federation's rounds, it counts as 5.
    Raises StyleError for an image that cannot be read or a value out of range.
    """

    image: Image.Image = field(repr=False)
    strength: int | None = 5
    density: int = 256

    def __init__(self, image: str | Path | Image.Image, *, strength: int | None = 5, density: int = 256) -> None:
        if strength is not None and not (type(strength) is int and 1 <= strength <= 10):
            raise StyleError(f"style strength {strength!r}: give a whole number from 1 to 10, or None to have it chosen")
        if not (type(density) is int and 64 <= density <= 1024):
            raise StyleError(f"style density {density!r}: give a number of pixels from 64 to 1024")
        if density % 4:
            warnings.warn(f"style density {density} is no multiple of 4: taken as {density - density % 4}", stacklevel=2)
        try:
            picture = upright(image) if isinstance(image, Image.Image) else open_image(Path(image), StyleError)
        except UnusableError as why:
            raise StyleError(f"the style image {why.found}") from None
        if min(picture.size) < MIN_SIDE or max(picture.size) > MAX_ASPECT * min(picture.size):
            raise StyleError(
                f"the style image has {picture.width}x{picture.height} pixels: "
                f"give one with {MIN_SIDE} or more on its short side, at most {MAX_ASPECT} times as long as wide"
            )
        object.__setattr__(self, "image", picture)
        object.__setattr__(self, "strength", strength)
        object.__setattr__(self, "density", density - density % 4)

    @property
    def factor(self) -> float:
        """What the style weight is multiplied by for this strength; 1 at strength 5."""
        return 1.0 if self.strength is None else float(STRENGTH_STEP ** (self.strength - 5))

    @property
    def pixels(self) -> Tensor:
        """The image (1, 3, H, W) in [0, 1] with `density` pixels on its shorter side."""
        scale = self.density / min(self.image.size)
        width, height = (max(self.density, 2 * round(side * scale / 2)) for side in self.image.size)  # even, for networks that halve
        small = self.image.resize((width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255

    @torch.inference_mode(False)  # they outlive the call that made them, which may not be one that trains
    @torch.no_grad()
    def targets(self, features: FeatureNet) -> tuple[Tensor, ...]:
        """The style image's Gram matrix (C, C) at each tap; those for the last feature network are kept."""
        last: tuple[FeatureNet | None, tuple[Tensor, ...]] = self.__dict__.get("_targets", (None, ()))
        if last[0] is not features:
            pixels = self.pixels.to(features.scales.device)
            last = features, tuple(gram(tap)[0] for tap in features(pixels))
            object.__setattr__(self, "_targets", last)
        return last[1]

    def digest(self) -> str:
        """A SHA-256 of the pixels and parameters; it identifies a session on this device and never leaves it."""
        head = f"{self.strength} {self.density} {self.image.size} ".encode()
        return hashlib.sha256(head + self.image.tobytes()).hexdigest()


def fitting(content: float) -> int:
    """The strength from 3 to 7 for a style whose filter at strength 5 has this content loss on the user's photos.

    Styles differ in how much of a photo they destroy at one strength: geometric and coarse ones the most. Each step of strength changes
    the content loss by about OCTAVES octaves, so the steps from it to AIM follow. Looked at on three paintings, counted on 20, about half
    of which keep 5. It sees to it that photos stay recognisable; it knows nothing of taste.
    """
    if not content > 0:
        return 7
    return min(7, max(3, round(5 - math.log2(content / AIM) / OCTAVES)))
