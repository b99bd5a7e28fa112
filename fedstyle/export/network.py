"""Translates the classic neural network of a .mlmodel into steps, each layer as Apple's NeuralNetwork.proto describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import ExportError
from fedstyle.export.evaluator import check_known
from fedstyle.export.program import Damaged, Model, Program, Ref, Step, first_line

_LAYERS = {
    "batchnorm": "instance_norm",
    "convolution": "conv",
    "multiply": "mul",
    "padding": "pad",
    "upsample": "upsample_nearest_neighbor",
}


def _weights(params: Any, shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    if params.HasField("quantization"):
        raise ExportError(f"{path} has quantised weights, which fedstyle cannot run in a .mlmodel: export it again as fp32")
    if params.float16Value:
        values = np.frombuffer(params.float16Value, np.float16).astype(np.float32)
    else:
        values = np.array(params.floatValue, np.float32)
    if values.size != np.prod(shape):
        raise Damaged(f"{path} holds {values.size} weights where {int(np.prod(shape))} belong: export the filter again")
    return values.reshape(shape)


def _borders(padding: Any) -> list[int]:
    return [edge for border in padding.borderAmounts for edge in (border.startEdgeSize, border.endEdgeSize)]


def _layer(layer: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """One layer of a neural network as an operation of MIL and its arguments."""
    kind: str = layer.WhichOneof("layer") or "nothing"
    part: Any = getattr(layer, kind, None)
    op = _LAYERS.get(kind, kind)
    args: dict[str, Any] = {"x": Ref(layer.input[0])}
    if op == "conv":
        shape = (part.outputChannels, part.kernelChannels, *part.kernelSize)
        if part.isDeconvolution or not part.HasField("valid"):
            check_known("deconvolution" if part.isDeconvolution else "convolution with same padding")
        args |= {"weight": _weights(part.weights, shape, path), "pad_type": "custom", "pad": _borders(part.valid.paddingAmounts) or [0] * 4}
        args |= {"strides": part.stride or [1, 1], "dilations": part.dilationFactor or [1, 1], "groups": max(1, part.nGroups)}
        if part.hasBias:
            args["bias"] = _weights(part.bias, (part.outputChannels,), path)
    elif op == "instance_norm":
        if not (part.computeMeanVar and part.instanceNormalization):
            check_known("batchnorm")
        shape = (part.channels,)
        args |= {"gamma": _weights(part.gamma, shape, path), "beta": _weights(part.beta, shape, path), "epsilon": part.epsilon}
    elif op == "activation":
        op = (part.WhichOneof("NonlinearityType") or "nothing").lower()
    elif op == "pad":
        mode = {"constant": "constant", "reflection": "reflect", "replication": "replicate"}[part.WhichOneof("PaddingType")]
        args |= {"pad": _borders(part.paddingAmounts), "mode": mode, "constant_val": part.constant.value}
    elif op == "upsample_nearest_neighbor":
        tall, wide = part.fractionalScalingFactor or part.scalingFactor
        args |= {"scale_factor_height": tall, "scale_factor_width": wide}
        if part.mode != part.NN:
            check_known("bilinear upsample")
    elif op in ("add", "mul"):
        args["y"] = Ref(layer.input[1]) if len(layer.input) == 2 else np.float32(part.alpha)
        if len(layer.input) > 2:
            check_known(f"{op} of {len(layer.input)} inputs")
    elif op == "clip":
        args |= {"alpha": part.minVal, "beta": part.maxVal}
    check_known(op)
    return op, args


def network(model: Model) -> Program:
    """The program of a neural network; raises ExportError for a layer that cannot be run, Damaged for one that cannot be read."""
    net, steps = model.content.neuralNetwork, []
    source = model.inputs[0].name if model.inputs else ""
    start = source
    for entry in net.preprocessing:
        if entry.WhichOneof("preprocessor") != "scaler":
            check_known(str(entry.WhichOneof("preprocessor")))
        scale = entry.scaler
        steps.append(Step("mul", {"x": Ref(start), "y": np.float32(scale.channelScale)}, "scaled pixels"))
        start = "scaled pixels"
        bias = (scale.redBias, scale.greenBias, scale.blueBias)
        if any(bias):
            shift = bias[::-1] if model.inputs[0].color == "BGR" else bias
            steps.append(Step("add", {"x": Ref(start), "y": np.array(shift, np.float32).reshape(1, 3, 1, 1)}, "shifted pixels"))
            start = "shifted pixels"
    for layer in net.layers:
        try:
            op, args = _layer(layer, model.path)
        except (IndexError, KeyError, ValueError, TypeError) as error:
            raise Damaged(f"{model.path}: the layer {layer.name!r} cannot be read ({first_line(error)}): export again") from error
        args = {key: Ref(start) if isinstance(value, Ref) and value.name == source else value for key, value in args.items()}
        steps.append(Step(op, args, layer.output[0]))
    result = model.outputs[0].name if model.outputs else ""
    live, found = {result}, []
    for step in reversed(steps):
        if step.out in live:
            live |= {value.name for value in step.args.values() if isinstance(value, Ref)}
            found.append(step)
    return Program(tuple(reversed(found)), source, result)
