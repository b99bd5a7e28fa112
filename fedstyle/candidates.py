"""Which files of a device may be photos: found in a folder or named in a list, examined, and told apart by their content."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedstyle.errors import PhotoError
from fedstyle.picture import MIN_SIDE, UnusableError, read, regular, show

_BESIDE = ".aae .avi .csv .db .gpx .htm .html .ini .json .m4v .md .mov .mp3 .mp4 .pdf .py .svg .thm .toml .txt .wav .xmp .yaml .yml .zip"
COMPANIONS = frozenset(_BESIDE.split())
"""Extensions of what lies beside photos in a library, such as the video of a Live Photo: passed over and not counted."""

Source = Path | str | Sequence[Path | str]
"""A folder of photos, or a list of files."""


def candidates(source: Source) -> tuple[list[Path], list[Path]]:
    """The files that may be photos, and the folders among them that cannot be listed.

    Those of a folder come with its subfolders, sorted by their path as bytes so that the order is the same everywhere, without hidden files
    and COMPANIONS; links to folders are not followed, links to files are. Those of a list come as they are. No file is opened.
    Raises PhotoError when the folder is missing, is none, or cannot be listed.
    """
    if not isinstance(source, (str, os.PathLike)):
        return [Path(path) for path in source], []
    folder = Path(source)
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


def examine(source: Source) -> Iterator[tuple[Path, str]]:
    """Each candidate of a folder or of a list of files, and why it cannot be used: a key of picture.REASONS, or "" for a good one.

    A subfolder that cannot be listed is a candidate too. Raises PhotoError when the folder is missing or is none.
    """
    files, closed = candidates(source)
    for path in closed:
        yield path, "unreadable"
    for path in files:
        try:
            read(path, MIN_SIDE)
        except UnusableError as why:
            yield path, why.reason
        else:
            yield path, ""


def distinct(opened: Sequence[tuple[Path, os.stat_result]]) -> tuple[list[Path], Counter[str]]:
    """The first file of each content, and what was left out. What has a size of its own is not read, nor is one file by two names."""
    sizes = Counter(size for _, _, size in {(status.st_dev, status.st_ino, status.st_size) for _, status in opened})
    files: set[tuple[int, int]] = set()
    contents: set[bytes] = set()
    paths: list[Path] = []
    left_out: Counter[str] = Counter()
    for path, status in opened:
        file = (status.st_dev, status.st_ino)
        try:
            content = content_hash(path) if sizes[status.st_size] > 1 and file not in files else b""
        except UnusableError as why:  # it changed just now
            left_out[why.reason] += 1
            continue
        if file in files or content in contents:
            left_out["duplicate"] += 1
        else:
            paths.append(path)
        files.add(file)
        contents |= {content} - {b""}
    return paths, left_out


def content_hash(path: Path) -> bytes:
    """The SHA-256 of a file's bytes; raises UnusableError."""
    with regular(path) as file:
        return hashlib.file_digest(file, "sha256").digest()
