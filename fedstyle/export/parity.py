"""Proves that an exported file is the filter: its contract, every constant in it, and what it makes of a test picture."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedstyle.export import contract, evaluator, onnx, reader, styles
from fedstyle.export.contract import Place, by, fits
from fedstyle.export.coreml import PEAK
from fedstyle.export.program import Constant, Damaged, Model, Program, constants, first_line
from fedstyle.export.testcard import testcard
from fedstyle.filter import Filter
from fedstyle.net import STRIDE, portable

EPSILON = 1e-5
ONNX_SIZES = [(64, 64), (96, 64), (20, 36)]
"""Small on purpose: ONNX Runtime's instance norm sums in plain fp32 and drifts by 0.06 of 255 at 512x512, which would hide a fault."""
ONNX_LARGE, ONNX_DRIFT = (256, 384), 1.0
"""A size that an app may use, and how far an ONNX file may be off there, of 255."""


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
        place, wrong = contract.find(model, filter)
        problems += [*wrong, *contract.check(model, place, filter)]
        program = onnx.steps(model) if model.format == "onnx" else reader.steps(model, place.function)
        precision = program.precision
        count, wrong = _compare(constants(program), _expected(filter, model, place))
        problems += wrong
        if model.format == "onnx" or _runnable(place):
            figures, wrong = _measure(model, program, filter, place)
            problems += wrong
    except Damaged as error:
        problems.append(str(error))
    seconds = round(time.perf_counter() - start, 3)
    return Parity(not problems, precision, **figures, constants=count, seconds=seconds, problems=tuple(problems))


def verify_blend(path: Path, first: Filter, second: Filter, amount: float = 0.5) -> Parity:
    """Mix the style vectors of two filters as an app does, (1 - amount) * first + amount * second, and compare with `styles.blend`.

    `path` is an ios15 pack that holds both; the bounds are those of `verify`, and `constants` is 0, for nothing stored is compared.
    """
    start = time.perf_counter()
    problems: list[str] = []
    figures: dict[str, float | None] = dict.fromkeys(("max", "p9999", "mean", "psnr", "peak"))
    precision = "unknown"
    try:
        model = reader.read(path)
        places = [contract.find(model, filter)[0] for filter in (first, second)]
        vectors = [place.vector for place in places]
        if vectors[0] is None or vectors[1] is None:
            raise Damaged(f"{path} takes no style vector: only an ios15 pack blends")
        program = reader.steps(model)
        precision = program.precision
        mixed = dataclasses.replace(places[0], vector=(1 - amount) * vectors[0] + amount * vectors[1])
        figures, problems = _measure(model, program, styles.blend(first, second, amount), mixed)
    except Damaged as error:
        problems.append(str(error))
    seconds = round(time.perf_counter() - start, 3)
    return Parity(not problems, precision, **figures, constants=0, seconds=seconds, problems=tuple(problems))


def _runnable(place: Place) -> bool:
    """Whether the file takes one image (and a style vector where there is one) and gives one, of a size that a filter can have."""
    counts = (1 + (place.vector is not None), 1)
    sides = (place.inputs, place.outputs)
    one = all(len(side) == count and side[0].kind == "image" for side, count in zip(sides, counts, strict=True))
    return one and all(fits(size) for size in _sizes(place))


@torch.inference_mode()
def _expected(filter: Filter, model: Model, place: Place) -> list[Constant]:
    """The constants that a faithful file holds: the filter's arrays in the order of its forward pass, and the scale of pixels."""
    found: list[Constant] = []
    hooks, net, styled = [], portable(filter.net), place.vector is not None  # in the operators of an export, so that every module is called
    for name, module in net.named_modules():
        own = {key: value.numpy() for key, value in module.named_parameters(recurse=False)}
        if not own:
            continue

        def note(module: nn.Module, args: Any, output: Tensor, *, name: str = name, own: dict[str, Any] = own) -> None:  # noqa: ARG001
            if isinstance(module, nn.Conv2d):
                found.extend(Constant(f"conv {key}", value, f"{name}.{key}") for key, value in own.items())
                return
            for key, role in () if styled else (("weight", "gamma"), ("bias", "beta")):
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


def _sizes(place: Place) -> list[tuple[int, int]]:
    """The sizes to try: the default, and the smallest where there are several."""
    source = place.inputs[0]
    smallest = [source.span[0]] if source.span else [min(source.sizes, key=math.prod)] if source.sizes else []
    assert source.size is not None  # every image has one
    return list(dict.fromkeys([source.size, *smallest]))


@torch.inference_mode()
def _measure(model: Model, program: Program, filter: Filter, place: Place) -> tuple[dict[str, float | None], list[str]]:
    """The figures on the test picture, and problems where they are over the bounds."""
    differences, peaks, problems = [], [0.0], []
    for size in ONNX_SIZES if model.format == "onnx" else _sizes(place):
        if program.size not in (None, size):
            return dict.fromkeys(("max", "p9999", "mean", "psnr", "peak")), [
                f"the input is described as {by(size)} pixels, its program takes {by(program.size)}"
            ]
        pixels = testcard(*size)
        target = filter.net(pixels / 255) * 255
        if model.format == "onnx":
            result = onnx.run(model, pixels)
        else:
            flipped = [side[0].color == "BGR" for side in (place.inputs, place.outputs)]
            try:
                result, peak = evaluator.run(program, pixels.flip(1) if flipped[0] else pixels, place.vector)
            except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
                raise Damaged(f"{model.path} holds a program that does not run ({first_line(error)})") from error
            result = result.flip(1) if flipped[1] else result
            peaks.append(peak)
        if result.shape != target.shape:
            raise Damaged(f"the output is {by(tuple(result.shape[-2:]))} pixels for an input of {by(size)}: export the filter again")
        differences.append((result - target).flatten())
    if model.format == "onnx":
        problems += _drift(model, filter)
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
    return figures, problems + _bounds(program.precision, **figures)


def _drift(model: Model, filter: Filter) -> list[str]:
    """Whether an ONNX file is near its filter at a larger size too."""
    pixels = testcard(*ONNX_LARGE)
    result, target = onnx.run(model, pixels), filter.net(pixels / 255) * 255
    if result.shape != target.shape:
        raise Damaged(f"the output is {by(tuple(result.shape[-2:]))} pixels for an input of {by(ONNX_LARGE)}: export the filter again")
    worst = float((result - target).abs().max())
    return (
        []
        if worst <= ONNX_DRIFT
        else [f"the largest difference at {by(ONNX_LARGE)} pixels is {worst:.3g}, at most {ONNX_DRIFT:g} is allowed"]
    )


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
