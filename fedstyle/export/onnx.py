"""Converts a filter to ONNX, reads such a file, and runs it with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedstyle.errors import ExportError
from fedstyle.export.program import (
    DESCRIPTIONS,
    INPUT,
    OUTPUT,
    Damaged,
    Feature,
    Model,
    Program,
    Ref,
    Step,
    first_line,
    labels,
    quiet,
    require,
)
from fedstyle.files import write_bytes
from fedstyle.filter import Filter
from fedstyle.net import STRIDE, portable

OPSET = 20
_OPS = {"Conv": "conv", "InstanceNormalization": "instance_norm", "Mul": "mul", "Add": "add", "Sub": "sub", "Div": "real_div"}
_ARGS = {"conv": ("x", "weight", "bias"), "instance_norm": ("x", "gamma", "beta")}


def write(filter: Filter, path: Path, about: dict[str, str]) -> None:
    """Convert and write one .onnx file with its weights inside, whole or not at all.

    Any height and width in multiples of 4. Raises ExportError when the conversion fails, OutputError when the place cannot be written.
    """
    require("onnxscript", "onnx")
    onnx = require("onnx", "onnx")
    sides = {2: STRIDE * torch.export.Dim("h", min=4, max=1024), 3: STRIDE * torch.export.Dim("w", min=4, max=1024)}
    try:
        with quiet():
            made = torch.onnx.export(
                portable(filter.net),
                (torch.rand(1, 3, 64, 64),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(sides,),
                external_data=False,
                verbose=False,
            )
        model = made.model_proto  # type: ignore[union-attr]
    except Exception as error:
        raise ExportError(f"torch cannot convert the filter to ONNX ({first_line(error)}): export it as .mlpackage instead") from error
    _clean(model)
    model.doc_string = about["description"]
    notes = {**labels(filter), **{key: about[key] for key in ("author", "license", "version")}}
    onnx.helper.set_model_props(model, notes)
    for feature in [*model.graph.input, *model.graph.output]:
        feature.doc_string = DESCRIPTIONS[feature.name]
    write_bytes(path, model.SerializeToString(deterministic=True))


def _clean(model: Any) -> None:
    """Take out torch's notes on each operation: they name the source files of the machine that exported."""
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, *model.functions]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def read(path: Path) -> Model:
    """Read an ONNX file's description; raises ExportError when there is none, Damaged when it cannot be parsed."""
    if not path.is_file():
        raise ExportError(f"{path} does not exist or is no file: give the path of an exported model")
    onnx = require("onnx", "onnx")
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        raise Damaged(f"{path} is no ONNX model, or is cut short or altered: export the filter again") from error
    notes = {entry.key: entry.value for entry in model.metadata_props}
    about = {key: notes.pop(key, "") for key in ("author", "license", "version")}
    return Model(
        path=path,
        format="onnx",
        version=next((entry.version for entry in model.opset_import if not entry.domain), 0),
        bytes=len(content),
        inputs=tuple(_feature(onnx, item) for item in model.graph.input),
        outputs=tuple(_feature(onnx, item) for item in model.graph.output),
        metadata={**about, "description": model.doc_string},
        labels=notes,
        operations=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        storage="Float32",
        content=model,
    )


def _feature(onnx: Any, item: Any) -> Feature:
    tensor = item.type.tensor_type
    sides = [str(side.dim_param or side.dim_value) for side in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else "nothing"
    return Feature(item.name, f"{kind} tensor ({', '.join(sides)})", description=item.doc_string)


def steps(model: Model) -> Program:
    """The operations of an ONNX file that hold constants, in the words of `program`."""
    numpy_helper = require("onnx.numpy_helper", "onnx")
    graph = model.content.graph
    known = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            (value,) = (entry.t for entry in node.attribute)
            known[node.output[0]] = numpy_helper.to_array(value)
    found = []
    for node in graph.node:
        if (op := _OPS.get(node.op_type)) is None:
            continue
        args: dict[str, Any] = {key: known.get(name, Ref(name)) for key, name in zip(_ARGS.get(op, ("x", "y")), node.input, strict=False)}
        args |= {entry.name: entry.f for entry in node.attribute if entry.name == "epsilon"}
        found.append(Step(op, args, node.output[0]))
    return Program(tuple(found), INPUT, OUTPUT)


def run(model: Model, pixels: Tensor) -> Tensor:
    """Run the file with ONNX Runtime on (1, 3, H, W) pixels in [0, 255]; the result is in pixels too. Raises Damaged when it cannot run."""
    runtime = require("onnxruntime", "onnx")
    try:
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        session = runtime.InferenceSession(model.content.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {session.get_inputs()[0].name: (pixels / 255).numpy()})
    except Exception as error:
        raise Damaged(f"{model.path} does not run in ONNX Runtime ({first_line(error)}): export the filter again") from error
    return torch.from_numpy(result) * 255
