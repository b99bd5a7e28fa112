"""Changes to a shelf's folder: under a lock, each whole or not at all, and what is left over swept."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedstyle import params
from fedstyle.base import Base
from fedstyle.errors import FilterError, OutputError, ParamsError
from fedstyle.files import locked, write_bytes, write_json
from fedstyle.filter import Filter
from fedstyle.shelf.entries import FORMAT, HASH, difference, find
from fedstyle.style import Style

PATIENCE = 30.0
"""Seconds that a change waits for another process's change."""
OWN_ID = re.compile(r"[0-9a-f]{32}")
"""The id of a user's filter."""
STALE = re.compile(r"(filter|preview)-[0-9a-f]{64}\.(safetensors|jpg)|\.(entry|filter-|preview-).*\.part")
"""Files of an entry that its filter does not name, or that were never finished."""
STAGED = re.compile(r"\.[0-9a-f]{64}\..*\.(part|old)")
"""Bases that were never finished."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the shelf for a change, and sweep it afterwards; raises FilterError when another process holds it for too long."""
    taken = FilterError(f"the shelf {folder} has been in use by another process for {PATIENCE:.0f} seconds: try again later")
    until = time.monotonic() + PATIENCE
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(folder / "shelf.lock", taken))
                break
            except FilterError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)
        yield
        sweep(folder)


def put(folder: Path, id: str, head: Mapping[str, Any], filter: Filter, base: Base | None, picture: bytes, previewed: str) -> None:
    """Write an entry's difference, its base, its preview and at last its head; an entry with this id is replaced in that moment.

    `head` is what does not follow from the filter: its name, its number in the list, its style image. For whoever holds the shelf.
    """
    place, own = folder / "filters" / id, difference(filter, base)
    if base and own is not None:
        keep_base(folder, base)
    put_files(place, own, filter, picture)
    write_json(place / "entry.json", {"format": FORMAT, **head, **describe(filter, base, own is None, previewed)})


def put_files(place: Path, own: params.Params | None, filter: Filter, picture: bytes) -> None:
    """Write the arrays that are a filter's own, or all of them, and its preview."""
    params.save(filter.weights if own is None else own, place / f"filter-{filter.sha256}.safetensors")
    write_bytes(place / f"preview-{filter.sha256}.jpg", picture)


def describe(filter: Filter, base: Base | None, whole: bool, previewed: str) -> dict[str, Any]:
    """What an entry's head says of its filter."""
    facts = {"architecture": filter.arch, "padding": filter.padding, "sha256": filter.sha256, "whole": whole}
    return {**facts, "base_sha256": stands_on(filter, base), "previewed": previewed, "facts": dict(filter.facts)}


def next_number(folder: Path) -> int:
    """The place in the list of an entry to be added: after all others."""
    numbers = []
    for place in _inside(folder / "filters"):
        with contextlib.suppress(FilterError):
            numbers.append(int(find(place, predefined=False).head["number"]))
    return max(numbers, default=0) + 1


def stands_on(filter: Filter, base: Base | None) -> str:
    """The hash of the base that a filter stands on: that of the base, otherwise what its facts say, or nothing."""
    said = filter.facts.get("base_sha256", "")
    return base.sha256 if base else said if isinstance(said, str) else ""


def keep_base(folder: Path, base: Base) -> None:
    """See to it that the shelf has a base, whole; in fp16 where that changes no bit."""
    place = folder / "bases" / base.sha256
    try:
        if Base.load(place).sha256 == base.sha256:
            return
    except ParamsError:  # it is not there, or damaged
        shutil.rmtree(place, ignore_errors=True)
    base.save(place, half=base.halved().sha256 == base.sha256)


def keep_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read."""
    with explained(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def settled(style: Style, facts: Mapping[str, Any]) -> Style:
    """A style at a strength: its own, or where that was left to be chosen the one that was chosen for the filter."""
    return style if style.strength else dataclasses.replace(style, strength=facts.get("strength", 5))


def keep_style(place: Path, style: Style) -> dict[str, int | None]:
    """Keep a style image as training sees it, at its density: training from the copy is bit for bit that from the original."""
    pixels = (style.pixels[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    Image.fromarray(pixels).save(png := io.BytesIO(), "PNG")
    keep_private(place / "style.png", png.getvalue())
    return {"strength": style.strength, "density": style.density}


def sweep(folder: Path) -> None:
    """Remove what killed processes left, and bases that no filter uses; nothing that the shelf did not name itself.

    Only for whoever holds the shelf.
    """
    used: set[str] = set()
    certain = True
    for place in _inside(folder / "filters"):
        if not OWN_ID.fullmatch(place.name):
            continue
        if not (place / "entry.json").exists():
            shutil.rmtree(place, ignore_errors=True)
            continue
        try:
            entry = find(place, predefined=False)
        except FilterError:  # nobody knows what it stands on
            certain = False
            continue
        if not entry.whole:
            used.add(entry.base_sha256)
        wanted = {f"filter-{entry.sha256}.safetensors", f"preview-{entry.sha256}.jpg"}
        for path in _inside(place):
            if STALE.fullmatch(path.name) and path.name not in wanted:
                path.unlink(missing_ok=True)
    for place in _inside(folder / "bases"):
        if STAGED.fullmatch(place.name) or (certain and HASH.fullmatch(place.name) and place.name not in used):
            shutil.rmtree(place, ignore_errors=True)


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says of a place into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}: free some disk space, or choose a folder of yours") from error
