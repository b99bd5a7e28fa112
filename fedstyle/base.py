"""The shared base network that everyone starts from, and its identity."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from fedstyle import params
from fedstyle.companions import is_own, part
from fedstyle.errors import BaseError, ConfigError, FedstyleError, ParamsError
from fedstyle.files import sha256, staged, write_json
from fedstyle.net import TransformNet, initialise
from fedstyle.perceptual import FeatureNet
from fedstyle.prediction import PREFIX, PredictiveNet, is_predictor, new_predictor

M = TypeVar("M", bound=nn.Module)
SHIPPED = Path(__file__).parent / "weights"
"""Where the bases that fedstyle carries lie, a folder for each architecture."""


def build(arch: str, padding: str, weights: params.Params) -> TransformNet:
    """A network that holds these weights, a PredictiveNet when a predictor is among them.

    Raises ParamsError where they do not fit the architecture.
    """
    first = weights.get("down1.conv.weight")
    if first is None or first.ndim != 4:
        raise ParamsError(f"the tensors are no {arch} network: 'down1.conv.weight' is missing")
    width = first.shape[0] // (2 if arch == "cnnLite" else 1) or 1
    centre = weights.get(f"{PREFIX}centre")
    blank, own = _blank(str(arch), str(padding), width, 0 if centre is None else len(centre))
    params.check_alike(weights, own, f"the {arch} network")
    return _filled(blank, {name: value.detach().float().clone() for name, value in weights.items()})


@functools.lru_cache(maxsize=16)
def _blank(arch: str, padding: str, width: int, code: int) -> tuple[TransformNet, dict[str, nn.Parameter]]:
    """A network without weights, to make others from, and its parameters by name: to construct layers takes longer than to fill them."""
    with torch.device("meta"):
        net = PredictiveNet(arch, padding, width=width, code=code) if code else TransformNet(arch, padding, width=width)
    return net, dict(net.named_parameters())


def _filled(module: M, weights: params.Params, prefix: str = "") -> M:
    """A copy of a module that has these weights, by the names under `prefix`, and shares nothing with it."""
    made = module.__new__(type(module))
    made.__dict__ = {key: value.copy() if isinstance(value, dict | set) else value for key, value in module.__dict__.items()}
    for name, value in module._parameters.items():
        if value is not None:
            made._parameters[name] = nn.Parameter(weights[prefix + name], requires_grad=value.requires_grad)
    for name, child in module._modules.items():
        if child is not None:
            made._modules[name] = _filled(child, weights, f"{prefix}{name}.")
    return made


@dataclass(frozen=True)
class Base:
    """A transform network's weights, with the predictor and the companions that ride along, and where they come from.

    `record` is free JSON about the recipe (rounds, strategy, seed ...); it holds nothing private and takes no part in the identity. Its
    entry `personal`, where there is one, names rates and warm-up for few steps from this base: see `Training.for_base`.
    """

    arch: str
    padding: str
    weights: Mapping[str, Tensor]
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def new(
        cls,
        arch: str = "cnnLite",
        padding: str = "reflect",
        *,
        seed: int = 0,
        width: int | None = None,
        predictor: FeatureNet | None = None,
    ) -> Self:
        """An untrained base, drawn from `seed` alone; with a predictor of norms when a feature network is given to read styles with."""
        net = TransformNet(arch, padding, width=width)
        initialise(net, seed)
        weights = {name: value.detach() for name, value in net.named_parameters()}
        if predictor:
            weights |= new_predictor(net, predictor, seed)
        return cls(arch, padding, weights, {"seed": seed, "round": 0})

    @classmethod
    def shipped(cls, arch: str = "cnnLite") -> Self:
        """The base that fedstyle carries for an architecture; raises BaseError where there is none, or it is damaged."""
        if not (SHIPPED / arch).is_dir():
            raise BaseError(f"fedstyle carries no base for {arch!r}: give the folder of another base, or start from nothing")
        return cls.load(SHIPPED / arch)

    @property
    def sha256(self) -> str:
        """The identity of the weights: see `params.fingerprint`."""
        return params.fingerprint(self.weights)

    def net(self) -> TransformNet:
        """A fresh network with these weights, without companions."""
        return build(self.arch, self.padding, part(self.weights)[0])

    @property
    def predicts(self) -> bool:
        """Whether it has a predictor of norms."""
        return any(map(is_predictor, self.weights))

    def transform(self, code: Tensor | None = None) -> dict[str, Tensor]:
        """The transform network's own weights; with a style's code (and a predictor) the norms are those predicted for it."""
        plain = {name: value for name, value in self.weights.items() if is_own(name)}
        if code is None or not self.predicts:
            return plain
        net = self.net()
        assert isinstance(net, PredictiveNet)
        with torch.no_grad():
            return plain | net.norms(code.cpu())

    def halved(self) -> Self:
        """The same base with every weight rounded to fp16, as `save(half=True)` stores it."""
        return dataclasses.replace(self, weights={name: value.half().float() for name, value in self.weights.items()})

    def save(self, path: Path, *, half: bool = False) -> None:
        """Write the folder `path` with base.safetensors and base.json, in the place of an older base there; `half` stores fp16.

        Raises OutputError for any other thing at `path`, BaseError where fp16 would change a weight: see `halved`.
        """
        if half and self.halved().sha256 != self.sha256:
            raise BaseError("the weights are not all fp16 numbers: save base.halved()")
        with staged(Path(path), replaces="base.json") as folder:
            stored = {name: value.half() for name, value in self.weights.items()} if half else self.weights
            params.save(stored, folder / "base.safetensors")
            facts = {"format": "fedstyle-base-1", "architecture": self.arch, "padding": self.padding, "base_sha256": self.sha256}
            write_json(folder / "base.json", {**facts, "file_sha256": sha256(folder / "base.safetensors"), "record": dict(self.record)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a base's folder; raises BaseError when it is none, is damaged, or does not fit its architecture."""
        facts, stored = read(Path(path), "base", BaseError)
        weights = {name: value.float() for name, value in stored.items()}
        record = facts.get("record", {})
        if not isinstance(record, dict):
            raise BaseError(f"{path}/base.json: record is no table: it was altered; take a fresh copy of the base")
        base = cls(facts["architecture"], facts["padding"], weights, record)
        if base.sha256 != (said := facts.get("base_sha256")):
            raise BaseError(f"{path}: the weights are not those of base {str(said)[:12]}: take a fresh copy of the base")
        return base


def read(folder: Path, kind: str, error: type[FedstyleError]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `kind`.json and `kind`.safetensors, checked against each other; raises `error` where they do not fit."""
    try:
        facts = json.loads((folder / f"{kind}.json").read_text())
    except (OSError, ValueError):
        raise error(f"{folder} is no {kind}: it has no readable {kind}.json. Give a folder that fedstyle wrote as a {kind}") from None
    if not isinstance(facts, dict) or facts.get("format") != f"fedstyle-{kind}-1":
        raise error(f"{folder}/{kind}.json is not of the format fedstyle-{kind}-1: a newer fedstyle may have written it")
    try:
        weights = params.load(folder / f"{kind}.safetensors", sha256=str(facts["file_sha256"]))
        build(facts["architecture"], facts["padding"], part(weights)[0] if kind == "base" else weights)
    except KeyError as missing:
        raise error(f"{folder}/{kind}.json has no entry {missing}: it was altered; take a fresh copy") from None
    except (ParamsError, ConfigError) as wrong:
        raise error(f"{folder}: {wrong}") from None
    return facts, weights
