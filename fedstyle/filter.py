"""A personal filter: a transform network and what a person calls it."""

from __future__ import annotations

import contextlib
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
from fedstyle.detail import enlarge
from fedstyle.errors import FilterError, PhotoError
from fedstyle.fast import LARGE
from fedstyle.files import sha256, staged, write_json
from fedstyle.hardware import has_fast_bf16
from fedstyle.net import SMALLEST, STRIDE, TransformNet
from fedstyle.picture import UnusableError, upright
from fedstyle.tiling import NoRoomError, paint, piece_bytes, plan

SIDE = 512
"""The short side, in pixels, at which photos are stylised. Strokes have about the size that they had in training, a photo brought back
from it is not blurred, and it is the size of an export: an app and Python show the same picture."""
MEMORY = 1000
"""What stylising a photo may take, in MB."""
_STORED = 4
"""Bytes of a pixel of an RGB image in Pillow."""


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

    def __call__(self, image: Image.Image, *, side: int | None = SIDE, memory: int = MEMORY) -> Image.Image:
        """Stylise an image of any size; the result has its size upright, is RGB, and carries no metadata.

        A network's strokes have one size in pixels. A photo whose short side is longer than `side` is stylised at that size and brought
        back to its own with the photo's detail (see `detail`); a smaller `side` gives larger strokes. `side=None` stylises at full
        resolution, in seamless tiles where one piece would take too much memory (see `tiling`): strokes shrink against the photo.

        `memory` limits, in MB of 10^6 bytes, what this call takes with the photo and the result, beside what the process holds already;
        a photo that cannot be stylised within it raises PhotoError, and so does an image of a mode that no photo has. As for files, an
        EXIF orientation is applied, a colour profile converted to sRGB, and transparency laid on white.
        """
        photo = _upright(image)
        size = working_size(photo.size, side)
        small = photo if size == photo.size else photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        room = _room(photo.size, size, memory)
        try:
            result = self._paint(small, room)
        except NoRoomError as why:
            least = memory + -(-(why.bytes - room) // 1_000_000)
            raise PhotoError(
                f"a photo of {photo.width}x{photo.height} pixels cannot be stylised within {memory:,} MB of memory: "
                f"allow {least:,} MB" + ("" if side is not None else ", or stylise it at a smaller size")
            ) from None
        return result if small is photo else enlarge(photo, small, result)

    def measured(self, size: tuple[int, int], *, side: int | None = SIDE, memory: int = MEMORY) -> float:
        """The share of a photo of `size` over which a call measures the means and variances of its norms: see `tiling.paint`.

        It is 1 but for a large photo in tiles. Raises NoRoomError where the call would raise PhotoError.
        """
        seen = working_size(size, side)
        room = _room(size, seen, memory)
        if piece_bytes(self.net, *seen) <= room:
            return 1.0
        parts, count = plan(self.net, *seen, room)
        return count / len(parts)

    def _paint(self, picture: Image.Image, room: int) -> Image.Image:
        """Stylise an RGB image at its size, in one piece where `room` bytes suffice for that."""
        if piece_bytes(self.net, *picture.size) > room:
            return paint(self.net, picture, room)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        y = self.stylise(x)[0].permute(1, 2, 0)
        return Image.fromarray((y * 255).round().clamp(0, 255).to(torch.uint8).numpy())

    @torch.inference_mode()
    def stylise(self, x: Tensor) -> Tensor:
        """Stylise a batch (N, 3, H, W) of RGB in [0, 1]; any H and W, padded to multiples of 4, at least 8, and cut again.

        On processors with instructions for bfloat16 pictures of up to LARGE pixels are computed in that, which moves most pixels by less
        than a level of 255 (45 dB and better in `benchmarks/stylize.py`); larger ones are not, nor are tiles, so that both are the same.
        """
        height, width = x.shape[-2:]
        margin = (0, max(-width % STRIDE, SMALLEST - width), 0, max(-height % STRIDE, SMALLEST - height))
        half = width * height <= LARGE and has_fast_bf16(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
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


def working_size(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """The width and height at which the network sees a photo of `size`: its short side has at most `side` pixels."""
    if side is None or min(size) <= side:
        return size
    width, height = size
    return max(1, round(width * side / min(size))), max(1, round(height * side / min(size)))


def _room(size: tuple[int, int], seen: tuple[int, int], memory: int) -> int:
    """Bytes of `memory` MB that a photo and its result, and those at the size that the network sees, leave for the network."""
    return memory * 1_000_000 - sum(2 * _STORED * width * height for width, height in {size, seen})


def _upright(image: Image.Image) -> Image.Image:
    """An image as upright sRGB; the same object where nothing has to change."""
    image.load()  # reading EXIF first would swallow a decoder's error
    turned = False
    with contextlib.suppress(Exception):  # broken EXIF says nothing about the pixels
        turned = image.getexif().get(0x0112, 1) != 1
    if image.mode == "RGB" and not turned and not image.info.keys() & {"icc_profile", "transparency"}:
        return image
    try:
        return upright(image)
    except UnusableError as why:
        raise PhotoError(f"the image {why.found}") from None
