"""One TOML a run, read into frozen dataclasses: [data] [net] [loss] [training] [method] [privacy] [server] [export].

A field's default is the value that a run takes when the file is silent. An unknown key is an error that names the file, the key and the
nearest valid one. Paths in the file are relative to the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

from fedstyle import tables
from fedstyle.data import Data
from fedstyle.errors import ConfigError
from fedstyle.net import ARCHITECTURES, PADDINGS
from fedstyle.privacy.settings import Privacy
from fedstyle.tables import nearest, need, read

__all__ = ["Config", "Data", "Export", "Loss", "Net", "Privacy", "Server", "Training", "Wire"]

Wire = Literal["fp32", "fp16", "int8"]
"""A type of the numbers that cross the wire; `flower.wire` has their form."""


@dataclass(frozen=True)
class Net:
    """The transform network."""

    arch: str = "cnnLite"
    padding: str = "reflect"
    width: int = 0
    """A quarter of the residual blocks' channels, for quick studies; 0 is the architecture's own (32 for cnn, 16 for cnnLite)."""

    base: str = ""
    """The base to start from, a folder or `shipped`; empty is an untrained one."""

    def __post_init__(self) -> None:
        """Check names."""
        need(self.arch in ARCHITECTURES, "net.arch", self.arch, f"choose one of {', '.join(ARCHITECTURES)}")
        need(self.padding in PADDINGS, "net.padding", self.padding, f"choose one of {', '.join(PADDINGS)}")
        need(0 <= self.width <= 128, "net.width", self.width, "give 1 to 128 channels, or 0 for the architecture's own")
        need(not (self.base and self.width), "net.width", self.width, "the base that net.base names has a width of its own; leave one out")


@dataclass(frozen=True)
class Loss:
    """What a filter is trained to reach: content weight, style weight, weights per layer, total variation."""

    features: str = "tiny"
    """The feature network: tiny, vgg16 or vgg19."""
    weights: str = ""
    """A file with the feature network's weights; empty takes the embedded or the cached ones."""
    content: float = 1.0
    style: float = 10.0
    layers: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weight of each style tap, from fine to coarse."""
    total_variation: float = 0.0
    strength: int = 5
    """Style strength 1..10, as in Create ML."""
    density: int = 256
    """Style density 64..1024 pixels, as in Create ML."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("content", "style", "total_variation"):
            need(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "a weight is 0 or more")
        need(
            len(self.layers) == 3 and min(self.layers) >= 0 < max(self.layers), "loss.layers", self.layers, "give three weights, not all 0"
        )
        need(1 <= self.strength <= 10, "loss.strength", self.strength, "give 1 to 10")
        need(64 <= self.density <= 1024, "loss.density", self.density, "give 64 to 1024 pixels")


@dataclass(frozen=True)
class Training:
    """How a client trains, in a round and when it personalises."""

    size: int = 128
    """Side of the square training crops in pixels, a multiple of 4."""
    batch: int = 4
    crops: int = 32
    """Crops that a client cuts from its photos; their content features are computed once."""
    iterations: int = 100
    """Iterations of personalisation; 0 leaves it out."""
    rate: float = 2e-3
    """Adam's rate for convolutions."""
    norm_rate: float = 1e-2
    """Adam's rate for instance-norm scale and shift."""
    warmup: int = 10
    """Iterations over which a fresh optimiser's rates rise to their value."""
    processing: str = "scale-fill"
    """How a photo becomes square: scale-fill cuts at a random place, centre-crop in the middle, scale-fit shows all of it."""
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.size >= 32 and self.size % 4 == 0, "training.size", self.size, "give a multiple of 4 from 32 on")
        for name, least in (("batch", 1), ("crops", 1), ("iterations", 0), ("warmup", 0), ("seed", 0)):
            need(getattr(self, name) >= least, f"training.{name}", getattr(self, name), f"give {least} or more")
        for name in ("rate", "norm_rate"):
            need(0 < getattr(self, name) <= 1, f"training.{name}", getattr(self, name), "a learning rate lies over 0 and up to 1")
        need(self.processing in PROCESSING, "training.processing", self.processing, f"choose one of {', '.join(PROCESSING)}")
        need(self.device in DEVICES, "training.device", self.device, f"choose one of {', '.join(DEVICES)}")

    @classmethod
    def for_base(cls, record: Mapping[str, Any], **wishes: Any) -> Self:
        """How to personalise from a base: at the rates and warm-up that its record names under `personal`, otherwise at the defaults.

        `wishes` are fields, and win. Raises ConfigError for an entry that is none of `rate`, `norm_rate` and `warmup`, or out of range.
        """
        advised = record.get("personal", {})
        need(isinstance(advised, dict), "the base's record.personal", advised, "it is a table of rates; take a fresh copy of the base")
        if strange := sorted(advised.keys() - {"rate", "norm_rate", "warmup"}):
            raise ConfigError(
                f"the base's record.personal has an entry {strange[0]!r} that is no rate: a newer fedstyle may have written it"
            )
        return dataclasses.replace(read(cls, advised, "the base's record.personal"), **wishes)


DEVICES = ("auto", "cpu", "cuda", "mps")
PROCESSING = ("scale-fill", "scale-fit", "centre-crop")
"""How a photo becomes a square, by Create ML's names; `Photos.crops` says what each shows in training."""


