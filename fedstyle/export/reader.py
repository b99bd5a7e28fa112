"""Reads a .mlpackage or .mlmodel: its description, its weight file, and its program as steps.

Apple's own loader of MIL programs (`milproto`, private to coremltools: the version is pinned) resolves the constants.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedstyle.errors import ExportError
from fedstyle.export.evaluator import check_known
from fedstyle.export.network import network
from fedstyle.export.program import INPUT, Damaged, Feature, Model, Program, Ref, Step, first_line, quiet, require

_BLOB = 64  # bytes of the weight file's head and of each entry's head; every entry starts at a multiple of it


def _root(package: Path) -> Path:
    """The model file inside a package, which its manifest names."""
    try:
        manifest = json.loads((package / "Manifest.json").read_text())
        inside = Path(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ExportError(f"{package} is no Core ML package: its Manifest.json is missing or names no model") from None
    if inside.is_absolute() or ".." in inside.parts:
        raise ExportError(f"{package} is no Core ML package: its Manifest.json points outside of it")
    return package / "Data" / inside


def read(path: Path) -> Model:
    """Read a Core ML model's description.

    Raises ExportError when there is none at `path`, and Damaged when it cannot be parsed.
    """
    if not path.exists():
        raise ExportError(f"{path} does not exist: give the path of an exported model")
    if path.is_dir() != (path.suffix == ".mlpackage"):
        raise ExportError(f"{path} is no Core ML model: a .mlpackage is a folder, a .mlmodel a file")
    file = _root(path) if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Damaged(f"{file} cannot be read ({error.strerror}): export the filter again") from error
    require("coremltools", "coreml")
    spec = require("coremltools.proto.Model_pb2", "coreml").Model()
    try:
        spec.ParseFromString(content)
    except Exception as error:
        raise Damaged(f"{file} is no Core ML model, or is cut short or altered: export the filter again") from error
    kind = spec.WhichOneof("Type")
    if kind not in ("mlProgram", "neuralNetwork"):
        raise ExportError(f"{path} is no image filter: it holds {kind or 'nothing'}, not an ML program or a neural network")
    functions = {
        entry.name: (tuple(map(_feature, entry.input)), tuple(map(_feature, entry.output))) for entry in spec.description.functions
    }
    sides = (tuple(map(_feature, spec.description.input)), tuple(map(_feature, spec.description.output)))
    inputs, outputs = functions.get(spec.description.defaultFunctionName, sides)
    about, size = spec.description.metadata, sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return Model(
        path=path,
        format=kind,
        version=spec.specificationVersion,
        bytes=size or len(content),
        inputs=inputs,
        outputs=outputs,
        metadata={
            "author": about.author,
            "license": about.license,
            "version": about.versionString,
            "description": about.shortDescription,
        },
        labels=dict(about.userDefined),
        operations=dict(sorted(Counter(_operations(spec, kind)).items())),
        storage=_storage(spec, kind),
        content=spec,
        functions=functions,
    )


def _feature(item: Any) -> Feature:
    kind = item.type.WhichOneof("Type") or "nothing"
    if kind == "multiArrayType":
        array = item.type.multiArrayType
        number = array.ArrayDataType.Name(array.dataType).lower()
        return Feature(item.name, "multiArray", description=item.shortDescription, number=number, shape=tuple(array.shape))
    if kind != "imageType":
        return Feature(item.name, kind.removesuffix("Type"), description=item.shortDescription)
    image = item.type.imageType
    flexible = image.WhichOneof("SizeFlexibility")
    sizes: tuple[tuple[int, int], ...] = ()
    span = None
    if flexible == "enumeratedSizes":
        sizes = tuple((entry.height, entry.width) for entry in image.enumeratedSizes.sizes)
    elif flexible == "imageSizeRange":
        tall, wide = image.imageSizeRange.heightRange, image.imageSizeRange.widthRange
        span = ((tall.lowerBound, wide.lowerBound), (tall.upperBound, wide.upperBound))
    color = image.ColorSpace.Name(image.colorSpace)
    return Feature(item.name, "image", color, (image.height, image.width), sizes, span, item.shortDescription)


def _blocks(spec: Any) -> Iterator[Any]:
    for function in spec.mlProgram.functions.values():
        yield from function.block_specializations.values()


def offsets(function: Any) -> set[int]:
    """Where in the weight file the constants of one function of a specification begin."""
    return {value.blobFileValue.offset for block in function.block_specializations.values() for value in _stored(block)}


def _operations(spec: Any, kind: str) -> Iterator[str]:
    if kind == "neuralNetwork":
        yield from (layer.WhichOneof("layer") or "nothing" for layer in spec.neuralNetwork.layers)
        return
    for block in _blocks(spec):
        yield from (op.type for op in block.operations if op.type != "const")


def _storage(spec: Any, kind: str) -> str:
    """The types that weights are stored in, in Xcode's words."""
    if kind == "neuralNetwork":
        return "Float32"
    name = require("coremltools.proto.MIL_pb2", "coreml").DataType.Name
    found = sorted({name(value.type.tensorType.dataType).title().replace("Ui", "UI") for value in _entries(spec)})
    return f"Mixed ({', '.join(found)})" if len(found) > 1 else "".join(found)


