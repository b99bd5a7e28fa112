"""Files that are whole or absent: atomic writes with fsync, staged folders, and locks that die with their process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

from fedstyle.errors import FedstyleError, OutputError


def _explain(error: OSError, path: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"no space left to write {path}: free some disk space and run again")
    return OutputError(f"cannot write {path}: {error.strerror or error}: choose a folder that you may write to")


_UNSYNCED: ContextVar[bool] = ContextVar("unsynced", default=False)


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """Within the block this thread does not wait for the disk: what it writes outlives its process, but perhaps not a loss of power.

    For simulated devices, whose many small files would otherwise take longer than their training. Every file is still whole or absent
    when the process is killed.
    """
    token = _UNSYNCED.set(True)
    try:
        yield
    finally:
        _UNSYNCED.reset(token)


def _sync(handle: int) -> None:
    if not _UNSYNCED.get():
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file so that a crash leaves the old content or the new, never a mixture; `private` lets its owner alone read it.

    Raises OutputError when the disk is full or the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _explain(error, path) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
        os.chmod(name, 0o600 if private else 0o644)
        os.replace(name, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise _explain(error, path) from error
        raise


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone can enter (0700); one that stands is left as it is.

    Raises OutputError where there is no place for it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _explain(error, folder) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a newline at the end; keys keep their order."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def append_json(path: Path, *values: Any) -> None:
    """Append a JSON line for each value, in one write, and fsync it; a last line that a crash tore is dropped first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            _drop_torn_line(file)
            lines = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)
            file.write("".join(lines).encode())
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        raise _explain(error, path) from error


def _drop_torn_line(file: BinaryIO) -> None:
    length = file.seek(0, os.SEEK_END)
    if not length:
        return
    file.seek(length - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines, an object each; an absent file has none, and a torn last line is left out.

    Raises FedstyleError, naming file and line, when another line is no JSON object or the file cannot be read.
    """
    try:
        whole = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FedstyleError(f"cannot read {path}: {error.strerror or error}: check its permissions and its disk") from error
    values = []
    for number, line in enumerate(whole, 1):
        if not line:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise FedstyleError(f"{path} is damaged: line {number} is no JSON object; remove that line, or make the file again")
        values.append(value)
    return values


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole object of a file of JSON lines, without reading all of it; None when there is none within the last 4,096 bytes."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")[:-1]
        value = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged(path: Path, *, replaces: str = "") -> Iterator[Path]:
    """Give a fresh folder that becomes `path` when the block ends well, and vanishes when it does not.

    A folder that stands at `path` is replaced only if it holds a file named `replaces`, so that nobody's own folder ever is. Raises
    OutputError for any other thing at `path`, or when the disk is full. On an error the old folder is put back. Only when the process is
    killed or the machine stops between two renames is nothing at `path`: the old folder then lies whole beside it as `.NAME.*.old/it`,
    and the new one as `.NAME.*.part`.
    """
    path = Path(path)
    replace = bool(replaces) and not path.is_symlink() and (path / replaces).is_file()
    if not replace and os.path.lexists(path):
        raise OutputError(f"{path} exists already: choose another place, or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    except OSError as error:
        raise _explain(error, path) from error
    try:
        yield stage
        os.chmod(stage, 0o755)  # noqa: S103  as mkdir would have made it; mkdtemp makes 0o700
        _sync_folder(stage)
        if replace:
            _swap(stage, path)
        else:
            os.replace(stage, path)
        _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        if isinstance(error, OSError):
            raise _explain(error, path) from error
        raise


def _swap(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder at `path`, or leave that as it was."""
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    try:
        os.replace(path, old / "it")
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            if not os.path.lexists(path):
                os.replace(old / "it", path)
            old.rmdir()  # fails, as it should, when the old folder is still in there
        raise
    shutil.rmtree(old, ignore_errors=True)  # the new folder stands, so this is no failure


@contextlib.contextmanager
def locked(path: Path, taken: Exception) -> Iterator[None]:
    """Hold an exclusive lock on a file, or raise `taken` at once when another process holds it.

    The kernel drops the lock when the process ends, however it ends. Raises OutputError when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _explain(error, path) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        yield
    finally:
        os.close(handle)
