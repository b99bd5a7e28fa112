"""Proves that an exported file is the filter: its contract, every constant in it, and what it makes of a test picture."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedstyle.export import evaluator, onnx, reader
from fedstyle.export.coreml import LARGEST, PEAK, SMALLEST
from fedstyle.export.program import INPUT, OUTPUT, Constant, Damaged, Feature, Model, Program, constants, first_line, labels
from fedstyle.export.testcard import testcard
from fedstyle.filter import Filter
from fedstyle.net import STRIDE, portable

EPSILON = 1e-5
ONNX_SIZES = [(64, 64), (96, 64)]
"""Small on purpose: ONNX Runtime's instance norm sums in plain fp32 and drifts by 0.06 of 255 at 512x512, which would hide a fault."""


@dataclass(frozen=True)
class Parity:
    """How near an exported file is to its filter.

    `max`, `p9999` (the 99.99th percentile) and `mean` are absolute differences in steps of 255, before rounding to 8 bits; `psnr` is
    in dB, infinite when there is no difference; all four are None when the file could not be run. `constants` counts the filter's
    arrays that the file holds exactly (rounded to fp16 in an fp16 model), `peak` is the largest activation. `faithful` is true
    when there are no `problems`.
    """

    faithful: bool
    precision: str
    max: float | None
    p9999: float | None
    mean: float | None
    psnr: float | None
    peak: float | None
    constants: int
    seconds: float
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it: an infinite or missing figure becomes None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def verify(path: Path, filter: Filter) -> Parity:
    """Run an exported file on this machine and compare it with its filter.

    fp32 may differ by 0.01 of 255 at most; fp16 needs 50 dB, a 99.99th percentile of at most 4 and no pixel over 8, with every
    constant the filter's rounded to fp16; compressed models need 35 dB. A file that is cut short or altered is not faithful.
    Raises ExportError when there is no model at `path` or it holds an operation that fedstyle cannot run.
    """
    start = time.perf_counter()
    tool: Any = onnx if path.suffix == ".onnx" else reader
    problems: list[str] = []
    figures: dict[str, float | None] = dict.fromkeys(("max", "p9999", "mean", "psnr", "peak"))
    precision, count = "unknown", 0
    try:
        model = tool.read(path)
        problems += _contract(model, filter)
        program = tool.steps(model)
        precision = program.precision
        count, wrong = _compare(constants(program), _expected(filter, model))
        problems += wrong
        if model.format == "onnx" or _runnable(model):
            figures, wrong = _measure(model, program, filter)
            problems += wrong
    except Damaged as error:
        problems.append(str(error))
    seconds = round(time.perf_counter() - start, 3)
    return Parity(not problems, precision, **figures, constants=count, seconds=seconds, problems=tuple(problems))


def _contract(model: Model, filter: Filter) -> list[str]:
    """What an app that uses the model relies on, as problems where it does not hold."""
    problems = []
    for what, features, name in (("input", model.inputs, INPUT), ("output", model.outputs, OUTPUT)):
        if len(features) != 1:
            problems.append(f"the model has {len(features)} {what}s where it should have one")
        for feature in features:
            if feature.name != name:
                problems.append(f"the {what} is named {feature.name!r}, expected {name!r}")
            problems += _tensor(what, feature) if model.format == "onnx" else _image(what, feature)
    if model.format != "onnx" and not problems:
        source, result = model.inputs[0], model.outputs[0]
        if not source.sizes and source.span is None and source.size != result.size:
            problems.append(f"the output is {_by(result.size)} pixels where the input is {_by(source.size)}")
    for key, value in labels(filter).items():
        if (found := model.labels.get(key)) != value:
            problems.append(f"the metadata {key} is {found!r}, the filter's is {value!r}")
    return problems


def _by(size: tuple[int, ...] | None) -> str:
    return "x".join(map(str, size or ()))


def _tensor(what: str, feature: Feature) -> list[str]:
    kind = f"float tensor (1, 3, {STRIDE}*h, {STRIDE}*w)"
    return [] if feature.kind == kind else [f"the {what} is a {feature.kind}, expected a {kind}"]