@dataclass(frozen=True)
class Server:
    """The federation: engine, rounds, cohort and Flower strategy."""

    engine: Literal["inline", "ray"] = "inline"
    rounds: int = 10
    cohort: int = 0
    """Clients sampled a round, by seed; 0 is all of them."""
    strategy: str = "FedAvg"
    """The name of a stock strategy in flwr.serverapp.strategy."""
    options: Mapping[str, float] = field(default_factory=dict)
    """That strategy's own numbers, such as eta or beta."""
    min_replies: float = 1.0
    """Least share of the cohort that must reply; a round with fewer fails the run."""
    timeout: float = 3600.0
    """Seconds that a round waits for replies."""
    bound: float = 0.0
    """Largest joint L2 norm of an update that the server takes; a larger one is dropped. 0 takes any."""
    level: bool = False
    """Whether updates that are longer than the round's median are shortened to it, so that nobody pulls harder than most do."""
    wire: Wire = "fp16"
    """Type of the numbers that cross the wire, base and updates; the server keeps its base, and sums, in fp32.

    int8 is for updates, with a scale for each output channel, and takes half of what fp16 does; the base crosses in fp16 then."""
    workers: int = 0
    """Clients that train at once, one thread each; 0 is one a core."""
    unseen: int = 0
    """Clients that no round asks; they make their filter at the end and are reported apart."""
    late: int = 0
    """Clients that rounds ask from `late_round` on."""
    late_round: int = 2
    flaky: int = 0
    """Clients that, when a round asks them, fail with the chance `flaky_rate`: gone before they train, or too late with their reply."""
    flaky_rate: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("rounds", "cohort", "workers", "unseen", "late", "flaky"):
            need(getattr(self, name) >= 0, f"server.{name}", getattr(self, name), "give 0 or more")
        need(self.late_round >= 2, "server.late_round", self.late_round, "give a round from 2 on")
        joined = not self.late or self.late_round <= self.rounds
        need(joined, "server.late_round", self.late_round, f"there are {self.rounds} rounds, so late clients would be unseen ones")
        need(0 <= self.flaky_rate <= 1, "server.flaky_rate", self.flaky_rate, "give a chance from 0 to 1")
        survives = not self.flaky or self.min_replies < 1
        need(survives, "server.min_replies", self.min_replies, "flaky clients will miss replies; give the share to go on with, such as 0.5")
        need(0 < self.min_replies <= 1, "server.min_replies", self.min_replies, "give a share over 0 and up to 1")
        need(self.bound >= 0, "server.bound", self.bound, "give a norm over 0, or 0 for none")
        need(self.timeout > 0, "server.timeout", self.timeout, "give seconds over 0")


@dataclass(frozen=True)
class Export:
    """What is made of each client's filter at the end."""

    full: bool = False
    """Whether a filter is tuned in every parameter, not in the method's private ones alone."""
    clients: bool = True
    """Whether each client's filter is exported and verified."""
    size: int = 512
    precision: Literal["fp16", "fp32"] = "fp16"
    author: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(64 <= self.size <= 4096 and self.size % 4 == 0, "export.size", self.size, "give a multiple of 4 from 64 to 4096")


@dataclass(frozen=True)
class Config:
    """A whole run. `method` keeps the table as it stands: `method.name` and that method's own fields."""

    data: Data = field(default_factory=Data)
    net: Net = field(default_factory=Net)
    loss: Loss = field(default_factory=Loss)
    training: Training = field(default_factory=Training)
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedbn"})
    privacy: Privacy = field(default_factory=Privacy)
    server: Server = field(default_factory=Server)
    export: Export = field(default_factory=Export)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML file and apply overrides of the form `table.key=value`.

        Raises ConfigError, naming the file, for a file that is absent or no TOML, an unknown key, or a value of the wrong type or range.
        """
        path = Path(path)
        found = tables.load(path)
        try:
            for text in overrides:
                tables.override(found, text)
            return cls._from_tables(found, path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def _from_tables(cls, found: Mapping[str, Any], home: Path) -> Self:
        known = {item.name: item for item in fields(cls)}
        for name, table in found.items():
            if name not in known:
                raise ConfigError(f"unknown table [{name}]{nearest(name, known)}")
            if not isinstance(table, dict):
                raise ConfigError(f"{name} = {table!r}: it is a table; write [{name}] and its keys below it")
        hints = get_type_hints(cls)
        parts: dict[str, Any] = {name: read(hints[name], table, name) for name, table in found.items() if name != "method"}
        if "method" in found:
            parts["method"] = {"name": "fedbn", **found["method"]}
            name = parts["method"]["name"]
            if isinstance(name, str) and ":" in name:  # a method in a file of the user's own
                file, _, kind = name.rpartition(":")
                parts["method"]["name"] = f"{_located(file, '', home)}:{kind}"
        config = cls(**parts)
        config.privacy.check_given(found.get("privacy", {}))
        data = dataclasses.replace(
            config.data, photos=_located(config.data.photos, "demo", home), styles=_located(config.data.styles, "painted", home)
        )
        loss = dataclasses.replace(config.loss, weights=_located(config.loss.weights, "", home))
        net = dataclasses.replace(config.net, base=_located(config.net.base, "shipped", home) if config.net.base else "")
        return dataclasses.replace(config, data=data, net=net, loss=loss)

    def tables(self) -> dict[str, dict[str, Any]]:
        """The configuration as plain tables, every default written out."""
        return {item.name: tables.plain(getattr(self, item.name)) for item in fields(self)}

    def toml(self) -> str:
        """The configuration as TOML that `load` reads back to an equal value."""
        parts = []
        for name, table in self.tables().items():
            parts.append("\n".join([f"[{name}]", *(f"{key} = {tables.write(value)}" for key, value in table.items())]))
        return "\n\n".join(parts) + "\n"


def _located(value: Any, word: str, home: Path) -> Any:
    if isinstance(value, tuple):
        return tuple(_located(item, word, home) for item in value)
    if value == word:
        return value
    try:
        return str((home / Path(value).expanduser()).resolve())
    except RuntimeError:
        raise ConfigError(f"the path {value!r} begins with a user who is not known here: write the folder out") from None
