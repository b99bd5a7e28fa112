"""A hostile photo library turned into training crops and evaluation views, on the device only."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedstyle.errors import PhotoError
from fedstyle.picture import MIN_SIDE, UnusableError, open_image, read, regular, show

__all__ = ["COMPANIONS", "Photos", "divide", "examine", "open_image"]

COMPANIONS = frozenset(
    [
        ".aae",
        ".avi",
        ".csv",
        ".db",
        ".gpx",
        ".htm",
        ".html",
        ".ini",
        ".json",
        ".m4v",
        ".md",
        ".mov",
        ".mp3",
        ".mp4",
        ".pdf",
        ".py",
        ".svg",
        ".thm",
        ".toml",
        ".txt",
        ".wav",
        ".xmp",
        ".yaml",
        ".yml",
        ".zip",
    ]
)
"""Extensions of what lies beside photos in a library, such as the video of a Live Photo: passed over and not counted."""


@dataclass(frozen=True)
class Photos:
    """Photos of one person, on their device: files that were decoded once and found good, no two with the same content.

    `skipped` counts what was left out, by reason and without names.
    """

    paths: tuple[Path, ...]
    skipped: Mapping[str, int] = field(default_factory=dict, hash=False)

    @classmethod
    def open(cls, source: Path | Sequence[Path]) -> Photos:
        """Take the usable photos of a folder (with its subfolders, sorted by name) or of a list of files (in its order).

        Hidden files and COMPANIONS in a folder are passed over; links to folders are not followed, links to files are. Of files with the
        same bytes the first is taken and the others count as `duplicate`, so that a photo kept out of training is not there as a copy.
        Raises PhotoError when the folder is missing or is none, or when no photo is usable.
        """
        skipped: Counter[str] = Counter()
        good: dict[bytes, Path] = {}
        for path, reason in examine(source):
            if reason:
                skipped[reason] += 1
                continue
            try:
                content = _hash(path)
            except UnusableError as why:  # it changed just now
                skipped[why.reason] += 1
                continue
            if content in good:
                skipped["duplicate"] += 1
            else:
                good[content] = path
        if not good:
            where = show(source) if isinstance(source, (str, os.PathLike)) else "the list of photos"
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            found = f"{skipped.total()} skipped: {counts}" if counts else "it is empty"
            raise PhotoError(f"{where} holds no usable photo ({found}): add JPEG, PNG, HEIC or WebP photos")
        return cls(tuple(good.values()), dict(sorted(skipped.items())))

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> Image.Image:
        """One whole photo as upright sRGB. Raises PhotoError when its file has changed for the worse."""
        return open_image(self.paths[index])

    def subset(self, indices: Iterable[int]) -> Photos:
        """The photos at these places, in this order."""
        return Photos(tuple(self.paths[i] for i in indices))

    def digest(self) -> str:
        """SHA-256 over the content of the files in their order, in hexadecimal; names and places do not count.

        It tells a session that its photos are the same. It is private: who holds a photo can recognise it, so it stays on the device.
        """
        whole = hashlib.sha256()
        for path in self.paths:
            try:
                whole.update(_hash(path))
            except UnusableError as why:
                raise PhotoError(f"{show(path)} {why.found}") from why.__cause__
        return whole.hexdigest()

    def crops(self, size: int, count: int, seed: int) -> Tensor:
        """Square training crops: uint8 (count, 3, size, size), sRGB.

        The photos take turns in a seeded order. Each crop shows its photo as if its short side had been resized (Lanczos) to between
        `size` and 1.5 `size`, at a random place, flipped half of the time. The result depends on the photos and the arguments only.
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        draws = rng.random((count, 4))
        crops = torch.empty(count, 3, size, size, dtype=torch.uint8)
        for turn in range(min(count, len(self))):
            photo = open_image(self.paths[order[turn]], side=math.ceil(1.5 * size))
            for k in range(turn, count, len(self)):  # all crops of this photo, so that it is decoded once
                scale, x, y, flip = draws[k]
                edge = min(photo.size) / (1 + scale / 2)
                crop = _square(photo, size, edge, x, y)
                crops[k] = crop.flip(2) if flip < 0.5 else crop
        return crops

    def views(self, size: int) -> Tensor:
        """The centre square of every photo, resized: uint8 (n, 3, size, size), sRGB, with nothing random; for evaluation."""
        opened = (open_image(path, side=size) for path in self.paths)
        return torch.stack([_square(photo, size, min(photo.size), 0.5, 0.5) for photo in opened])


def examine(source: Path | Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each candidate of a folder or of a list of files, and why it cannot be used: a key of picture.REASONS, or "" for a good one.

    A subfolder that cannot be listed is a candidate too. Raises PhotoError when the folder is missing or is none.
    """
    if isinstance(source, (str, os.PathLike)):
        candidates, closed = _walk(Path(source))
    else:
        candidates, closed = [Path(path) for path in source], []
    for path in closed:
        yield path, "unreadable"
    for path in candidates:
        try:
            read(path, MIN_SIDE)
        except UnusableError as why:
            yield path, why.reason
        else:
            yield path, ""


def divide(photos: Photos, clients: int, seed: int) -> list[Photos]:
    """Divide photos among clients: seeded, no photo twice, sizes that differ by at most one.

    Raises PhotoError when there are fewer photos than clients.
    """
    if not 1 <= clients <= len(photos):
        raise PhotoError(f"{len(photos)} photos cannot be divided among {clients} clients: give each client at least one photo")
    order = np.random.default_rng(seed).permutation(len(photos))
    return [photos.subset(sorted(part.tolist())) for part in np.array_split(order, clients)]


def _square(photo: Image.Image, size: int, edge: float, x: float, y: float) -> Tensor:
    """The square with sides of `edge` pixels at the place x, y (0 = left or top, 1 = right or bottom), resized to `size`."""
    left, top = x * (photo.width - edge), y * (photo.height - edge)
    box = (left, top, min(left + edge, photo.width), min(top + edge, photo.height))
    pixels = np.asarray(photo.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _hash(path: Path) -> bytes:
    """The SHA-256 of a file's bytes; raises UnusableError."""
    with regular(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """The candidate files of a folder, sorted by their path as bytes so that the order is the same everywhere, and folders not listed."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        raise PhotoError(f"the photo folder {show(folder)} does not exist: check the path") from None
    except NotADirectoryError:
        raise PhotoError(f"{show(folder)} is not a folder: give the folder that holds the photos") from None
    except OSError as why:
        raise PhotoError(f"the photo folder {show(folder)} cannot be read ({why.strerror}): check its permissions") from why
    files: list[Path] = []
    closed: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda why: closed.append(Path(why.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() not in COMPANIONS]
    return sorted(files, key=lambda path: os.fsencode(path.relative_to(folder))), sorted(closed)
