"""Keep freed memory in the process: training frees and takes the same large blocks in every iteration."""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGE = 2**31 - 1


@functools.cache
def keep_heap() -> bool:
    """Ask glibc not to give freed memory back; returns whether it does so.

    By default every block over 32 MB, and many smaller ones, come fresh from the kernel, which fills them with zeros page by page: a
    third of a training iteration on a CPU. See mallopt(3). Elsewhere than on Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE), (_TOP_PAD, 2**26))
    return {mallopt(name, value) for name, value in settings} == {1}
