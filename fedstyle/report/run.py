"""Reads a finished run's folder into values for the page; what is optional and absent is None or empty."""

from __future__ import annotations

import base64
import io
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from fedstyle.errors import ConfigError
from fedstyle.files import read_lines

PICTURES = ("style", "photo", "base", "filter")
LARGE, SMALL, MANY = 640, 256, 40
"""Longest side of a picture in pixels, and the same in a run of more than MANY clients, so that the page can still be opened."""


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its width and height in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Device:
    """What a run's folder holds of one client: its line in the summary and what lies in its home."""

    facts: Mapping[str, Any]
    pictures: Mapping[str, Picture]
    personal: Sequence[Mapping[str, Any]]
    losses: Sequence[Mapping[str, Any]]
    ledger: Sequence[Mapping[str, Any]]
    package_bytes: int | None

    @property
    def id(self) -> str:
        """The client's name in the run."""
        return str(self.facts.get("id", "?"))

    @property
    def style(self) -> str:
        """The style's name."""
        return str(self.facts.get("style") or "unnamed style")

    @property
    def works(self) -> bool:
        """Whether the client got its filter."""
        return bool(self.facts.get("filter"))


@dataclass(frozen=True)
class Run:
    """A finished run. `arrays` maps each of the network's array names to its count of numbers."""

    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    devices: Sequence[Device]
    arrays: Mapping[str, int]
    config: str

    @property
    def tables(self) -> dict[str, Any]:
        """The configuration as tables; none where it is no TOML."""
        try:
            return tomllib.loads(self.config)
        except tomllib.TOMLDecodeError:
            return {}


def read_summary(folder: Path) -> dict[str, Any]:
    """A finished run's summary; raises ConfigError when the folder holds none, or a damaged one."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except OSError:
        raise ConfigError(f"{folder} holds no finished run (no summary.json): give the --out folder of fedstyle simulate") from None
    except ValueError:
        raise ConfigError(f"{folder}/summary.json is damaged: run again into another folder") from None
    if not isinstance(summary, dict) or summary.get("format") != "fedstyle-run-1":
        raise ConfigError(f"{folder}/summary.json is not of the format fedstyle-run-1: a newer fedstyle may have written it")
    clients = summary.get("clients") or []
    if not isinstance(clients, list) or not all(isinstance(facts, dict) for facts in clients):
        raise ConfigError(f"{folder}/summary.json is damaged: its clients are no tables; run again into another folder")
    return {**summary, "clients": clients}


def read_run(folder: Path) -> Run:
    """Read a run; raises ConfigError when the folder holds no finished one, FedstyleError when a file of it is damaged."""
    summary = read_summary(folder)
    clients = summary["clients"]
    side = LARGE if len(clients) <= MANY else SMALL
    devices = tuple(_device(folder, facts, side) for facts in clients)
    config = folder / "config.toml"
    return Run(
        summary,
        read_lines(folder / "history.jsonl"),
        devices,
        _arrays(folder),
        config.read_text(errors="replace") if config.is_file() else "",
    )


def _device(folder: Path, facts: Mapping[str, Any], side: int) -> Device:
    home = folder / "clients" / Path(str(facts.get("id", ""))).name
    found = {name: _picture(home / "pictures" / f"{name}.jpg", side) for name in PICTURES}
    package = folder / facts["package"] if facts.get("package") else None
    return Device(
        facts,
        {name: picture for name, picture in found.items() if picture},
        read_lines(home / "personal.jsonl"),
        read_lines(home / "losses.jsonl"),
        read_lines(home / "ledger.jsonl"),
        _weigh(package) if package and package.exists() else None,
    )


def _picture(path: Path, side: int) -> Picture | None:
    """The file as it is, or made anew when it is too large or carries metadata, such as a place; None when it is no picture."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if max(image.size) > side or image.getexif() or image.format != "JPEG":
                small = image.convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
                stream = io.BytesIO()
                small.save(stream, "JPEG", quality=88, exif=b"")
                content, (width, height) = stream.getvalue(), small.size
            else:
                width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Picture("data:image/jpeg;base64," + base64.b64encode(content).decode(), width, height)


def _weigh(path: Path) -> int:
    return sum(part.stat().st_size for part in ([path] if path.is_file() else path.rglob("*")) if part.is_file())


def _arrays(folder: Path) -> dict[str, int]:
    """Names and counts of numbers of the run's network, from the first filter or base that can be read."""
    for path in [*sorted(folder.glob("clients/*/filter/filter.safetensors")), *sorted(folder.glob("base/**/base.safetensors"))]:
        try:
            with safe_open(path, framework="numpy") as file:
                return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping
        except (OSError, SafetensorError):
            continue
    return {}
