"""Converts a filter to Core ML: an ML program (.mlpackage) or a classic neural network (.mlmodel)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedstyle.errors import ConfigError, ExportError, OutputError
from fedstyle.export.program import DESCRIPTIONS, INPUT, OUTPUT, STYLE, first_line, labels, quiet, require
from fedstyle.export.reader import check_weights
from fedstyle.export.styles import norms
from fedstyle.export.testcard import testcard
from fedstyle.files import staged, write_bytes
from fedstyle.filter import Filter
from fedstyle.net import STRIDE, TransformNet, portable

SMALLEST, LARGEST = 16, 4096
"""The limits of an export's height and width in pixels; each is a multiple of 4."""
PEAK = 16_384.0
"""The largest activation that an fp16 export may show on the test picture: a quarter of fp16's 65,504."""

INSIDE = Path("Data/com.apple.CoreML")
"""Where a package that coremltools wrote holds its model and weights."""
PALETTE = 16
"""The output channels that share one palette of 16 values in a model compressed as palette4."""
COMPRESSIONS = {"int8": "iOS16", "palette4": "iOS18"}
"""How weights can be compressed, and from which system on such a model runs."""

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


class _Modulated(nn.Module):
    """An instance norm whose scale and shift are at `place` in a list that another module fills."""

    def __init__(self, parts: list[Tensor], place: int) -> None:
        super().__init__()
        self.parts, self.place = parts, place

    def forward(self, x: Tensor) -> Tensor:
        # Not as arguments of instance_norm: coremltools takes constants only there.
        return nn.functional.instance_norm(x, eps=1e-5) * self.parts[self.place] + self.parts[self.place + 1]


class _Styled(_Pixels):
    """The network with its scales and shifts as a second input: a style vector (1, N, 1, 1), see `styles`."""

    def __init__(self, net: TransformNet) -> None:
        super().__init__(net)
        self.parts: list[Tensor] = []
        self.channels = [channels for channels in norms(net).values() for _ in range(2)]
        for place, name in enumerate(norms(net)):
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, _Modulated(self.parts, 2 * place))

    def forward(self, image: Tensor, style: Tensor) -> Tensor:  # type: ignore[override]
        self.parts[:] = torch.split(style, self.channels, dim=1)
        return super().forward(image)


