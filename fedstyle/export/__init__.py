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
from fedstyle.export.contract import LIST
from fedstyle.export.coreml import Sizes
from fedstyle.export.packing import Pack, pack
from fedstyle.export.parity import Parity
from fedstyle.export.parity import verify as _verify
from fedstyle.export.program import Feature, Model, Unfaithful, about, labels
from fedstyle.export.styles import blend, entries
from fedstyle.files import staged
from fedstyle.filter import Filter

__all__ = ["Pack", "Parity", "Sizes", "Unfaithful", "blend", "export", "inspect", "pack", "verify"]

PRECISIONS = {".mlpackage": ("fp16", "fp32"), ".mlmodel": ("fp32",), ".onnx": ("fp32",)}
"""The precisions that each suffix can have, its default first."""
_IOS = {4: "iOS 13, macOS 10.15", 5: "iOS 14, macOS 11", 6: "iOS 15, macOS 12", 7: "iOS 16, macOS 13", 8: "iOS 17, macOS 14"}
_AVAILABILITY = {**_IOS, 9: "iOS 18, macOS 15", 10: "iOS 26, macOS 26"}


def _suffix(path: Path) -> str:
    if path.suffix not in PRECISIONS:
        raise ConfigError(f"{path} has no suffix of an exported model: name it {', '.join(PRECISIONS)}")
    return path.suffix


def _words(filter: Filter) -> str:
    """What an export says about itself unless told otherwise."""
    known = labels(filter)
    details = [f"network {known['algorithm']}"]
    for key, word in (("styleStrength", "style strength"), ("textelDensity", "style density")):
        if key in known:
            details.append(f"{word} {known[key]}")
    return f"A personal photo filter made with fedstyle ({', '.join(details)})."


def export(
    filter: Filter,
    path: str | Path,
    *,
    size: int | tuple[int, int] | Sizes = 512,
    precision: str | None = None,
    compress: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a filter as a model for apps, in the format that the suffix names, and give its path.

    .mlpackage is an ML program (iOS 15, fp16 or fp32), .mlmodel a classic neural network (iOS 13, fp32), .onnx has opset 20 (fp32).
    The Core ML forms take and give colour images of `size` pixels, a side or (height, width), in multiples of 4; a `Sizes` gives a
    .mlpackage several. ONNX takes `image` and gives `stylizedImage` as (1, 3, H, W) RGB in [0, 1] for any H and W in multiples
    of 4, whatever `size` is. `metadata` may set author, license, version and description.

    `compress` makes a .mlpackage smaller: `int8` (a scale for each output channel, iOS 16, about half of fp16) or `palette4` (palettes of
    16 values for each 16 channels of the residual blocks, iOS 18, well under half; needs scikit-learn). A compressed export is run before
    it stands, and must agree with the filter to 35 dB on the test picture.

    Raises ConfigError for a suffix, size, precision, compression or metadata key that cannot be, OutputError when `path` exists or cannot
    be written, ExportError when the conversion fails, such as an fp16 one of a filter whose activations come near to 65,504, and of it
    Unfaithful when a compressed export is under 35 dB.
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
    if compress and (compress not in coreml.COMPRESSIONS or suffix != ".mlpackage" or precision != "fp16"):
        raise ConfigError(f"compression {compress!r} cannot be here: {' and '.join(coreml.COMPRESSIONS)} are for a .mlpackage of fp16")
    words = about(_words(filter), metadata)
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: choose another place, or remove it first")
    if suffix == ".onnx":
        onnx.write(filter, path, words)
    elif compress:
        with staged(path) as folder:
            made = folder / path.name
            coreml.write(filter, made, size, precision, words, compress=compress)
            parity = _verify(made, filter)
            if not parity.faithful:
                raise Unfaithful(f"compressed as {compress} the filter is not itself, so nothing was written: {'; '.join(parity.problems)}")
            coreml.settle(made, folder)
    else:
        coreml.write(filter, path, size, precision, words)
    return path


def verify(path: str | Path, filter: Filter) -> Parity:
    """Run an exported file itself on this machine and compare it with its filter; see `fedstyle.export.parity.verify`.

    Of a pack, the function or style file of this filter is run; the pack's metadata says which one that is.
    """
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
        "metadata": {**model.metadata, "userDefined": {key: text for key, text in sorted(model.labels.items()) if key != LIST}},
        "operations": dict(model.operations),
        **_pack(model),
    }


def _pack(model: Model) -> dict[str, Any]:
    """What is in a pack, for `inspect`; nothing for another model."""
    if LIST not in model.labels:
        return {}
    listed = [dict(entry) for entry in entries(model.labels[LIST])]
    return {"target": "ios18" if model.functions else "ios15", "filters": listed}


def _show(feature: Feature) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": feature.name, "type": feature.kind, "description": feature.description}
    if feature.size is not None:
        shown |= {"color": feature.color, "height": feature.size[0], "width": feature.size[1]}
    if feature.shape:
        shown |= {"number": feature.number, "shape": list(feature.shape)}
    if feature.sizes:
        shown["sizes"] = [list(size) for size in feature.sizes]
    if feature.span is not None:
        shown |= {"smallest": list(feature.span[0]), "largest": list(feature.span[1])}
    return shown


make_callable(__name__, export)