def _image(what: str, feature: Feature) -> list[str]:
    if feature.kind != "image":
        return [f"the {what} is a {feature.kind}, expected an image"]
    problems = []
    if feature.color != "RGB":
        problems.append(f"the {what}'s colours are {feature.color}, expected RGB")
    odd = [size for size in (feature.size or (0, 0), *feature.sizes) if not _fits(size)]
    if what == "input" and odd:
        problems.append(f"the {what} is {_by(odd[0])} pixels, expected multiples of {STRIDE} from {SMALLEST} to {LARGEST}")
    return problems


def _fits(size: tuple[int, int]) -> bool:
    return all(SMALLEST <= side <= LARGEST and side % STRIDE == 0 for side in size)


def _runnable(model: Model) -> bool:
    """Whether the file takes one image and gives one, of a size that a filter can have."""
    one = all(len(side) == 1 and side[0].kind == "image" for side in (model.inputs, model.outputs))
    return one and all(_fits(size) for size in _sizes(model))


@torch.inference_mode()
def _expected(filter: Filter, model: Model) -> list[Constant]:
    """The constants that a faithful file holds: the filter's arrays in the order of its forward pass, and the scale of pixels."""
    found: list[Constant] = []
    hooks, net = [], portable(filter.net)  # in the operators of an export, so that every module is called
    for name, module in net.named_modules():
        own = {key: value.numpy() for key, value in module.named_parameters(recurse=False)}
        if not own:
            continue

        def note(module: nn.Module, args: Any, output: Tensor, *, name: str = name, own: dict[str, Any] = own) -> None:  # noqa: ARG001
            if isinstance(module, nn.Conv2d):
                found.extend(Constant(f"conv {key}", value, f"{name}.{key}") for key, value in own.items())
                return
            for key, role in (("weight", "gamma"), ("bias", "beta")):
                found.append(Constant(f"instance_norm {role}", own[key], f"{name}.{key}"))
            found.append(Constant("instance_norm epsilon", np.array(EPSILON, np.float32)))

        hooks.append(module.register_forward_hook(note))
    try:
        net(torch.zeros(1, 3, 4 * STRIDE, 4 * STRIDE))
    finally:
        for hook in hooks:
            hook.remove()
    if model.format == "onnx":
        return found
    return [Constant("mul", np.array(1 / 255, np.float32)), *found, Constant("mul", np.array(255, np.float32))]


def _compare(found: list[Constant], wanted: list[Constant]) -> tuple[int, list[str]]:
    """Count the filter's arrays that the file holds, and name what differs; both lists go by role, each in the order of the pass."""
    sides: dict[str, tuple[list[Constant], list[Constant]]] = defaultdict(lambda: ([], []))
    for place, side in enumerate((found, wanted)):
        for entry in side:
            sides[entry.role][place].append(entry)
    count, problems = 0, []
    for role, (have, need) in sides.items():
        if len(have) != len(need):
            what = " (pixels are scaled by 1/255 on the way in, by 255 on the way out)" if role == "mul" else ""
            problems.append(f"the file holds {len(have)} constants of {role!r}, the filter needs {len(need)}{what}")
            continue
        for one, other in zip(have, need, strict=True):
            difference = _difference(one, other)
            if difference:
                problems.append(f"the stored {other.name or role} {difference}")
            count += bool(other.name) and not difference and not one.compressed
    if len(problems) > 4:
        problems[3:] = [f"{len(problems) - 3} more constants differ"]
    return count, problems