@torch.inference_mode()
def peak(filter: Filter, size: Size) -> float:
    """The largest absolute value that any layer of the filter gives on the test picture; infinite where one is not finite."""
    found = [0.0]

    def note(module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG001
        value = float(output.abs().max())
        found.append(min(float("inf"), value))  # in this order a NaN gives infinity

    net = portable(filter.net)  # in the operators of an export, so that every layer is called
    hooks = [module.register_forward_hook(note) for module in net.modules()]
    try:
        net(testcard(*size) / 255)
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


def _dynamic(sizes: Sizes) -> tuple[dict[int, Any]]:
    """How torch is told which sides vary, in multiples of 4; the tuple has one entry, for the one input."""
    axes: dict[int, Any] = {}
    for axis, name in ((0, "h"), (1, "w")):
        sides = [size[axis] for size in sizes.listed]
        if min(sides) < max(sides):
            axes[axis + 2] = STRIDE * torch.export.Dim(name, min=min(sides) // STRIDE, max=max(sides) // STRIDE)
    return (axes,)


def _convert(filter: Filter, size: Size | Sizes, precision: str, program: bool, target: str = "iOS15", styled: bool = False) -> Any:
    """A coremltools model of the filter; `styled` takes its norms as an input."""
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
        options = {"convert_to": "mlprogram", "minimum_deployment_target": getattr(ct.target, target), "compute_precision": chosen}
    inputs = [ct.ImageType(name=INPUT, shape=shape, scale=1 / 255, color_layout=rgb)]
    examples: tuple[Tensor, ...] = (torch.rand(1, 3, *default),)
    net = portable(filter.net)
    if styled:
        length = 2 * sum(norms(net).values())
        inputs.append(ct.TensorType(name=STYLE, shape=(1, length, 1, 1)))
        examples = (*examples, torch.rand(1, length, 1, 1))
    with quiet():
        exported = torch.export.export(
            (_Styled if styled else _Pixels)(net).eval(),
            examples,
            dynamic_shapes=_dynamic(size) if isinstance(size, Sizes) else None,
        )
        return ct.convert(
            exported.run_decompositions({}),
            inputs=inputs,
            outputs=[ct.ImageType(name=OUTPUT, color_layout=rgb)],
            skip_model_load=True,
            **options,
        )


def _compress(model: Any, compress: str, largest: int) -> Any:
    """The model with its convolutions quantised to int8, a scale per output channel, or with k-means palettes of 16 values per 16 channels.

    Palettes are for the convolutions of the residual blocks alone, the `largest` in weights: with the first two and the last ones a filter
    of the shipped cnnLite fell from 38 dB to 33 for a tenth of the bytes.
    """
    cto = require("coremltools.optimize.coreml", "coreml")
    if compress == "int8":
        kind = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
        with quiet():
            return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=kind))
    if importlib.util.find_spec("sklearn") is None:
        raise ExportError("palette4 needs scikit-learn: install it with `pip install scikit-learn`, or choose int8")
    grouped = {"granularity": "per_grouped_channel", "group_size": PALETTE, "weight_threshold": largest // 2 + 1}
    kind = cto.OpPalettizerConfig(mode="kmeans", nbits=4, **grouped)
    with quiet():
        return cto.palettize_weights(model, cto.OptimizationConfig(global_config=kind))


def describe(spec: Any, notes: Mapping[str, str], about: Mapping[str, str]) -> None:
    """Write an export's metadata into its description: `about` for people, `notes` as the user-defined entries."""
    card = spec.description.metadata
    card.author, card.license = about["author"], about["license"]
    card.versionString, card.shortDescription = about["version"], about["description"]
    for key in [key for key in card.userDefined if key.endswith("conversion_date")]:
        del card.userDefined[key]  # the same filter gives the same model tomorrow
    card.userDefined.update(notes)
    for side in (spec.description, *spec.description.functions):
        for feature in [*side.input, *side.output]:
            feature.shortDescription = DESCRIPTIONS[feature.name]


def full(path: Path) -> OutputError:
    """The error for a disk that is full."""
    place = tempfile.gettempdir()
    return OutputError(
        f"cannot write {path}: its disk or that of the temporary folder {place} is full or read-only: free some space and run again"
    )


def write(
    filter: Filter,
    path: Path,
    size: Size | Sizes,
    precision: str,
    about: Mapping[str, str],
    *,
    notes: Mapping[str, str] | None = None,
    compress: str | None = None,
    styled: bool = False,
) -> None:
    """Convert and write `path` whole or not at all.

    `notes` are the user-defined metadata, those of the filter unless given; `compress` is one of COMPRESSIONS; `styled` takes the norms
    as an input. Raises ExportError when the conversion fails or fp16 cannot hold the filter, OutputError when the place cannot be written.
    """
    program = path.suffix == ".mlpackage"
    if precision == "fp16":
        check_fp16(filter, size.default if isinstance(size, Sizes) else size)
    try:
        converted = _convert(filter, size, precision, program, COMPRESSIONS.get(compress or "", "iOS15"), styled)
        if compress:
            converted = _compress(converted, compress, max(value.numel() for value in filter.weights.values()))
        spec = converted.get_spec()
    except OSError as error:
        raise full(path) from error
    except ExportError:
        raise
    except Exception as error:
        if "FileWriter" in str(error):
            raise full(path) from error
        raise ExportError(f"coremltools cannot convert the filter ({first_line(error)}): export it as .onnx instead") from error
    describe(spec, labels(filter) if notes is None else notes, about)
    if not program:
        write_bytes(path, spec.SerializeToString(deterministic=True))
        return
    with staged(path) as folder:
        inner = folder / path.name
        try:
            with quiet():
                ct = require("coremltools", "coreml")
                ct.models.MLModel(spec, weights_dir=converted.weights_dir, skip_model_load=True).save(str(inner))
            check_weights(spec, inner / INSIDE / "weights")
        except Exception as error:
            raise full(path) from error
        settle(inner, folder)


def settle(inner: Path, folder: Path) -> None:
    """Move what belongs to a package from where coremltools wrote it into its folder, with the permissions that a person expects."""
    for part in list(inner.iterdir()):
        if part.name in ("Data", "Manifest.json"):  # not executorch_debug_handle_mapping.json
            shutil.move(part, folder / part.name)
    shutil.rmtree(inner)
    for file in folder.rglob("*"):
        os.chmod(file, 0o755 if file.is_dir() else 0o644)
