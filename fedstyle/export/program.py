"""What an exported model holds, whatever its format: features, metadata, steps with their constants, and the filter's side of each."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import ConfigError, ExportError
from fedstyle.filter import Filter

INPUT, OUTPUT, STYLE = "image", "stylizedImage", "style"
DESCRIPTIONS = {
    INPUT: "The photo to stylise, in colour.",
    OUTPUT: "The stylised photo, of the same size.",
    STYLE: "The filter: scale and shift of each norm, from a style file or mixed of several.",
}
_TALKERS = ("coremltools", "torch.export", "torch.onnx", "torch.fx", "onnxscript", "onnx_ir", "onnx")


class Damaged(ExportError):  # noqa: N818
    """An exported model whose content is cut short or altered; `verify` reports it as not faithful."""


class Unfaithful(ExportError):  # noqa: N818
    """An export that was made and then found not to be the filter; nothing of it is written."""


@dataclass(frozen=True)
class Feature:
    """An input or output: an image's `size` is (height, width), `sizes` the listed ones, `span` the smallest and largest of a range.

    An array has a `shape`, and `number` is the type of its numbers.
    """

    name: str
    kind: str
    color: str = ""
    size: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    span: tuple[tuple[int, int], tuple[int, int]] | None = None
    description: str = ""
    number: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ref:
    """A value that another step computes, or the input."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation in MIL's vocabulary: its arguments are Refs or constants; `half` rounds its result to fp16.

    `compressed` names the arguments whose constants are stored palettised or quantised.
    """

    op: str
    args: Mapping[str, Any]
    out: str
    half: bool = False
    compressed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Program:
    """Steps in order, from the pixels in `source` to those in `result`; `size` is (height, width) where the program fixes it.

    `style` names the value that holds a style vector, where the program takes one.
    """

    steps: tuple[Step, ...]
    source: str
    result: str
    size: tuple[int, int] | None = None
    style: str = ""

    @property
    def precision(self) -> str:
        """`compressed`, `fp16` or `fp32`: how the convolutions' weights are held."""
        if any(step.compressed for step in self.steps):
            return "compressed"
        return "fp16" if any(step.half for step in self.steps if step.op == "conv") else "fp32"


@dataclass(frozen=True)
class Model:
    """An exported file, read: what a person sees of it, and its `content` for those who run it.

    `functions` has inputs and outputs of each function of a multifunction package; `inputs` and `outputs` are then the default's.
    """

    path: Path
    format: str
    version: int
    bytes: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: Mapping[str, str]
    labels: Mapping[str, str]
    operations: Mapping[str, int]
    storage: str
    content: Any = field(repr=False)
    functions: Mapping[str, tuple[tuple[Feature, ...], tuple[Feature, ...]]] = field(default_factory=dict)


def labels(filter: Filter) -> dict[str, str]:
    """The user-defined metadata that an export of this filter carries, as text: algorithm, and where known style strength and density."""
    found = {"algorithm": filter.arch}
    for key, fact in (("styleStrength", "strength"), ("textelDensity", "density")):
        if (value := filter.facts.get(fact)) is not None:
            found[key] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def about(description: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The author, license, version and description that an export carries; raises ConfigError for any other key."""
    found = {"author": "The filter's owner", "license": "All rights reserved", "version": "1.0", "description": description}
    for key, value in (metadata or {}).items():
        if key not in found:
            raise ConfigError(f"an export has no metadata {key!r}: choose from {', '.join(found)}")
        found[key] = str(value)
    return found


@dataclass(frozen=True)
class Constant:
    """A stored number or array: `role` is what its operation does with it, `name` the filter's parameter where that is known."""

    role: str
    value: NDArray[Any]
    name: str = ""
    half: bool = False
    compressed: bool = False


_ROLES = {"conv": ("weight", "bias"), "instance_norm": ("gamma", "beta", "epsilon")}
_PLAIN = ("mul", "add", "sub", "real_div")


def constants(program: Program) -> list[Constant]:
    """Every constant that pixels meet on their way, in program order.

    The convolutions of these networks form a chain, so that any valid order of the steps gives the same order here.
    """
    found = []
    for step in program.steps:
        roles = _ROLES.get(step.op, ())
        if step.op in _PLAIN:
            roles = tuple(key for key, value in step.args.items() if not isinstance(value, Ref))
        for role in roles:
            value = step.args.get(role)
            if value is None or isinstance(value, Ref):
                continue
            label = step.op if step.op in _PLAIN else f"{step.op} {role}"
            found.append(Constant(label, np.asarray(value), half=step.half, compressed=role in step.compressed))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep converters from writing to a user's terminal: their warnings, log lines below errors, and progress bars."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bar = None
    with contextlib.suppress(ImportError):
        bar = importlib.import_module("tqdm.std").tqdm
        start = bar.__init__
        bar.__init__ = functools.partialmethod(start, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bar is not None:
            bar.__init__ = start


def require(module: str, extra: str) -> Any:
    """Import an optional package quietly; raises ExportError that names the extra to install."""
    with quiet():
        try:
            return importlib.import_module(module)
        except ImportError as error:
            package = module.partition(".")[0]
            raise ExportError(f"{package} is needed and cannot be imported: install it with `pip install 'fedstyle[{extra}]'`") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to 160 characters, or the error's type."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