def _entries(spec: Any) -> Iterator[Any]:
    """Every constant that stands in the weight file."""
    for block in _blocks(spec):
        yield from _stored(block)


def _stored(block: Any) -> Iterator[Any]:
    for op in block.operations:
        bound = [argument.value for entry in op.inputs.values() for argument in entry.arguments if argument.HasField("value")]
        for value in [*op.attributes.values(), *bound]:
            if value.HasField("blobFileValue"):
                yield value


def check_weights(spec: Any, folder: Path) -> None:
    """Raise Damaged unless the weight file is whole and holds nothing but the program's constants.

    Layout, as coremltools writes it: 64 bytes of head (count, version 2), then for each constant 64 bytes (sentinel, type, bytes,
    offset) and its data, each at a multiple of 64; all else is zero.
    """
    wanted = sorted({value.blobFileValue.offset for value in _entries(spec)})
    if not wanted:
        return
    file = folder / "weight.bin"
    try:
        content = bytearray(file.read_bytes())
    except OSError:
        raise Damaged(f"{file} is missing or unreadable: export the filter again") from None
    wrong = Damaged(f"{file} is cut short or altered: export the filter again")
    if len(content) < _BLOB or struct.unpack_from("<II", content) != (len(wanted), 2):
        raise wrong
    content[:8] = bytes(8)
    for offset in wanted:
        if offset + _BLOB > len(content):
            raise wrong
        sentinel, _, count, start = struct.unpack_from("<IIQQ", content, offset)
        if sentinel != 0xDEADBEEF or start != offset + _BLOB or start + count > len(content):
            raise wrong
        content[offset : offset + 24] = bytes(24)
        content[start : start + count] = bytes(count)
    if any(content):
        raise wrong


def steps(model: Model, function: str = "") -> Program:
    """The program of a Core ML model, or of one function of it.

    Raises ExportError for an operation that cannot be run, Damaged for weights that cannot be read.
    """
    if model.format == "neuralNetwork":
        return network(model)
    folder = _root(model.path).parent / "weights"
    check_weights(model.content, folder)
    for op in model.operations:
        if not op.startswith("constexpr_"):
            check_known(op)
    load = require("coremltools.converters.mil.frontend.milproto.load", "coreml").load
    try:
        with quiet():
            program = load(model.content, model.version, str(folder))
            name = function or model.content.description.defaultFunctionName or "main"
            return _translate(program.functions[name])
    except Exception as error:
        raise Damaged(f"{model.path} holds a program that cannot be read ({first_line(error)}): export the filter again") from error


def _translate(function: Any) -> Program:
    types = require("coremltools.converters.mil.mil.types", "coreml")
    source, *arrays = sorted(function.inputs, key=lambda name: name != INPUT)
    (result,) = function.outputs
    live, found = {result.name}, []
    for op in reversed(list(function.operations)):
        if op.op_type == "const" or op.op_type.startswith("constexpr_") or not any(out.name in live for out in op.outputs):
            continue
        args: dict[str, Any] = {}
        compressed = set()
        for key, value in op.inputs.items():
            if value is None:
                continue
            maker = value.op
            if maker is not None and maker.op_type.startswith("constexpr_"):
                args[key] = maker.materialized_val_inference()
                compressed.add(key)
            elif value.val is not None:
                args[key] = value.val
            else:
                args[key] = Ref(value.name)
                live.add(value.name)
        for place, out in enumerate(op.outputs):
            half = types.builtin_to_string(out.dtype) == "fp16"
            which = {"index": place} if len(op.outputs) > 1 else {}
            found.append(Step(op.op_type, args | which, out.name, half, frozenset(compressed)))
    shape = list(function.inputs[source].shape)[-2:]
    size = (int(shape[0]), int(shape[1])) if all(isinstance(side, (int, np.integer)) for side in shape) else None
    return Program(tuple(reversed(found)), source, result.name, size, arrays[0] if arrays else "")
