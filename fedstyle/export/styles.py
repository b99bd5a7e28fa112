"""Style vectors: a filter's scale and shift of each norm, as the `style` input of a pack and as a file of a few kilobytes beside it.

A style file is a safetensors file: 8 bytes with the length of a JSON header (unsigned, little endian), the header, then the numbers
as raw little-endian float32, scale then shift of each norm in the order of the forward pass. The header's `__metadata__` names the filter
and the base that it belongs to. That is one file with all that an app has to check, in a format that others read too, and Swift needs ten
lines for it. float32 and not float16, because an MLMultiArray of iOS 15 has no float16, and Swift has none on a Mac with an Intel chip.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as dump
from torch import Tensor

from fedstyle import params
from fedstyle.errors import ConfigError, ExportError
from fedstyle.export.program import STYLE, Damaged
from fedstyle.files import write_bytes
from fedstyle.filter import Filter
from fedstyle.net import InstanceNorm, TransformNet, is_norm

FORMAT = "fedstyle-style-1"
SUFFIX = ".safetensors"
LONGEST = 40
"""Characters of the longest identifier."""


class Missing(ExportError):  # noqa: N818
    """A style file that is not there, or cannot be read."""


@dataclass(frozen=True)
class StyleFile:
    """A style file, read: `vector` is (N,) float32; `base` is the `base_of` of the filter named `name`, `filter` its sha256."""

    vector: Tensor
    name: str
    base: str
    filter: str


def norms(net: TransformNet) -> dict[str, int]:
    """The names of a network's norms and their channels, in the order of the forward pass."""
    return {name: module.weight.numel() for name, module in net.named_modules() if isinstance(module, InstanceNorm)}


def vector(filter: Filter) -> Tensor:
    """A filter's style vector: (N,) float32, scale then shift of each norm in the order of the forward pass."""
    return torch.cat([filter.weights[f"{name}.{part}"].float() for name in norms(filter.net) for part in ("weight", "bias")])


def base_of(filter: Filter) -> str:
    """A hash of all that a style vector does not hold: two filters with the same one differ in their style vectors alone."""
    rest = {name: value for name, value in filter.weights.items() if not is_norm(name)}
    return hashlib.sha256(f"{filter.arch} {filter.padding} {params.fingerprint(rest)}".encode()).hexdigest()


def blend(first: Filter, second: Filter, amount: float) -> Filter:
    """A mix of two filters of the same base: `amount` 0 gives the first, 1 the second, and between them the norms are mixed linearly.

    Its style vector is (1 - amount) * vector(first) + amount * vector(second), which an app can compute by itself.
    Raises ConfigError when `amount` is not in 0..1 or the filters stand on different bases.
    """
    if not 0 <= amount <= 1:
        raise ConfigError(f"the amount of a blend is from 0 to 1, not {amount!r}")
    if different := differing(first, second):
        raise ConfigError(f"the filters cannot be blended, they stand on different bases: {different} differ")
    mixed = {name: torch.lerp(value, second.weights[name], amount) for name, value in first.weights.items()}
    return dataclasses.replace(first, weights=mixed, facts={})


def differing(first: Filter, second: Filter) -> str:
    """What differs between two filters beside their norms, in words; empty when nothing does."""
    if (first.arch, first.padding) != (second.arch, second.padding):
        return f"the networks ({first.arch} with padding {first.padding}, {second.arch} with padding {second.padding})"
    names = [name for name in first.weights.keys() | second.weights.keys() if not is_norm(name)]
    wrong = sorted(name for name in names if not _equal(first.weights.get(name), second.weights.get(name)))
    if not wrong:
        return ""
    more = f" and {len(wrong) - 3} more of {len(names)} arrays" if len(wrong) > 3 else ""
    return ", ".join(wrong[:3]) + more


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def write(filter: Filter, name: str, path: Path) -> None:
    """Write a filter's style file, whole or not at all; raises OutputError when the place cannot be written."""
    notes = {"format": FORMAT, "name": name, "base": base_of(filter), "filter": filter.sha256}
    write_bytes(path, dump({STYLE: vector(filter)}, notes))


def read(path: Path) -> StyleFile:
    """Read a style file; raises Missing when there is none, Damaged when it is none or was altered."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Missing(f"{path} cannot be read ({error.strerror}): make the pack again") from error
    wrong = Damaged(f"{path} is no style file, or a damaged one: make the pack again")
    try:
        tensors = parse(content)
        notes = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        found = StyleFile(tensors[STYLE].reshape(-1), notes["name"], notes["base"], notes["filter"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise wrong from error
    if notes.get("format") != FORMAT or found.vector.dtype != torch.float32 or not torch.isfinite(found.vector).all():
        raise wrong
    return found


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """An identifier for each name, all different, of small letters, digits and underscores: a function's name, or a file's.

    It is made of the name's Latin letters and digits; a name without any becomes `style`, and a number tells equals apart.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:LONGEST].strip("_") or STYLE
        if not stem[0].isalpha() or stem == "main":  # `main` is what Core ML calls the one function of other packages
            stem = f"{STYLE}_{stem}"
        number, chosen = 1, stem
        while chosen in found.values():
            number += 1
            chosen = f"{stem}_{number}"
        found[name] = chosen
    return found


def entries(text: str) -> list[Mapping[str, str]]:
    """The filters that a pack's metadata names; raises Damaged when it cannot be read."""
    try:
        found = json.loads(text)
        good = isinstance(found, list) and all(isinstance(item, dict) and all(isinstance(v, str) for v in item.values()) for item in found)
    except (ValueError, RecursionError):
        good = False
    if not good or not all({"name", "filter"} <= item.keys() for item in found):
        raise Damaged("the pack's list of filters cannot be read: make the pack again")
    return list(found)
