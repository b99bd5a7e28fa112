"""What went wrong on a device, kept in its own home: `errors.log` holds the whole story, which never crosses."""

from __future__ import annotations

import contextlib
import datetime
import traceback
from pathlib import Path


def note_error(home: Path, what: str, error: BaseException) -> None:
    """Append the time, what was done, and the error with its traceback; a disk that takes no more is no second error."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        with open(home / "errors.log", "a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{now} {what}\n{''.join(traceback.format_exception(error))}\n")
