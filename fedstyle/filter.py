"""A personal filter: a transform network and what a person calls it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fedstyle import params
from fedstyle.base import build, read
from fedstyle.errors import FilterError
from fedstyle.files import sha256, staged, write_json
from fedstyle.net import SMALLEST, STRIDE, TransformNet

LARGEST = 4_000_000
"""Pixels of the largest picture that is stylised in one piece; a larger one is stylised at this size and enlarged again."""


@dataclass(frozen=True)
class Filter:
    """A photo filter: call it with an image to get the stylised image.

    `facts` is what travels with it into an export: strength, density, method, iterations, the base's hash, losses. It holds no path,
    no file name and no time.
    """

    arch: str
    padding: str
    weights: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def net(self) -> TransformNet:
        """The network, ready to run."""
        return build(self.arch, self.padding, self.weights).eval().requires_grad_(False)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Stylise an image of any size; the result has its size and is RGB."""
        picture = image.convert("RGB")
        if (pixels := picture.width * picture.height) > LARGEST:
            shrink = (LARGEST / pixels) ** 0.5
            small = picture.resize((max(1, int(picture.width * shrink)), max(1, int(picture.height * shrink))), Image.Resampling.LANCZOS)
            return self(small).resize(picture.size, Image.Resampling.LANCZOS)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        y = self.stylise(x)[0].permute(1, 2, 0)
        return Image.fromarray((y * 255).round().clamp(0, 255).to(torch.uint8).numpy())

    @torch.inference_mode()
    def stylise(self, x: Tensor) -> Tensor:
        """Stylise a batch (N, 3, H, W) of RGB in [0, 1]; any H and W, padded to multiples of 4, at least 8, and cut again."""
        height, width = x.shape[-2:]
        margin = (0, max(-width % STRIDE, SMALLEST - width), 0, max(-height % STRIDE, SMALLEST - height))
        y: Tensor = self.net(F.pad(x, margin, mode="replicate"))[..., :height, :width]
        return y

    @property
    def sha256(self) -> str:
        """The identity of the weights: see `params.fingerprint`."""
        return params.fingerprint(self.weights)

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write the folder `path` with filter.safetensors and filter.json; `replace` lets it take the place of another filter.

        Raises OutputError for any other thing at `path`.
        """
        with staged(Path(path), replaces="filter.json" if replace else "") as folder:
            params.save(self.weights, folder / "filter.safetensors")
            head = {"format": "fedstyle-filter-1", "architecture": self.arch, "padding": self.padding}
            write_json(folder / "filter.json", {**head, "file_sha256": sha256(folder / "filter.safetensors"), **self.facts})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a filter's folder; raises FilterError when it is none or was altered."""
        facts, weights = read(Path(path), "filter", FilterError)
        head = {"format", "architecture", "padding", "file_sha256"}
        return cls(facts["architecture"], facts["padding"], weights, {key: value for key, value in facts.items() if key not in head})
