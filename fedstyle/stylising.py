"""Photos stylised as an app does it: one at a time or a whole folder, waiting or awaiting, within a limit of memory.

    result = fedstyle.stylize(filter, "holiday.jpg")
    result.image.save("stylised.png")
    print(result.seconds, result.size, result.notice)

    batch = fedstyle.stylize_all(filter, "Pictures")
    for result in batch:
        result.image.save(out / f"{result.source.stem}.png")
        print(batch.done, "of", len(batch))
    print(batch.skipped)  # {"damaged": 1}

In an event loop it is `await fedstyle.stylize_async(...)` and `async for result in batch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from fedstyle.candidates import Source, candidates
from fedstyle.errors import PhotoError
from fedstyle.filter import MEMORY, SIDE, Filter, working_size
from fedstyle.photos import Photos
from fedstyle.picture import FORMATS, UnusableError, look, read, regular, show
from fedstyle.quiet import QUIET

T = TypeVar("T")

DECODING = 20
"""Bytes a pixel that opening a file can take for a moment: the picture as stored, turned, converted and laid on white. The default limit
of memory is what the largest photo that fedstyle opens, of 50 megapixels, can take."""


@dataclass(frozen=True)
class Stylized:
    """A stylised photo: `image` is upright, RGB, in the photo's size and without metadata.

    `seconds` is how long opening and stylising took, `size` the width and height in pixels at which the network saw the photo, and
    `source` the file that it came from, if it came from one. `measured` is the share of the photo from which its colours were reckoned, 1
    but for a large photo at full resolution that the memory does not hold at once: see `tiling`.
    """

    image: Image.Image
    seconds: float
    size: tuple[int, int]
    source: Path | None = None
    measured: float = 1.0

    @property
    def notice(self) -> str:
        """What a person should know about the result, in a line, or nothing."""
        times = min(self.size) / SIDE
        if times < 1.5:
            return ""
        said = f"stylised at {self.size[0]}x{self.size[1]} pixels: strokes are {times:.1f} times as small against the photo as at {SIDE}"
        share = "" if self.measured == 1 else f"; colours were reckoned from {self.measured:.0%} of it, with more memory from all of it"
        return said + share


def stylize(filter: Filter, photo: Image.Image | Path | str, *, side: int | None = SIDE, memory: int = MEMORY) -> Stylized:
    """Stylise a photo, given as an image or as a file of any kind that fedstyle opens (JPEG, PNG, HEIC, WebP, ...).

    `side` and `memory` are those of a Filter's call: the short side in pixels at which the network sees the photo, None for all of them,
    and the limit in MB on what the work takes, opening the file included. Raises PhotoError for a file that is no usable photo, or for a
    photo that needs more memory than that. It blocks for as long as it takes; `stylize_async` does not.
    """
    path = None if isinstance(photo, Image.Image) else Path(photo)
    try:
        return _stylize(filter, photo, side, memory)
    except UnusableError as why:
        assert path is not None
        raise PhotoError(f"{show(path)} {why.found}") from why.__cause__


async def stylize_async(filter: Filter, photo: Image.Image | Path | str, *, side: int | None = SIDE, memory: int = MEMORY) -> Stylized:
    """`stylize` for an event loop, which goes on meanwhile.

    Photos that are awaited together are stylised one after the other, in one thread, so that the limit of memory holds for all; the
    network uses every core that torch may use. Cancelling a photo that waits for its turn drops it; one at work is finished unseen.
    """
    return await _awaited(stylize, filter, photo, side=side, memory=memory)


def stylize_all(filter: Filter, photos: Photos | Source, *, side: int | None = SIDE, memory: int = MEMORY) -> Batch:
    """Stylise many photos: those of a folder with its subfolders, sorted by name, or of a list of files, in its order.

    Nothing is opened before the batch is iterated over. Hidden files and what lies beside photos, such as videos, are passed over in a
    folder. Raises PhotoError when the folder cannot be listed; single files that cannot be used are skipped.
    """
    paths, closed = (list(photos.paths), []) if isinstance(photos, Photos) else candidates(photos)
    batch = Batch(filter, tuple(paths), side=side, memory=memory)
    for folder in closed:
        batch.skip(folder, UnusableError("unreadable", "is a folder that cannot be listed: check its permissions"))
    return batch


@dataclass
class Batch:
    """Photos that become stylised while one iterates over it, once: with `for`, or with `async for` in an event loop.

    A result comes as soon as it is made, and nothing keeps it but the caller: the memory does not grow with the number of photos. A file
    that cannot be used is skipped: `skipped` counts them by reason, without names, and `problems` has a line for each, with its path, for
    the device's own screen. Folders that cannot be listed are among them from the beginning. `done` is the number of photos dealt with, of
    `len(batch)`.
    """

    filter: Filter
    paths: tuple[Path, ...]
    _: KW_ONLY
    side: int | None = SIDE
    memory: int = MEMORY
    done: int = field(default=0, init=False)
    skipped: Counter[str] = field(default_factory=Counter, init=False)
    problems: list[str] = field(default_factory=list, init=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Stylized]:
        while self.done < len(self.paths):
            path = self.paths[self.done]
            result = None
            try:
                result = _stylize(self.filter, path, self.side, self.memory)
            except UnusableError as why:
                self.skip(path, why)
            self.done += 1
            if result is not None:
                yield result

    def skip(self, path: Path, why: UnusableError) -> None:
        """Count what cannot be used, and say so."""
        self.skipped[why.reason] += 1
        self.problems.append(f"{show(path)} {why.found}")

    async def __aiter__(self) -> AsyncIterator[Stylized]:
        results = iter(self)
        while (result := await _awaited(next, results, None)) is not None:
            yield result


def check(photo: Path, memory: int = MEMORY) -> None:
    """Raise PhotoError when a file's header says that it is no usable photo, or one that cannot be opened within `memory` MB.

    Nothing is decoded, so damage is not found.
    """
    try:
        _check_room(photo, memory)
    except UnusableError as why:
        raise PhotoError(f"{show(photo)} {why.found}") from why.__cause__


def _stylize(filter: Filter, photo: Image.Image | Path | str, side: int | None, memory: int) -> Stylized:
    """`stylize`, but a file that cannot be used, or not within the memory, is an UnusableError with its reason."""
    start = time.perf_counter()
    if isinstance(photo, Image.Image):
        made, path = filter(photo, side=side, memory=memory), None
    else:
        path = Path(photo)
        _check_room(path, memory)
        opened = read(path, None)
        try:
            made = filter(opened, side=side, memory=memory)
        except PhotoError as why:
            raise UnusableError("no room", f"is too large for the memory limit: {why}") from why
    share = filter.measured(made.size, side=side, memory=memory)
    return Stylized(made, time.perf_counter() - start, working_size(made.size, side), path, share)


def _check_room(path: Path, memory: int) -> None:
    """Raise UnusableError when a file's header says that opening it could take more than `memory` MB, or that it is no photo."""
    look(path)
    size = (0, 0)  # a fault that `look` lets pass is for `read` to explain
    with contextlib.suppress(Exception), QUIET, regular(path) as file, Image.open(file, formats=FORMATS) as image:
        size = image.size
    if (need := -(-DECODING * size[0] * size[1] // 1_000_000)) > memory:
        raise UnusableError(
            "no room", f"has {size[0]}x{size[1]} pixels and cannot be opened within {memory:,} MB of memory: allow {need:,} MB"
        )


@functools.cache
def _worker() -> ThreadPoolExecutor:
    """The one thread that stylises for event loops."""
    return ThreadPoolExecutor(1, thread_name_prefix="fedstyle-stylize")


async def _awaited(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_worker(), functools.partial(function, *arguments, **named))
