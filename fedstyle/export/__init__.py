"""Exports a filter as Core ML or ONNX, proves an exported file on this machine, and shows what is in it.

Importing this package is quick: coremltools, onnx and ONNX Runtime are loaded when a call needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedstyle.calling import make_callable
from fedstyle.errors import ConfigError, OutputError
from fedstyle.export import coreml, onnx, reader
from fedstyle.export.coreml import Sizes
from fedstyle.export.parity import Parity
from fedstyle.export.parity import verify as _verify
from fedstyle.export.program import Feature, labels
from fedstyle.filter import Filter

__all__ = ["Parity", "Sizes", "export", "inspect", "verify"]

PRECISIONS = {".mlpackage": ("fp16", "fp32"), ".mlmodel": ("fp32",), ".onnx": ("fp32",)}
"""The precisions that each suffix can have, its default first."""
_ABOUT = ("author", "license", "version", "description")
_IOS = {4: "iOS 13, macOS 10.15", 5: "iOS 14, macOS 11", 6: "iOS 15, macOS 12", 7: "iOS 16, macOS 13", 8: "iOS 17, macOS 14"}
_AVAILABILITY = {**_IOS, 9: "iOS 18, macOS 15", 10: "iOS 26, macOS 26"}


def _suffix(path: Path) -> str:
    if path.suffix not in PRECISIONS:
        raise ConfigError(f"{path} has no suffix of an exported model: name it {', '.join(PRECISIONS)}")
    return path.suffix


def _about(filter: Filter, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The author, license, version and description that an export carries."""
    known = labels(filter)
    details = [f"network {known['algorithm']}"]
    for key, word in (("styleStrength", "style strength"), ("textelDensity", "style density")):
        if key in known:
            details.append(f"{word} {known[key]}")
    about = {
        "author": "The filter's owner",
        "license": "All rights reserved",
        "version": "1.0",
        "description": f"A personal photo filter made with fedstyle ({', '.join(details)}).",
    }
    for key, value in (metadata or {}).items():
        if key not in about:
            raise ConfigError(f"an export has no metadata {key!r}: choose from {', '.join(_ABOUT)}")
        about[key] = str(value)
    return about


def export(
    filter: Filter,
    path: str | Path,
    *,
    size: int | tuple[int, int] | Sizes = 512,
    precision: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a filter as a model for apps, in the format that the suffix names, and give its path.

    .mlpackage is an ML program (iOS 15, fp16 or fp32), .mlmodel a classic neural network (iOS 13, fp32), .onnx has opset 20 (fp32).
    The Core ML forms take and give colour images of `size` pixels, a side or (height, width), in multiples of 4; a `Sizes` gives a
    .mlpackage several. ONNX takes `image` and gives `stylizedImage` as (1, 3, H, W) RGB in [0, 1] for any H and W in multiples
    of 4, whatever `size` is. `metadata` may set author, license, version and description.
    Raises ConfigError for a suffix, size, precision or metadata key that cannot be, OutputError when `path` exists or cannot be
    written, ExportError when the conversion fails, such as an fp16 one of a filter whose activations come near to 65,504.
    """
    path = Path(path)
    suffix = _suffix(path)
    precision = precision or PRECISIONS[suffix][0]
    if precision not in PRECISIONS[suffix]:
        raise ConfigError(f"a {suffix} cannot have precision {precision!r}: choose {' or '.join(PRECISIONS[suffix])}")
    if isinstance(size, Sizes):
        if suffix != ".mlpackage":
            raise ConfigError(f"a {suffix} cannot have several sizes: export a .mlpackage, or give one size")
    else:
        size = (size, size) if isinstance(size, int) else size
        coreml.check_size(size)
    about = _about(filter, metadata)
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: choose another place, or remove it first")
    if suffix == ".onnx":
        onnx.write(filter, path, about)
    else:
        coreml.write(filter, path, size, precision, about)
    return path


def verify(path: str | Path, filter: Filter) -> Parity:
    """Run an exported file itself on this machine and compare it with its filter; see `fedstyle.export.parity.verify`."""
    _suffix(Path(path))
    return _verify(Path(path), filter)


def inspect(path: str | Path) -> dict[str, Any]:
    """What Xcode's panel shows of a model: format, bytes, storage, inputs, outputs, availability, metadata, counts of operations.

    Raises ExportError when there is no readable model at `path`, ConfigError when its suffix is none of a model.
    """
    path = Path(path)
    model = (onnx if _suffix(path) == ".onnx" else reader).read(path)
    availability = f"{_AVAILABILITY.get(model.version, f'specification {model.version}')} or later"
    return {
        "format": {"mlProgram": "ML program", "neuralNetwork": "neural network", "onnx": "ONNX"}[model.format],
        "bytes": model.bytes,
        "storage": model.storage,
        "inputs": [_show(feature) for feature in model.inputs],
        "outputs": [_show(feature) for feature in model.outputs],
        "availability": f"opset {model.version}" if model.format == "onnx" else availability,
        "metadata": {**model.metadata, "userDefined": dict(sorted(model.labels.items()))},
        "operations": dict(model.operations),
    }


def _show(feature: Feature) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": feature.name, "type": feature.kind, "description": feature.description}
    if feature.size is not None:
        shown |= {"color": feature.color, "height": feature.size[0], "width": feature.size[1]}
    if feature.sizes:
        shown["sizes"] = [list(size) for size in feature.sizes]
    if feature.span is not None:
        shown |= {"smallest": list(feature.span[0]), "largest": list(feature.span[1])}
    return shown


make_callable(__name__, export)
