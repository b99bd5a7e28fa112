"""Who takes part in a simulation: each device's photos, the photos kept out to judge its filter, and its style image."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedstyle.base import Base
from fedstyle.client import Client
from fedstyle.companions import outfit
from fedstyle.config import Config, Data
from fedstyle.errors import ConfigError, PhotoError, StyleError
from fedstyle.libraries import open_libraries
from fedstyle.methods import make_method
from fedstyle.paint import PAINTERS, paint
from fedstyle.partition import STYLE_SPLITS, make_partitioner
from fedstyle.perceptual import load_features
from fedstyle.photos import Photos, examine
from fedstyle.picture import open_image, show
from fedstyle.roster import Role, Roster
from fedstyle.style import Style
from fedstyle.training import derive

STYLE_SIDE = 512
"""A client keeps its style image with about this many pixels on the short side, or with its density where that is more."""


@dataclass(frozen=True)
class Device:
    """One simulated device. `heldout` are photos that are no copies of any that it trains on; empty where there are too few photos.

    In a divided folder they are the same for every device, and no device trains on them. Of folders that are a client's each, two may hold
    the same photo.
    """

    id: str
    photos: Photos
    heldout: Photos
    style_name: str
    style_file: Path | None
    strength: int = 5
    density: int = 256
    role: Role = Role.SEEN
    kinds: tuple[str, ...] = ()
    """The kind of each of its photos, where `data.photo_split` knows kinds."""

    def style_image(self, seed: int) -> Image.Image:
        """The style image: the device's file, or a picture that fedstyle paints by its name and `seed`."""
        return open_image(self.style_file, error=StyleError) if self.style_file else paint(self.style_name, seed=seed)