def _difference(found: Constant, wanted: Constant) -> str:
    """What is wrong with a stored constant, or nothing."""
    value, target = found.value.astype(np.float32), np.asarray(wanted.value)
    if wanted.name and value.shape != target.shape:
        return f"has shape {value.shape}, the filter's is {target.shape}"
    if value.size != target.size:
        return f"has {value.size} values where there should be {target.size}"
    if found.compressed:
        return ""
    value, target = value.reshape(-1), target.reshape(-1)
    if found.half:
        rounded = target.astype(np.float16).astype(np.float32)
        # In short arrays coremltools stores a number that fp16 rounds to zero as fp16's smallest one.
        lifted = np.copysign(np.float32(2**-24), target)
        target = np.where((rounded == 0) & (target != 0) & (value == lifted), lifted, rounded)
    wrong = ~(value == target)
    if not wrong.any():
        return ""
    worst = float(np.abs(value - target)[wrong].max())
    return f"differs from the filter's in {int(wrong.sum())} of {wrong.size} values, by up to {worst:.3g}"


def _sizes(model: Model) -> list[tuple[int, int]]:
    """The sizes to try: the default, and the smallest where there are several."""
    if model.format == "onnx":
        return ONNX_SIZES
    source = model.inputs[0]
    smallest = [source.span[0]] if source.span else [min(source.sizes, key=math.prod)] if source.sizes else []
    assert source.size is not None  # every image has one
    return list(dict.fromkeys([source.size, *smallest]))


@torch.inference_mode()
def _measure(model: Model, program: Program, filter: Filter) -> tuple[dict[str, float | None], list[str]]:
    """The figures on the test picture, and problems where they are over the bounds."""
    differences, peaks, problems = [], [0.0], []
    for size in _sizes(model):
        if program.size not in (None, size):
            return dict.fromkeys(("max", "p9999", "mean", "psnr", "peak")), [
                f"the input is described as {_by(size)} pixels, its program takes {_by(program.size)}"
            ]
        pixels = testcard(*size)
        target = filter.net(pixels / 255) * 255
        if model.format == "onnx":
            result = onnx.run(model, pixels)
        else:
            flipped = [side[0].color == "BGR" for side in (model.inputs, model.outputs)]
            try:
                result, peak = evaluator.run(program, pixels.flip(1) if flipped[0] else pixels)
            except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
                raise Damaged(f"{model.path} holds a program that does not run ({first_line(error)})") from error
            result = result.flip(1) if flipped[1] else result
            peaks.append(peak)
        if result.shape != target.shape:
            raise Damaged(f"the output is {_by(tuple(result.shape[-2:]))} pixels for an input of {_by(size)}: export the filter again")
        differences.append((result - target).flatten())
    every = torch.cat(differences).double().abs()
    if not torch.isfinite(every).all():
        problems.append("the output holds values that are not finite: fp16 may have overflowed; export as fp32")
        return {"max": math.inf, "p9999": math.inf, "mean": math.inf, "psnr": -math.inf, "peak": max(peaks)}, problems
    square = float((every**2).mean())
    top = torch.topk(every, max(1, every.numel() // 10_000)).values
    figures: dict[str, float | None] = {
        "max": float(every.max()),
        "p9999": float(top[-1]),
        "mean": float(every.mean()),
        "psnr": 10 * math.log10(255**2 / square) if square else math.inf,
        "peak": max(peaks) if model.format != "onnx" else None,
    }
    return figures, _bounds(program.precision, **figures)


def _bounds(precision: str, **figures: float | None) -> list[str]:
    """The figures that are over what DESIGN allows, as problems."""
    upper, least = {"fp32": ({"max": 0.01}, None), "fp16": ({"max": 8.0, "p9999": 4.0, "peak": PEAK}, 50.0)}.get(precision, ({}, 35.0))
    names = {"max": "the largest difference", "p9999": "the 99.99th percentile of differences", "peak": "the largest activation"}
    problems = []
    for key, limit in upper.items():
        value = figures[key]
        if value is not None and not value <= limit:
            problems.append(f"{names[key]} is {value:.4g}, at most {limit:g} is allowed for {precision}")
    psnr = figures["psnr"]
    if least is not None and psnr is not None and not psnr >= least:
        problems.append(f"the test picture agrees to {psnr:.1f} dB only, {least:g} dB is the least for {precision}")
    return problems
