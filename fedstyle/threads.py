"""On how many threads PyTorch computes, and threads that end before the process does."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Iterator

import torch

LAST = 10.0
"""Seconds that the end of a process waits for each thread's work at hand."""

_ENDING: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on this many threads for a while: the last bits of a sum depend on their number."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def before_the_end(thread: threading.Thread, stop: threading.Event) -> None:
    """At the end of the process set `stop` and wait a little for a daemon thread.

    One that is inside PyTorch when the interpreter goes would abort the process.
    """
    _ENDING[thread] = stop


@atexit.register
def _end() -> None:
    ending = dict(_ENDING)
    for stop in ending.values():
        stop.set()
    for thread in ending:
        thread.join(LAST)