@dataclass(frozen=True)
class Population:
    """All devices of a run, and how many files were no usable photo, by reason."""

    devices: tuple[Device, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def plan(config: Config) -> Population:
    """Divide photos and styles among devices as `[data]` says, by the run's seed; the same config gives the same population.

    Raises PhotoError, StyleError or ConfigError for folders that are missing, empty or too small.
    """
    data, seed = config.data, config.training.seed
    libraries, skipped = open_libraries(data, derive(seed, "photos"))
    styles, count = _styles(data), len(libraries)
    split = make_partitioner(STYLE_SPLITS, data.style_split, "data.style_split")
    has = split.styles(count, len(styles), np.random.default_rng(derive(seed, "styles")))
    roster = Roster.of(config.server, count, seed)
    width = max(3, len(str(count - 1)))
    devices = []
    for index, library in enumerate(libraries):
        strength, density = _wish(config, index)
        name, file = styles[has[index]]
        has_photos = (library.photos, library.heldout, name, file)
        devices.append(Device(f"{index:0{width}d}", *has_photos, strength, density, roster.role(index), library.kinds))
    return Population(tuple(devices), skipped)


def _wish(config: Config, index: int) -> tuple[int, int]:
    """A client's style strength and density: those of `[loss]`, or drawn from the ranges of `[data]`, every value as often as any other."""
    rng, data = np.random.default_rng(derive(config.training.seed, "wish", index)), config.data
    strength = int(rng.integers(data.strength[0], data.strength[1] + 1)) if data.strength else config.loss.strength
    density = 4 * int(rng.integers(-(-data.density[0] // 4), data.density[1] // 4 + 1)) if data.density else config.loss.density
    return strength, density


def _styles(data: Data) -> list[tuple[str, Path | None]]:
    """Names and files of the style images, in order; a painted one has no file.

    One that cannot be used is an error, found before anything is written: left out, it would give later clients another style.
    """
    if data.styles == "painted":
        return [(name, None) for name in PAINTERS]
    if isinstance(data.styles, tuple):
        files = [Path(file) for file in data.styles]
        if missing := [file for file in files if not file.is_file()]:
            raise StyleError(f'the style image {missing[0]} does not exist: give images in data.styles, or "painted"')
        for file in files:
            open_image(file, side=64, error=StyleError)
    else:
        files = _style_folder(Path(data.styles))
    if not files:
        raise StyleError('data.styles is empty: give a folder of images, a list of images, or "painted"')
    return [(_plain_name(file.stem), file) for file in files]


def _style_folder(folder: Path) -> list[Path]:
    """The images of a folder of styles, all of them usable."""
    if not folder.is_dir():
        raise StyleError(f'data.styles: {show(folder)} is no folder: give a folder of images, a list of images, or "painted"')
    try:
        found = list(examine(folder))
    except PhotoError as why:
        raise StyleError(f"data.styles: {why}") from why
    bad = [f"{show(path.relative_to(folder))}: {reason}" for path, reason in found if reason]
    if bad:
        named = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise StyleError(
            f"data.styles: {len(bad)} of the {len(found)} images in {show(folder)} cannot be used ({named}): replace or remove them"
        )
    return [path for path, _ in found]


def _plain_name(stem: str) -> str:
    """A file's stem as a name that is safe in a file system and in a model's metadata."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in stem)[:60] or "style"


def _look(image: Image.Image, strength: int, density: int) -> Style:
    """A style that keeps no more of a large image than it needs.

    The image is reduced to a whole multiple of the size at which the feature network sees it, so that this size stays the same.
    """
    style = Style(image, strength=strength, density=density)
    height, width = style.pixels.shape[2:]
    times = math.ceil(STYLE_SIDE / style.density)
    if times * min(height, width) >= min(image.size):
        return style
    small = image.resize((times * width, times * height), Image.Resampling.LANCZOS)
    return Style(small, strength=strength, density=style.density)


def first_base(config: Config) -> Base:
    """The base of a run's first round: the one that `net.base` names, or an untrained one drawn from the run's seed.

    It has the companions that the method declares, and no others. Raises BaseError for a base that cannot be used, ConfigError for one of
    another architecture, or without the predictor that the method trains.
    """
    net, method = config.net, make_method(config.method)
    teaches = getattr(method, "variants", 0)
    if not net.base:
        reader = load_features("tiny") if teaches else None
        return outfit(Base.new(net.arch, net.padding, seed=config.training.seed, width=net.width or None, predictor=reader), method)
    base = Base.shipped(net.arch) if net.base == "shipped" else Base.load(net.base)
    if (base.arch, base.padding) != (net.arch, net.padding):
        raise ConfigError(
            f"net.base = {net.base!r} is a {base.arch} with padding {base.padding}: set net.arch and net.padding to these, or take another"
        )
    if teaches and not base.predicts:
        raise ConfigError(f"net.base = {net.base!r} has no predictor of norms, which {config.method['name']} trains: take another")
    return outfit(dataclasses.replace(base, record={**base.record, "round": 0}), method)


@dataclass
class Clients:
    """Makes the run's clients, each with its home under `out`/clients; it can be pickled to another process.

    Each client draws its crops and batches from a seed of its own, derived from the run's. The first `resident` clients that are asked for
    stay in memory with their crops, and their styles with what the feature network sees in them; others are made anew each time. What a
    process keeps of content features and of clients' states is bounded too: see `keeping`.
    """

    config: Config
    out: Path
    resident: int = 64
    _made: dict[int, Client] = field(default_factory=dict, init=False, repr=False)
    _looks: dict[tuple[str, int, int], Style] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Only the recipe travels, not the clients."""
        return {"config": self.config, "out": self.out, "resident": self.resident}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with no client made."""
        self.__init__(**state)  # type: ignore[misc]

    @functools.cached_property
    def population(self) -> Population:
        """The devices."""
        return plan(self.config)

    def home(self, partition: int) -> Path:
        """The device's own folder."""
        return self.out / "clients" / self.population.devices[partition].id

    def __call__(self, partition: int) -> Client:
        """The client of a partition: the one that stays, or one made now."""
        with self._lock:
            if partition in self._made:
                return self._made[partition]
        device, config = self.population.devices[partition], self.config
        seed = derive(config.training.seed, "client", partition)
        client = Client(
            self.home(partition),
            device.photos,
            self._style(device),
            method=make_method(config.method),
            privacy=config.privacy,
            loss=config.loss,
            training=dataclasses.replace(config.training, seed=seed),
        )
        with self._lock:
            return self._made.setdefault(partition, client) if len(self._made) < self.resident else client

    def _style(self, device: Device) -> Style:
        """A device's style, which devices with the same image and wishes share."""
        wish = (device.style_name if device.style_file is None else f"{device.style_file}", device.strength, device.density)
        with self._lock:
            if wish in self._looks:
                return self._looks[wish]
        style = _look(device.style_image(self.config.training.seed), device.strength, device.density)
        with self._lock:
            return self._looks.setdefault(wish, style) if len(self._looks) < self.resident else style
