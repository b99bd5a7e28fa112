"""Converts a filter to Core ML: an ML program (.mlpackage) or a classic neural network (.mlmodel)."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedstyle.errors import ConfigError, ExportError, OutputError
from fedstyle.export.program import DESCRIPTIONS, INPUT, OUTPUT, first_line, labels, quiet, require
from fedstyle.export.reader import check_weights
from fedstyle.export.testcard import testcard
from fedstyle.files import staged, write_bytes
from fedstyle.filter import Filter
from fedstyle.net import STRIDE, portable

SMALLEST, LARGEST = 16, 4096
"""The limits of an export's height and width in pixels; each is a multiple of 4."""
PEAK = 16_384.0
"""The largest activation that an fp16 export may show on the test picture: a quarter of fp16's 65,504."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """Several (height, width) in one .mlpackage: those listed, the first as default, or with `ranged` all from the first to the second.

    Raises ConfigError for fewer than two, or for a side that is no multiple of 4 in 16..4096.
    """

    listed: tuple[Size, ...]
    ranged: bool = False

    def __post_init__(self) -> None:
        for size in self.listed:
            check_size(size)
        if len(set(self.listed)) < 2 or len(set(self.listed)) != len(self.listed):
            raise ConfigError("several sizes need at least two that differ: give one size alone for a fixed one")
        if self.ranged and (len(self.listed) != 2 or any(low > high for low, high in zip(*self.listed, strict=True))):
            raise ConfigError("a range of sizes is two: the smallest (height, width), then the largest")

    @property
    def warning(self) -> str | None:
        """What a user should know before using these sizes."""
        if not self.ranged:
            return None
        return (
            "a range of sizes keeps the model off the Neural Engine, so it runs slower: prefer one fixed size, or a few listed ones. "
            "Core ML accepts any size in the range, but the filter needs height and width in multiples of 4"
        )

    @property
    def default(self) -> Size:
        """The size that a model states first: of a range, 512 or the nearest to it."""
        if not self.ranged:
            return self.listed[0]
        low, high = self.listed
        return min(max(512, low[0]), high[0]), min(max(512, low[1]), high[1])


def check_size(size: Size) -> None:
    """Raise ConfigError unless height and width are multiples of 4 in 16..4096."""
    for side in size:
        if isinstance(side, bool) or not isinstance(side, int) or side % STRIDE or not SMALLEST <= side <= LARGEST:
            raise ConfigError(f"size {side!r} cannot be exported: height and width are multiples of {STRIDE} from {SMALLEST} to {LARGEST}")


class _Pixels(nn.Module):
    """The network with an output in pixels 0..255; the input's 1/255 belongs to the image type."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        pixels: Tensor = (self.net(image) * 255).clamp(0, 255)
        return pixels


@torch.inference_mode()
def peak(filter: Filter, size: Size) -> float:
    """The largest absolute value that any layer of the filter gives on the test picture; infinite where one is not finite."""
    found = [0.0]

    def note(module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG001
        value = float(output.abs().max())
        found.append(min(float("inf"), value))  # in this order a NaN gives infinity

    hooks = [module.register_forward_hook(note) for module in filter.net.modules()]
    try:
        filter.net(testcard(*size) / 255)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found)


def check_fp16(filter: Filter, size: Size) -> None:
    """Raise ExportError when the filter's weights or activations come too near to fp16's largest number."""
    heaviest = max(float(value.abs().max()) for value in filter.weights.values())
    highest = max(heaviest, peak(filter, size))
    if not highest <= PEAK:
        raise ExportError(
            f"the filter reaches {highest:,.0f} where fp16 ends at 65,504 and {PEAK:,.0f} is the limit: "
            "export it with precision fp32, or train it again with a lower rate"
        )


