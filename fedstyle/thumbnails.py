"""Small versions of a device's photos, kept on its own disk so that a photo is decoded once and not every time.

A thumbnail is private like its photo: its folder is the owner's (0700), its file is named by a hash and holds pixels only, and nothing here
can send anything. It may be deleted at any time; it is then made again, the same bit for bit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fedstyle.picture import read, regular

SIDE = 384
"""The least short side of a thumbnail, in pixels: training crops of up to 256 pixels are cut from it, larger ones ask for larger ones.

Crops cut from it are 49 dB (mean of 64 on 8 photographs) from crops of the photo itself; those of a JPEG that was decoded at a fraction of
its size, as training does without thumbnails, are 47 dB from crops of its full decoding. As lossless WebP it takes about 220 kB.
"""
SMALL = 100_000
"""Files of fewer bytes are decoded each time: they are about as quick to decode, and about as large, as a thumbnail."""

_MARK = b"fedstyle thumbnail 1\n"


@dataclass(frozen=True)
class Thumbnails:
    """A folder of thumbnails that holds at most `limit` bytes; those used least recently go when another is written.

    It works for several threads and processes at once. It is a convenience and never an obstacle: where the disk is full or the folder
    cannot be written, photos are decoded each time, with the same pixels.
    """

    folder: Path
    limit: int = 300_000_000

    def open(self, path: Path, side: int) -> Image.Image:
        """A photo as upright sRGB, reduced to a short side of max(`side`, SIDE), from the cache where it is there; a SMALL file as it is.

        The pixels are the same from a cold and a warm cache, for one version of Pillow. A file counts as unchanged while its device, inode,
        size and times of change are. Raises picture.UnusableError as `picture.read` does.
        """
        side = max(side, SIDE)
        key = _key(path, side)
        if key and (kept := self._kept(key)):
            return kept
        photo = read(path, side)
        if not key:
            return photo
        small = _reduced(photo, side)
        if _key(path, side) == key:  # or the file became another one meanwhile
            with contextlib.suppress(OSError):
                self._keep(key, small)
        return small

    def size(self) -> int:
        """The bytes that the thumbnails take on the disk."""
        return sum(status.st_size for _, status in self._files())

    def clear(self) -> None:
        """Delete every thumbnail, and the folder where nothing else is in it."""
        for path, _ in self._files():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _kept(self, key: str) -> Image.Image | None:
        """A thumbnail that is there and whole; a damaged one is deleted."""
        path = Path(self.folder, f"{key}.thumb")
        try:
            whole = path.read_bytes()
        except OSError:
            return None
        start = len(_MARK) + 32
        if whole[:start] == _MARK + hashlib.sha256(whole[start:]).digest():
            with contextlib.suppress(OSError):
                os.utime(path)  # used now; the time of access is not kept on every disk
            with contextlib.suppress(Exception), Image.open(io.BytesIO(whole[start:]), formats=("WEBP",)) as image:
                return image.convert("RGB")
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _keep(self, key: str, small: Image.Image) -> None:
        """Write a thumbnail, after making room for it; raises OSError."""
        pixels = io.BytesIO()
        small.save(pixels, "WEBP", lossless=True, quality=0, method=0)
        content = _MARK + hashlib.sha256(pixels.getbuffer()).digest() + pixels.getbuffer()
        if len(content) > self.limit:
            return
        with self._alone():
            files = sorted(self._files(), key=lambda file: file[1].st_mtime_ns)
            excess = sum(status.st_size for _, status in files) + len(content) - self.limit
            for path, status in files:
                if excess <= 0 and path.suffix == ".thumb":
                    continue
                path.unlink(missing_ok=True)  # used least recently; or half written by a process that died, which held the lock
                excess -= status.st_size
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")  # 0600
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, Path(self.folder, f"{key}.thumb"))  # no fsync: the hash finds what a power cut tore

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, waiting for it; the kernel drops it when the process ends."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """The files that are this cache's, and no other."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".thumb", ".part")):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        return found


def _key(path: Path, side: int) -> str:
    """What names the thumbnail of a file as it is now; "" for one that is not worth keeping. Raises UnusableError."""
    with regular(path) as file:
        status = os.fstat(file.fileno())
    if status.st_size < SMALL:
        return ""
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, side)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _reduced(photo: Image.Image, side: int) -> Image.Image:
    short = min(photo.size)
    if short <= side:
        return photo
    size = tuple(max(side, round(edge * side / short)) for edge in photo.size)
    return photo.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
