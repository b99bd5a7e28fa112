"""What an app that uses an exported model relies on: names, types, colours, sizes and metadata; and where a pack holds a filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedstyle.export import styles
from fedstyle.export.coreml import LARGEST, SMALLEST
from fedstyle.export.program import INPUT, OUTPUT, STYLE, Damaged, Feature, Model, labels
from fedstyle.filter import Filter
from fedstyle.net import STRIDE

LIST = "styles"
"""The key of a pack's metadata that lists its filters as JSON; a model is a pack when it has it."""


@dataclass(frozen=True)
class Place:
    """Where a model holds a filter: the function (empty in a model that has one), its inputs, outputs and labels, and its style vector.

    `vector` is (1, N, 1, 1), or None where the model holds the norms itself.
    """

    function: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    labels: Mapping[str, str]
    vector: Tensor | None = None


def styles_folder(path: Path) -> Path:
    """The folder of style files that belongs to a pack: `Name.styles` beside `Name.mlpackage`."""
    return path.with_suffix(".styles")


def find(model: Model, filter: Filter) -> tuple[Place, list[str]]:
    """Where a model holds a filter, and what is wrong about that.

    A pack names the filters in it by their sha256. Raises Damaged when it has none of this one, or its list or style file is damaged.
    """
    if LIST not in model.labels:
        return Place("", model.inputs, model.outputs, model.labels), []
    known = styles.entries(model.labels[LIST])
    entry = next((item for item in known if item["filter"] == filter.sha256), None)
    if entry is None:
        names = ", ".join(repr(item["name"]) for item in known)
        raise Damaged(f"{model.path} holds no filter of these weights: it holds {names}")
    if "file" not in entry:
        function = entry.get("function", "")
        if function not in model.functions:
            raise Damaged(f"{model.path} has no function {function!r}, which its metadata names: make the pack again")
        return Place(function, *model.functions[function], entry), []
    folder = styles_folder(model.path)
    if Path(entry["file"]).name != entry["file"]:
        raise Damaged(f"{model.path} names the style file {entry['file']!r}, which is outside of {folder.name}: make the pack again")
    try:
        held = styles.read(folder / entry["file"])
    except styles.Missing as error:
        raise Damaged(str(error)) from error
    place = Place("", model.inputs, model.outputs, entry, held.vector.reshape(1, -1, 1, 1))
    return place, _style(folder / entry["file"], held, model, filter)


def _style(path: Path, held: styles.StyleFile, model: Model, filter: Filter) -> list[str]:
    """What is wrong with a style file, and with the input that takes it."""
    problems, wanted = [], styles.vector(filter)
    if held.vector.shape != wanted.shape:
        raise Damaged(f"{path} holds {held.vector.numel()} numbers, the filter has {wanted.numel()}: make the pack again")
    if not torch.equal(held.vector, wanted):
        problems.append(f"{path.name} differs from the filter's norms in {int((held.vector != wanted).sum())} of {wanted.numel()} values")
    for where, found, right in (
        (path.name, held.filter, filter.sha256),
        (path.name, held.base, styles.base_of(filter)),
        ("the metadata base", model.labels.get("base"), styles.base_of(filter)),
    ):
        if found != right:
            problems.append(f"{where} names {str(found)[:12]!r} where {right[:12]!r} belongs")
    return problems


def check(model: Model, place: Place, filter: Filter) -> list[str]:
    """What an app that uses the model relies on, as problems where it does not hold."""
    problems = []
    for what, features, name in (("input", place.inputs, INPUT), ("output", place.outputs, OUTPUT)):
        images = features
        if what == "input" and place.vector is not None:
            images = tuple(feature for feature in features if feature.name != STYLE)
            problems += _array(next((feature for feature in features if feature.name == STYLE), None), tuple(place.vector.shape))
        if len(images) != 1:
            problems.append(f"the model has {len(images)} {what}s where it should have one")
        for feature in images:
            if feature.name != name:
                problems.append(f"the {what} is named {feature.name!r}, expected {name!r}")
            problems += _tensor(what, feature) if model.format == "onnx" else _image(what, feature)
    if model.format != "onnx" and not problems:
        source, result = place.inputs[0], place.outputs[0]
        if not source.sizes and source.span is None and source.size != result.size:
            problems.append(f"the output is {by(result.size)} pixels where the input is {by(source.size)}")
    for key, value in labels(filter).items():
        if (found := place.labels.get(key)) != value:
            problems.append(f"the metadata {key} is {found!r}, the filter's is {value!r}")
    return problems


def by(size: tuple[int, ...] | None) -> str:
    """A size in words: 480x640."""
    return "x".join(map(str, size or ()))


def _array(feature: Feature | None, shape: tuple[int, ...]) -> list[str]:
    if feature is None:
        return [f"the model has no input named {STYLE!r}"]
    found = (feature.kind, feature.number, by(feature.shape))
    if found != ("multiArray", "float32", by(shape)):
        return [f"the input {STYLE!r} is a {' '.join(found)}, expected a multiArray float32 {by(shape)}"]
    return []


def _tensor(what: str, feature: Feature) -> list[str]:
    kind = f"float tensor (1, 3, {STRIDE}*h, {STRIDE}*w)"
    return [] if feature.kind == kind else [f"the {what} is a {feature.kind}, expected a {kind}"]


def _image(what: str, feature: Feature) -> list[str]:
    if feature.kind != "image":
        return [f"the {what} is a {feature.kind}, expected an image"]
    problems = []
    if feature.color != "RGB":
        problems.append(f"the {what}'s colours are {feature.color}, expected RGB")
    odd = [size for size in (feature.size or (0, 0), *feature.sizes) if not fits(size)]
    if what == "input" and odd:
        problems.append(f"the {what} is {by(odd[0])} pixels, expected multiples of {STRIDE} from {SMALLEST} to {LARGEST}")
    return problems


def fits(size: tuple[int, int]) -> bool:
    """Whether a filter can have this (height, width)."""
    return all(SMALLEST <= side <= LARGEST and side % STRIDE == 0 for side in size)