def _dynamic(sizes: Sizes) -> tuple[dict[int, Any] | None]:
    """How torch is told which sides vary, in multiples of 4; the tuple has one entry, for the one input."""
    axes: dict[int, Any] = {}
    for axis, name in ((0, "h"), (1, "w")):
        sides = [size[axis] for size in sizes.listed]
        if min(sides) < max(sides):
            axes[axis + 2] = STRIDE * torch.export.Dim(name, min=min(sides) // STRIDE, max=max(sides) // STRIDE)
    return (axes,)


def _convert(filter: Filter, size: Size | Sizes, precision: str, program: bool) -> Any:
    ct = require("coremltools", "coreml")
    default = size.default if isinstance(size, Sizes) else size
    shape: Any = (1, 3, *default)
    if isinstance(size, Sizes) and size.ranged:
        low, high = size.listed
        spans = [ct.RangeDim(lower_bound=a, upper_bound=b, default=c) if a < b else a for a, b, c in zip(low, high, default, strict=True)]
        shape = (1, 3, *spans)
    elif isinstance(size, Sizes):
        shape = ct.EnumeratedShapes(shapes=[(1, 3, *entry) for entry in size.listed], default=(1, 3, *default))
    rgb = ct.colorlayout.RGB
    options: dict[str, Any] = {"convert_to": "neuralnetwork"}
    if program:
        chosen = ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32
        options = {"convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS15, "compute_precision": chosen}
    with quiet():
        exported = torch.export.export(
            _Pixels(portable(filter.net)).eval(),
            (torch.rand(1, 3, *default),),
            dynamic_shapes=_dynamic(size) if isinstance(size, Sizes) else None,
        )
        return ct.convert(
            exported.run_decompositions({}),
            inputs=[ct.ImageType(name=INPUT, shape=shape, scale=1 / 255, color_layout=rgb)],
            outputs=[ct.ImageType(name=OUTPUT, color_layout=rgb)],
            skip_model_load=True,
            **options,
        )


def _describe(spec: Any, filter: Filter, about: dict[str, str]) -> None:
    card = spec.description.metadata
    card.author, card.license = about["author"], about["license"]
    card.versionString, card.shortDescription = about["version"], about["description"]
    for key in [key for key in card.userDefined if key.endswith("conversion_date")]:
        del card.userDefined[key]  # the same filter gives the same model tomorrow
    card.userDefined.update(labels(filter))
    for feature in [*spec.description.input, *spec.description.output]:
        feature.shortDescription = DESCRIPTIONS[feature.name]


def _full(path: Path) -> OutputError:
    place = tempfile.gettempdir()
    return OutputError(
        f"cannot write {path}: its disk or that of the temporary folder {place} is full or read-only: free some space and run again"
    )


def write(filter: Filter, path: Path, size: Size | Sizes, precision: str, about: dict[str, str]) -> None:
    """Convert and write `path` whole or not at all.

    Raises ExportError when the conversion fails or fp16 cannot hold the filter, OutputError when the place cannot be written.
    """
    program = path.suffix == ".mlpackage"
    if precision == "fp16":
        check_fp16(filter, size.default if isinstance(size, Sizes) else size)
    try:
        converted = _convert(filter, size, precision, program)
        spec = converted.get_spec()
    except OSError as error:
        raise _full(path) from error
    except ExportError:
        raise
    except Exception as error:
        if "FileWriter" in str(error):
            raise _full(path) from error
        raise ExportError(f"coremltools cannot convert the filter ({first_line(error)}): export it as .onnx instead") from error
    _describe(spec, filter, about)
    if not program:
        write_bytes(path, spec.SerializeToString(deterministic=True))
        return
    with staged(path) as folder, quiet():
        ct = require("coremltools", "coreml")
        inner = folder / path.name
        try:
            ct.models.MLModel(spec, weights_dir=converted.weights_dir, skip_model_load=True).save(str(inner))
            check_weights(spec, inner / "Data" / "com.apple.CoreML" / "weights")
        except Exception as error:
            raise _full(path) from error
        (inner / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
        for part in list(inner.iterdir()):
            shutil.move(part, folder / part.name)
        inner.rmdir()
        for file in folder.rglob("*"):
            os.chmod(file, 0o755 if file.is_dir() else 0o644)
