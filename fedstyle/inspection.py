"""What is in a thing that fedstyle made: a base, filter, update, run, client's home, session or exported model, told by its content."""

from __future__ import annotations

import inspect as python
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedstyle import params
from fedstyle.base import Base
from fedstyle.companions import is_companion
from fedstyle.config import Server
from fedstyle.errors import FedstyleError, ParamsError
from fedstyle.files import read_lines
from fedstyle.filter import Filter
from fedstyle.methods import METHODS, make_method, settings
from fedstyle.net import ARCHITECTURES, InstanceNorm, TransformNet, is_norm
from fedstyle.picture import show
from fedstyle.prediction import PredictiveNet, is_predictor

MODELS = (".mlpackage", ".mlmodel", ".onnx")
WIRE_BYTES = {"fp16": 2, "fp32": 4}
"""The bytes of a number by its type on the wire."""


def inspect(path: str | Path) -> dict[str, Any]:
    """Facts about what lies at `path` as JSON can hold them; `kind` says what it is.

    Raises FedstyleError when there is nothing, nothing that fedstyle knows, or something damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FedstyleError(f"{show(path)} does not exist: give a base, filter, update, run or exported model")
    if path.is_dir():
        tellers = {
            "Manifest.json": _model,
            "base.json": _base,
            "filter.json": _filter,
            "session.json": _session,
            "config.toml": _run,
            "private.safetensors": _home,
            "ledger.jsonl": _home,
            "losses.jsonl": _home,
        }
        for name, tell in tellers.items():
            if (path / name).exists():
                return tell(path)
    elif path.suffix in MODELS:
        return _model(path)
    elif path.suffix == ".safetensors":
        if (path.parent / "filter.json").exists() and path.name == "filter.safetensors":
            return _filter(path.parent)
        if (path.parent / "base.json").exists() and path.name == "base.safetensors":
            return _base(path.parent)
        return _update(path)
    if path.suffix in MODELS:
        return _model(path)
    raise FedstyleError(f"{show(path)} is nothing that fedstyle knows: give a base, filter, update, run or exported model")


def describe_methods() -> list[dict[str, Any]]:
    """Every personalisation method: name, paper, what it shares, and its fields with their defaults, as its own code says."""
    net, rows = TransformNet("cnnLite"), []
    for name, kind in METHODS.items():
        method: Any = make_method({"name": name})
        shared, private = params.split(dict(net.named_parameters()), method.shares)
        beside = method.companions(net) if hasattr(method, "companions") else {}
        head = _first_line(python.getmodule(kind))
        paper = re.search(r"\(([^()]*\b\d{4}[^()]*)\)", head)
        rows.append(
            {
                "name": name,
                "about": _first_line(kind),
                "paper": paper[1] if paper else "",
                "shares": _first_line(kind.shares),
                "shared_parameters": sum(value.numel() for value in shared.values()),
                "private_parameters": sum(value.numel() for value in private.values()),
                "companion_parameters": sum(value.numel() for value in beside.values()),
                "fields": settings(kind),
            }
        )
    return rows


def _first_line(thing: object) -> str:
    return (python.getdoc(thing) or "").partition("\n")[0]


def _model(path: Path) -> dict[str, Any]:
    from fedstyle.export import inspect as inspect_model

    facts = inspect_model(path)
    return {"kind": "pack of filters" if "filters" in facts else "exported model", **facts}


def _network(model: Base | Filter, net: nn.Module) -> dict[str, Any]:
    """What base and filter have in common; inputs and outputs are those of an export."""
    beside, rest = params.split(model.weights, is_companion)
    predictor, own = params.split(rest, is_predictor)
    shared, private = params.split(own, lambda name: not is_norm(name))
    layers = Counter({nn.Conv2d: "conv", InstanceNorm: "instance_norm"}.get(type(module)) for module in net.modules())
    side = {"type": "image", "color": "RGB", "sizes": "any; multiples of 4 in an export"}
    facts: dict[str, Any] = {
        "architecture": model.arch,
        "padding": model.padding,
        "sha256": model.sha256,
        "parameters": sum(value.numel() for value in model.weights.values()),
        "bytes": params.size(model.weights),
        "inputs": [{"name": "image", **side}],
        "outputs": [{"name": "stylizedImage", **side}],
        "operations": dict(sorted((str(name), count) for name, count in layers.items() if name)),
        "would_leave": {**_sent(shared), "what": "convolutions, as a delta, in a round with the default method"},
        "stays": {**_amount(private), "what": "instance-norm scale and shift"},
    }
    if predictor:
        facts["predictor"] = {**_amount(predictor), "what": "reads norms off a style image; the default method sends no change of it"}
    if beside:
        facts["companions"] = {**_amount(beside), "what": "travel with the base for the method that made it; another drops them"}
    return facts


def _amount(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {"arrays": len(tensors), "parameters": sum(value.numel() for value in tensors.values()), "bytes": params.size(tensors)}


def _sent(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The amount as it crosses the wire by default, whatever the type on disk."""
    wire = Server().wire
    return {**_amount(tensors), "bytes": sum(value.numel() for value in tensors.values()) * WIRE_BYTES[wire], "type": wire}


