"""What a process keeps in memory so as not to make or read it again: bounded in bytes, and results are the same with and without it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedstyle import params


class Budget:
    """How many bytes this process keeps of something, all clients and threads together. Who comes first keeps; the others do without.

    That is better than to drop the least recently used: a round asks its clients in turn, and each would find that it was just dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.lock = limit, 0, threading.Lock()
        self.freed: deque[int] = deque()

    def take(self, size: int) -> bool:
        """Whether `size` more bytes may be kept; they are counted then."""
        with self.lock:
            while self.freed:
                self.used -= self.freed.popleft()
            if self.used + size > self.limit:
                return False
            self.used += size
            return True

    def release(self, taken: list[int]) -> None:
        """Give bytes back. The collector may call this amid `take`, so it takes no lock and changes no sum."""
        self.freed.append(sum(taken))


CONTENT = Budget(2**30)
"""Content features of training crops."""
STATES = Budget(2**28)
"""What clients left at home after their last round."""


class Share:
    """What an object has of a budget; it goes back when the object does."""

    def __init__(self, owner: object, budget: Budget) -> None:
        self.budget, self._taken = budget, list[int]()
        weakref.finalize(owner, budget.release, self._taken).atexit = False

    def take(self, size: int) -> bool:
        """Whether the owner may keep `size` more bytes."""
        granted = self.budget.take(size)
        if granted:
            self._taken.append(size)
        return granted


@dataclass(frozen=True)
class _Mark:
    """Which version of a file there is."""

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> _Mark | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class Copy:
    """The tensors of a file as this process wrote them last, for as long as nobody else has touched the file."""

    def __init__(self) -> None:
        self._share, self._room = Share(self, STATES), 0
        self._mark: _Mark | None = None
        self._tensors: params.Params = {}

    def put(self, path: Path, tensors: params.Params) -> None:
        """Remember what was just written to `path`, if there is room for it; nobody may change these tensors from now on."""
        self._mark, self._tensors = None, {}
        now = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(path, ns=(now, now))  # the system's own clock for files stands still for milliseconds, and a change might not show
            self._mark = _Mark.of(path)
        if self._mark and self._mark.size > self._room:
            if self._share.take(self._mark.size - self._room):
                self._room = self._mark.size
            else:
                self._mark = None
        self._tensors = tensors if self._mark else {}

    def get(self, path: Path) -> dict[str, Tensor] | None:
        """A copy of the file's tensors, or None when they are not kept, or are no longer those in the file."""
        if self._mark is None or self._mark != _Mark.of(path):
            return None
        return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in self._tensors.items()}
