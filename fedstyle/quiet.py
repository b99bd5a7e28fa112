"""Silence for decoders that warn about pictures which fedstyle judges by itself."""

from __future__ import annotations

import threading
import warnings


class Quiet:
    """Pillow's warnings are ignored while any thread is inside; a plain catch_warnings in two threads would restore wrongly."""

    def __init__(self) -> None:
        self.lock, self.inside, self.saved = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.saved = warnings.catch_warnings()
                self.saved.__enter__()
                warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.saved.__exit__(None, None, None)


QUIET = Quiet()
"""The one of this process."""