def _base(path: Path) -> dict[str, Any]:
    base = Base.load(path)
    return {"kind": "base", **_network(base, base.net()), "record": dict(base.record)}


def _filter(path: Path) -> dict[str, Any]:
    made = Filter.load(path)
    return {"kind": "filter", **_network(made, made.net), "facts": dict(made.facts)}


def _update(path: Path) -> dict[str, Any]:
    """Loose tensors: an update if they have a network's names, all of which leave."""
    tensors = params.load(path)
    known = {name for arch in ARCHITECTURES for name, _ in PredictiveNet(arch, "reflect", width=1, code=1).named_parameters()}
    strange = sorted(name for name in tensors if name not in known and not is_companion(name))
    if not tensors or strange:
        found = f"it holds {strange[0]!r}" if strange else "it is empty"
        raise ParamsError(f"{show(path)} is no update of a transform network: {found}; give a base, filter or update")
    norm = sum(float(value.double().square().sum()) for value in tensors.values()) ** 0.5
    return {
        "kind": "update",
        "norm": norm,
        "would_leave": _sent(tensors),
        "private_arrays": sorted(name for name in tensors if is_norm(name) or is_predictor(name)),
        "arrays": [
            {"name": name, "type": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "bytes": params.size({name: value})}
            for name, value in sorted(tensors.items())
        ],
    }


def _run(path: Path) -> dict[str, Any]:
    """A simulation's folder, finished or not."""
    rounds = read_lines(path / "history.jsonl")
    facts: dict[str, Any] = {"kind": "run", "finished": (path / "summary.json").exists(), "rounds_done": len(rounds)}
    if facts["finished"]:
        facts |= _object(path / "summary.json", "run the simulation again")
    elif rounds:
        facts |= {key: rounds[-1][key] for key in ("base_sha256", "loss") if key in rounds[-1]}
    homes = sorted(home for home in (path / "clients").glob("*") if home.is_dir())
    return facts | {"left_devices": {home.name: _left(_ledger(home)) for home in homes}}


def _object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FedstyleError(f"{show(path)} is damaged: {remedy}")
    return found


def _ledger(home: Path) -> list[dict[str, Any]]:
    """The lines of a device's own ledger, each of them a message that left."""
    path = home / "ledger.jsonl"
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        kinds = {"kind": str, "bytes": int, "arrays": dict}
        if not all(isinstance(({"arrays": {}} | line).get(key), kind) for key, kind in kinds.items()):
            raise FedstyleError(f"{show(path)} is damaged: line {number} is no entry of a ledger")
    return lines


def _left(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What left a device, from its own ledger."""
    names = sorted({name for line in lines for name in line.get("arrays", {})})
    return {"messages": len(lines), "bytes": sum(line["bytes"] for line in lines), "arrays": len(names)}


def _home(path: Path) -> dict[str, Any]:
    kept = params.load(path / "private.safetensors") if (path / "private.safetensors").exists() else {}
    lines = _ledger(path)
    return {
        "kind": "client",
        "rounds": sum(line["kind"] == "update" for line in lines),
        "left": _left(lines),
        "arrays_that_left": sorted({name for line in lines for name in line.get("arrays", {})}),
        "stays": _amount({name: value for name, value in kept.items() if name.startswith("net/")}),
        "filter": (path / "filter" / "filter.json").exists(),
        "models": sorted(show(item.name) for item in path.iterdir() if item.suffix in MODELS),
    }


def _session(path: Path) -> dict[str, Any]:
    from fedstyle.session import Session

    return {"kind": "session", "checkpoints": [one.iteration for one in Session(path).checkpoints()]}
