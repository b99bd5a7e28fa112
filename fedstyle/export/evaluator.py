"""Runs the program of an exported model on this machine, in torch, as the file states it.

The meaning of each operation is that of Apple's MIL operation reference. An fp16 program is run in fp32 and rounded to fp16 after
each operation, which is what a device does at best; the rounding of a Neural Engine or GPU inside an operation is not imitated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedstyle.errors import ExportError
from fedstyle.export.program import Program, Ref

Args = Mapping[str, Any]


def _numbers(value: Any) -> list[int]:
    return [int(number) for number in np.ravel(value)]


def _pad(a: Args) -> Tensor:
    amounts, x = _numbers(a["pad"]), a["x"]
    last_first = [edge for pair in zip(amounts[-2::-2], amounts[::-2], strict=True) for edge in pair]
    while len(last_first) > 4 and not any(last_first[-2:]):  # reflection in torch takes the two image axes only
        last_first = last_first[:-2]
    mode = str(a["mode"])
    if mode == "constant":
        return F.pad(x, last_first, value=float(a.get("constant_val", 0.0)))
    if mode not in ("reflect", "replicate"):
        raise ExportError(f"the model pads in mode {mode!r}, which fedstyle cannot run: export the filter again with fedstyle")
    return F.pad(x, last_first, mode=mode)


def _conv(a: Args) -> Tensor:
    kind, x = str(a["pad_type"]), a["x"]
    if kind == "custom":
        top, bottom, left, right = _numbers(a["pad"])
        x = F.pad(x, (left, right, top, bottom))
    elif kind != "valid":
        raise ExportError(f"the model has a convolution with padding {kind!r}, which fedstyle cannot run: export the filter again")
    return F.conv2d(x, a["weight"], a.get("bias"), _numbers(a["strides"]), 0, _numbers(a["dilations"]), int(a["groups"]))


def _instance_norm(a: Args) -> Tensor:
    x = a["x"]  # one group a channel is the same function as instance norm, and quicker in torch
    return F.group_norm(x, x.shape[1], a.get("gamma"), a.get("beta"), float(a["epsilon"]))


def _upsample(a: Args) -> Tensor:
    return F.interpolate(a["x"], scale_factor=(float(a["scale_factor_height"]), float(a["scale_factor_width"])), mode="nearest")


def _split(a: Args) -> Tensor:
    """One part of a split, the one at `index`: a step has one result, so a split is as many steps as it has parts."""
    return torch.split(a["x"], _numbers(a["split_sizes"]), int(a["axis"]))[int(a["index"])]


OPERATIONS: dict[str, Callable[[Args], Tensor]] = {
    "add": lambda a: a["x"] + a["y"],
    "cast": lambda a: a["x"],  # the step's own type rounds
    "clip": lambda a: torch.clamp(a["x"], float(a["alpha"]), float(a["beta"])),
    "conv": _conv,
    "identity": lambda a: a["x"],
    "instance_norm": _instance_norm,
    "mul": lambda a: a["x"] * a["y"],
    "pad": _pad,
    "real_div": lambda a: a["x"] / a["y"],
    "relu": lambda a: F.relu(a["x"]),
    "sigmoid": lambda a: torch.sigmoid(a["x"]),
    "split": _split,
    "sub": lambda a: a["x"] - a["y"],
    "tanh": lambda a: torch.tanh(a["x"]),
    "upsample_nearest_neighbor": _upsample,
}
_ARRAYS = {"weight", "bias", "gamma", "beta", "x", "y"}


def check_known(op: str) -> None:
    """Raise ExportError, naming the operation, when the evaluator cannot run it."""
    if op not in OPERATIONS:
        raise ExportError(f"the model has the operation {op!r}, which fedstyle cannot run: it runs models that fedstyle exported")


@torch.inference_mode()
def run(program: Program, pixels: Tensor, style: Tensor | None = None) -> tuple[Tensor, float]:
    """Run the program on (N, 3, H, W) pixels in [0, 255], its channels in the order that the input feature asks for.

    `style` is the style vector (1, N, 1, 1) of a program that takes one. Returns what it gives, unrounded, and the largest absolute value
    on the way. Raises ExportError for an unknown operation.
    """
    values: dict[str, Tensor] = {program.source: pixels}
    if program.style and style is not None:
        values[program.style] = style
    last = {ref.name: number for number, step in enumerate(program.steps) for ref in step.args.values() if isinstance(ref, Ref)}
    peak = 0.0
    for number, step in enumerate(program.steps):
        check_known(step.op)
        args = {}
        for key, value in step.args.items():
            if isinstance(value, Ref):
                args[key] = values[value.name]
            else:
                args[key] = torch.from_numpy(np.array(value, dtype=np.float32)) if key in _ARRAYS else value
        result = OPERATIONS[step.op](args)
        if step.half:
            result = result.half().float()
        low, high = result.aminmax()
        peak = max(peak, -float(low), float(high))
        values[step.out] = result
        for name in [name for name, end in last.items() if end == number and name != program.result]:
            values.pop(name, None)
    return values[program.result], peak
