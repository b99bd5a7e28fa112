"""A small filter, its exports, and the ways in which tests spoil copies of them."""

import functools
import json
import os
import shutil
import struct
from pathlib import Path

import coremltools as ct
import numpy as np
import onnx
import torch
from onnx import numpy_helper

from fedstyle.base import Base
from fedstyle.export import Pack, pack
from fedstyle.filter import Filter

INSIDE = Path("Data/com.apple.CoreML")


def small_filter(padding: str = "reflect", **facts) -> Filter:
    """4 channels wide, 58 arrays, norms drawn at random so that scale and shift matter."""
    base, draw = Base.new("cnnLite", padding, width=4, seed=3), torch.Generator().manual_seed(1)
    weights = dict(base.weights)
    for name, value in base.weights.items():
        if ".norm" in name:
            noise = torch.rand(value.shape, generator=draw)
            weights[name] = 0.5 + 1.5 * noise if name.endswith("weight") else noise - 0.5
    return Filter("cnnLite", padding, weights, {"strength": 5, "density": 256} | facts)


def copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return target


def model_file(path: Path) -> Path:
    return path / INSIDE / "model.mlmodel" if path.is_dir() else path


def weight_file(path: Path) -> Path:
    return path / INSIDE / "weights" / "weight.bin" if path.is_dir() else path


def change(path: Path, edit) -> None:
    """Let `edit` change a model's protobuf, and write it back."""
    file = model_file(path)
    spec = onnx.ModelProto() if path.suffix == ".onnx" else ct.proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    edit(spec)
    file.write_bytes(spec.SerializeToString())


def _scaled(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flat[1] *= np.asarray(1.05, values.dtype)
    return values


def _swapped(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1].copy()


def _edit_array(path: Path, edit, which: str) -> None:
    """Change the first convolution's weights ("conv") or the third norm's scale ("gamma") in place."""
    op, place, argument = ("conv", 0, "weight") if which == "conv" else ("instance_norm", 2, "gamma")
    if path.suffix == ".mlpackage":
        spec = ct.proto.Model_pb2.Model()
        spec.ParseFromString(model_file(path).read_bytes())
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        name = [step for step in block.operations if step.type == op][place].inputs[argument].arguments[0].name
        value = next(step for step in block.operations if step.outputs[0].name == name).attributes["val"]
        start = value.blobFileValue.offset + 64
        kind = value.type.tensorType
        shape = [side.constant.size for side in kind.dimensions]
        dtype = {10: np.float16, 11: np.float32}[kind.dataType]
        content = bytearray(weight_file(path).read_bytes())
        new = edit(np.frombuffer(content, dtype, int(np.prod(shape)), start).reshape(shape)).tobytes()
        content[start : start + len(new)] = new
        weight_file(path).write_bytes(content)
    elif path.suffix == ".mlmodel":

        def apply(spec) -> None:
            kind = "convolution" if op == "conv" else "batchnorm"
            layer = getattr([layer for layer in spec.neuralNetwork.layers if layer.WhichOneof("layer") == kind][place], kind)
            held = layer.weights if op == "conv" else layer.gamma
            shape = (layer.outputChannels, layer.kernelChannels, *layer.kernelSize) if op == "conv" else (-1,)
            held.floatValue[:] = edit(np.array(held.floatValue, np.float32).reshape(shape)).ravel()

        change(path, apply)
    else:

        def apply(model) -> None:
            kind = "Conv" if op == "conv" else "InstanceNormalization"
            name = [node for node in model.graph.node if node.op_type == kind][place].input[1]
            held = next(entry for entry in model.graph.initializer if entry.name == name)
            held.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(held)), name))

        change(path, apply)


def swap_weights(path: Path) -> None:
    _edit_array(path, _swapped, "conv")


def stretch_gamma(path: Path) -> None:
    _edit_array(path, _scaled, "gamma")


def swap_colors(path: Path) -> None:
    def apply(spec) -> None:
        image = spec.description.input[0].type.imageType
        image.colorSpace = image.BGR

    change(path, apply)


def drop_scale(path: Path) -> None:
    def apply(spec) -> None:
        if spec.HasField("neuralNetwork"):
            spec.neuralNetwork.preprocessing[0].scaler.channelScale = 1.0
            return
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        name = next(step for step in block.operations if step.type == "mul").inputs["y"].arguments[0].name
        scale = next(step for step in block.operations if step.outputs[0].name == name).attributes["val"].immediateValue.tensor
        scale.floats.values[:] = [1.0]

    change(path, apply)


def truncate(path: Path) -> None:
    file = weight_file(path)
    file.write_bytes(file.read_bytes()[:-1000])


def flip(path: Path, offset: int) -> None:
    file = weight_file(path)
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x10
    file.write_bytes(content)


def rename_output(path: Path) -> None:
    def apply(model) -> None:
        if path.suffix == ".onnx":
            model.graph.output[0].name = model.graph.node[-1].output[0] = "picture"
        else:
            ct.utils.rename_feature(model, "stylizedImage", "picture")

    change(path, apply)


def resize(path: Path) -> None:
    def apply(model) -> None:
        if path.suffix == ".onnx":
            model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64
        else:
            model.description.input[0].type.imageType.height = 128

    change(path, apply)


def relabel(path: Path) -> None:
    def apply(model) -> None:
        if path.suffix == ".onnx":
            next(entry for entry in model.metadata_props if entry.key == "styleStrength").value = "7"
        else:
            model.description.metadata.userDefined["styleStrength"] = "7"

    change(path, apply)


def variant(filter: Filter, seed: int, **facts) -> Filter:
    """The same convolutions with other norms, as two filters of one base have."""
    draw = torch.Generator().manual_seed(seed)
    weights = {
        name: value * (0.7 + 0.6 * torch.rand(value.shape, generator=draw)) if ".norm" in name else value
        for name, value in filter.weights.items()
    }
    return Filter(filter.arch, filter.padding, weights, dict(filter.facts) | facts)


def shelf() -> dict[str, Filter]:
    """Two filters of one base and one of another, with names as people give them."""
    first = small_filter()
    return {"Great Wave": first, "The Scream (1893)": variant(first, 2, strength=7), "星空": variant(small_filter("zeros"), 3)}


@functools.cache
def packs(folder: Path) -> dict[str, Pack]:
    """The shelf as an ios18 pack, its first two filters as an ios15 one, at 64x64 pixels; made once a process. Change copies only."""
    filters = shelf()
    pair = dict(list(filters.items())[:2])
    return {
        "ios18": pack(filters, folder / "Shelf.mlpackage", size=64, metadata={"author": "Ada", "license": "CC-BY-4.0"}),
        "ios15": pack(pair, folder / "Mix.mlpackage", target="ios15", size=64),
    }


def packs_folder(factory) -> Path:
    """One folder a process for `packs`."""
    return factory.getbasetemp().parent / f"packs-{os.getpid()}"


def style_file(path: Path) -> tuple[dict, np.ndarray]:
    """A style file read as its documentation says: its JSON header and its numbers, with nothing of fedstyle."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), np.frombuffer(content[8 + length :], "<f4")
