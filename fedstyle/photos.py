"""A hostile photo library turned into training crops and evaluation views, on the device only.

    photos = Photos.open("Pictures", thumbnails=Thumbnails(Path("home/thumbnails")))
    crops = photos.crops(256, 64, seed=0)  # 64 photos are decoded, however many there are
    for left_out in photos.report():
        print(left_out.count, left_out.reason, left_out.advice)  # for the owner's eyes: nothing sends it

A library is opened lazily: files are listed, their headers are read, and a photo is decoded when it is needed. One that turns out to be
damaged is then left out, counted, and replaced by the next.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedstyle.candidates import Source, candidates, content_hash, distinct, examine
from fedstyle.cropping import cut, known
from fedstyle.errors import PhotoError
from fedstyle.picture import MIN_SIDE, REASONS, UnusableError, look, open_image, read, show
from fedstyle.quiet import QUIET
from fedstyle.thumbnails import Thumbnails

__all__ = ["Photos", "Skipped", "examine", "open_image"]

_TWICE = "has the same content as another of the photos: nothing needs to be done"


@dataclass(frozen=True)
class Skipped:
    """Files that were left out for one reason, as an app may show it; `advice` is a sentence that says what the owner can do."""

    reason: str
    count: int
    advice: str


@dataclass(frozen=True)
class Photos:
    """Photos of one person, on their device: files whose header is that of a usable photo, no two with the same content.

    Their number is fixed when they are opened. `left_out` counts what was left out then, by reason and without names. Photos and their
    subsets share what they learn of damaged files; it is no part of their value.
    """

    paths: tuple[Path, ...]
    left_out: Mapping[str, int] = field(default_factory=dict, hash=False)
    thumbnails: Thumbnails | None = field(default=None, compare=False)
    _found: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)  # what was decoded: why it is unusable, "" for sound

    @classmethod
    def open(cls, source: Source, *, thumbnails: Thumbnails | None = None) -> Photos:
        """Take the photos of a folder (with its subfolders, sorted by name) or of a list of files (in its order).

        Hidden files and candidates.COMPANIONS in a folder are passed over; links to folders are not followed, links to files are. Of files
        with the same bytes the first is taken and the others count as `duplicate`, so that a photo kept out of training is not there as a
        copy; only files of one size are compared. Of the photos only as many are decoded as it takes to find a sound one. With
        `thumbnails`, small versions are kept on the device's disk, and crops and views are cut from them; their pixels are not those of
        crops without them, but the same whether a thumbnail is there already or not.
        Raises PhotoError when the folder is missing or is none, or when no photo is usable.
        """
        files, closed = candidates(source)
        left_out = Counter({"unreadable": len(closed)} if closed else {})
        opened: list[tuple[Path, os.stat_result]] = []
        with QUIET:
            for path in files:
                try:
                    opened.append((path, look(path)))
                except UnusableError as why:
                    left_out[why.reason] += 1
        paths, more = distinct(opened)
        photos = cls(tuple(paths), dict(sorted((left_out + more).items())), thumbnails)
        where = show(source) if isinstance(source, (str, os.PathLike)) else "the list of photos"
        photos._need(any(photos._sound(index) for index in range(len(photos))), where)
        return photos

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def skipped(self) -> dict[str, int]:
        """How many files were left out, by reason and without names: those of `left_out`, and those found damaged since."""
        found = Counter(reason for path in self.paths if (reason := self._found.get(path)))
        return dict(sorted((Counter(self.left_out) + found).items()))

    @property
    def usable(self) -> int:
        """How many photos there are without those found damaged so far."""
        return sum(not self._found.get(path) for path in self.paths)

    def report(self) -> tuple[Skipped, ...]:
        """What was left out and what its owner can do about it, the most frequent first. It is for the device's own screen."""
        advice = {reason: f"Each of them {text}." for reason, text in (REASONS | {"duplicate": _TWICE}).items()}
        rows = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Skipped(reason, count, advice[reason]) for reason, count in rows)

    def checked(self) -> Photos:
        """Decode every photo now, and give those that are sound; it takes as long as reading them all.

        Raises PhotoError when none is.
        """
        sound = [index for index in range(len(self)) if self._sound(index)]
        self._need(bool(sound), "the library")
        return replace(self, paths=tuple(self.paths[index] for index in sound), left_out=self.skipped)

    def load(self, index: int) -> Image.Image:
        """One whole photo as upright sRGB. Raises PhotoError when it is damaged, or its file has changed for the worse."""
        return open_image(self.paths[index])

    def subset(self, indices: Iterable[int]) -> Photos:
        """The photos at these places, in this order; what the whole library left out at its opening is not counted again."""
        return replace(self, paths=tuple(self.paths[index] for index in indices), left_out={})

    def digest(self, count: int | None = None, seed: int = 0) -> str:
        """SHA-256 over the content of the files in their order, in hexadecimal; names, places and times do not count.

        With `count` it is over how many photos there are and the content of those that `crops(size, count, seed)` shows, in the order of
        `seed`: all that these crops depend on, and no more files to read than training reads. It tells a session that its photos are the
        same. It is private: who holds a photo can recognise it, so it stays on the device.
        Raises PhotoError for a file that cannot be read any more.
        """
        whole, drawn = hashlib.sha256(), iter(range(len(self)))
        if count is not None:
            drawn = itertools.islice((index for index in self._order(seed) if self._sound(index)), count)
            whole.update(f"{len(self)} photos, {count} crops, thumbnails: {self.thumbnails is not None}\n".encode())
        for index in drawn:
            try:
                whole.update(content_hash(self.paths[index]))
            except UnusableError as why:
                raise PhotoError(f"{show(self.paths[index])} {why.found}") from why.__cause__
        return whole.hexdigest()

    def crops(self, size: int, count: int, seed: int, *, processing: str = "scale-fill") -> Tensor:
        """Square training crops: uint8 (count, 3, size, size), sRGB.

        The photos take turns in a seeded order. Each crop is flipped half of the time; `processing` says what of its photo it shows:

        - "scale-fill": a square at a random place, as if the photo's short side had been resized (Lanczos) to between `size` and 1.5
          `size`, so that the photo fills the crop.
        - "centre-crop": the same at the photo's centre.
        - "scale-fit": the whole photo, its long side resized to `size`; beside it, its own mirror image instead of bars, because a filter
          would learn bars.

        A photo that cannot be decoded is skipped and counted, and the next in the order takes its turn. The result depends on the photos
        and the arguments only. Raises PhotoError when no photo can be decoded, ConfigError for an unknown `processing`.
        """
        known(processing)
        rng = np.random.default_rng(seed)
        order, draws = rng.permutation(len(self)), rng.random((count, 4))
        while True:
            hopeful = [index for index in order if not self._found.get(self.paths[index])]
            self._need(bool(hopeful) or not count, "the library")
            crops, turn = torch.empty(count, 3, size, size, dtype=torch.uint8), 0
            for index in hopeful:
                if turn == count:
                    break
                if (photo := self._take(index, math.ceil(1.5 * size))) is None:
                    continue
                for k in range(turn, count, len(hopeful)):  # all crops of this photo, so that it is decoded once
                    scale, x, y, flip = draws[k]
                    crop = cut(photo, size, processing, 1 + scale / 2, x, y)
                    crops[k] = crop.flip(2) if flip < 0.5 else crop
                turn += 1
            if turn == min(count, len(hopeful)):
                return crops
            # There are fewer photos than hoped for, so each takes more turns: once more, now that all are known.

    def views(self, size: int, *, processing: str = "scale-fill") -> Tensor:
        """A square of every photo that can be decoded: uint8 (n, 3, size, size), sRGB, with nothing random; for evaluation.

        It is the whole centre square, resized, or with "scale-fit" the whole photo, as `crops` shows it. Those of a whole library may take
        much memory: `each_view` gives the same squares one at a time.
        Raises PhotoError when no photo can be decoded, ConfigError for an unknown `processing`.
        """
        return torch.stack(list(self.each_view(size, processing=processing)))

    def each_view(self, size: int, *, processing: str = "scale-fill") -> Iterator[Tensor]:
        """The squares of `views`, (3, size, size) each: a photo is decoded when its turn comes, and none is kept."""
        known(processing)
        none = True
        for index in range(len(self)):
            if (photo := self._take(index, size)) is not None:
                none = False
                yield cut(photo, size, processing, 1.0, 0.5, 0.5).contiguous()  # as those of `views` lie: a loss has the same bits
        self._need(not none, "the library")

    def _order(self, seed: int) -> list[int]:
        """The order in which `crops` takes the photos."""
        order: list[int] = np.random.default_rng(seed).permutation(len(self)).tolist()
        return order

    def _take(self, index: int, side: int) -> Image.Image | None:
        """A photo whose short side is at least `side` where it has that many pixels; None, noted, for one that cannot be decoded."""
        path = self.paths[index]
        if self._found.get(path):
            return None
        try:
            photo = self.thumbnails.open(path, side) if self.thumbnails else read(path, side)
        except UnusableError as why:
            self._found[path] = why.reason
            return None
        self._found[path] = ""
        return photo

    def _sound(self, index: int) -> bool:
        """Whether a photo can be decoded; each is tried once."""
        found = self._found.get(self.paths[index])
        return self._take(index, MIN_SIDE) is not None if found is None else not found

    def _need(self, some: bool, where: str) -> None:
        if not some:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            found = f"{sum(self.skipped.values())} skipped: {counts}" if counts else "it is empty"
            raise PhotoError(f"{where} holds no usable photo ({found}): add JPEG, PNG, HEIC or WebP photos")
