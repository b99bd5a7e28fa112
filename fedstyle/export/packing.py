"""Packs: many filters in one Core ML package, as functions that share weights (iOS 18) or as style vectors beside one network (iOS 15)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstyle.errors import ConfigError, ExportError, OutputError
from fedstyle.export import coreml, styles
from fedstyle.export.contract import LIST, styles_folder
from fedstyle.export.parity import Parity, verify, verify_blend
from fedstyle.export.program import Unfaithful, about, first_line, labels, quiet, require
from fedstyle.export.reader import offsets
from fedstyle.files import staged, write_bytes
from fedstyle.filter import Filter

TARGETS = ("ios18", "ios15")


@dataclass(frozen=True)
class Packed:
    """A filter in a pack: `name` is a person's word for it, `identifier` that of its function (ios18) or style file (ios15).

    `bytes` is what it adds to a pack that holds its base already.
    """

    name: str
    identifier: str
    bytes: int
    parity: Parity


@dataclass(frozen=True)
class Pack:
    """A pack that was written, each filter in it proved.

    `bytes` counts package and style files together. `blend` proves a half-and-half mix of the first two filters of an ios15 pack, and is
    None otherwise. `notices` are things that a person should know.
    """

    path: Path
    target: str
    bytes: int
    filters: tuple[Packed, ...]
    blend: Parity | None
    notices: tuple[str, ...]

    @property
    def styles(self) -> Path | None:
        """The folder of style files, or None for an ios18 pack."""
        return styles_folder(self.path) if self.target == "ios15" else None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        rows = [
            {"name": one.name, "identifier": one.identifier, "bytes": one.bytes, "parity": one.parity.as_dict()} for one in self.filters
        ]
        return {
            "path": str(self.path),
            "target": self.target,
            "bytes": self.bytes,
            "styles": str(self.styles) if self.styles else None,
            "filters": rows,
            "blend": self.blend.as_dict() if self.blend else None,
            "notices": list(self.notices),
        }


def pack(
    filters: Mapping[str, Filter],
    path: str | Path,
    *,
    target: str = "ios18",
    size: int | tuple[int, int] = 512,
    metadata: Mapping[str, str] | None = None,
) -> Pack:
    """Write many filters as one .mlpackage (fp16), run each one in it on this machine, and tell how it went.

    `filters` maps the name that a person sees to a filter; the first is the default. Both targets take and give RGB images of `size`
    pixels, a side or (height, width), in multiples of 4, named `image` and `stylizedImage`.

    ios18: a function for each filter (`MLModelConfiguration.functionName`); filters of one base share its convolutions.
    ios15: one network with an input `style` (1, N, 1, 1) of float32, and beside `Name.mlpackage` a folder `Name.styles` with a file for
    each filter (see `styles`), which an app reads and may mix linearly. All filters must have the same convolutions.

    The package's user-defined metadata lists the filters under `styles` as JSON: name, function or file, sha256 of the weights and labels.
    No path is in it, but the names are. `metadata` may set author, license, version and description.
    Raises ConfigError for filters, target or size that cannot be, OutputError when `path` or the style folder exists or cannot be written,
    ExportError when a conversion fails, and of it Unfaithful when a written filter is not the filter given; then nothing is left.
    """
    path = Path(path)
    size = (size, size) if isinstance(size, int) else size
    _check(filters, path, target)
    coreml.check_size(size)
    names = styles.identifiers(filters)
    words = about(f"{len(filters)} photo filters made with fedstyle: {', '.join(filters)}.", metadata)
    return (_multifunction if target == "ios18" else _styled)(filters, names, path, size, words)


def _check(filters: Mapping[str, Filter], path: Path, target: str) -> None:
    if path.suffix != ".mlpackage":
        raise ConfigError(f"a pack is a .mlpackage: name {path} so")
    if target not in TARGETS:
        raise ConfigError(f"unknown target {target!r}: choose {' or '.join(TARGETS)}")
    if not filters:
        raise ConfigError("a pack needs at least one filter")
    seen: dict[str, str] = {}
    for name, filter in filters.items():
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise ConfigError(f"{name!r} is no name for a filter: use 1 to 100 printable characters")
        if filter.sha256 in seen:
            raise ConfigError(f"{seen[filter.sha256]!r} and {name!r} have the same weights: pack one of them")
        seen[filter.sha256] = name
    places = [path, styles_folder(path)] if target == "ios15" else [path]
    for place in places:
        if os.path.lexists(place):
            raise OutputError(f"{place} exists already: choose another place, or remove it first")


def _note(filter: Filter, name: str, where: str, what: str) -> dict[str, str]:
    return {"name": name, where: what, "filter": filter.sha256, **labels(filter)}


def _list(entries: list[dict[str, str]]) -> str:
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":"))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _proved(made: Path, path: Path, filters: Mapping[str, Filter]) -> Iterator[tuple[str, Parity]]:
    for name, filter in filters.items():
        yield name, _faithful(verify(made, filter), made, path, repr(name))


def _faithful(parity: Parity, made: Path, path: Path, what: str) -> Parity:
    if not parity.faithful:
        problems = "; ".join(parity.problems).replace(str(made.parent), str(path.parent))
        raise Unfaithful(f"the pack is not faithful to {what}, so nothing was written to {path}: {problems}")
    return parity


def _multifunction(filters: Mapping[str, Filter], names: Mapping[str, str], path: Path, size: coreml.Size, words: dict[str, str]) -> Pack:
    bases = Counter(styles.base_of(filter) for filter in filters.values())
    with staged(path) as folder:
        made = folder / path.name
        with tempfile.TemporaryDirectory(dir=folder) as parts:
            for name, filter in filters.items():
                coreml.write(filter, Path(parts) / f"{names[name]}.mlpackage", size, "fp16", words)
            spec = _join([Path(parts) / f"{name}.mlpackage" for name in names.values()], made, path)
        notes = {LIST: _list([_note(filter, name, "function", names[name]) for name, filter in filters.items()])}
        coreml.describe(spec, notes, words)
        write_bytes(made / coreml.INSIDE / "model.mlmodel", spec.SerializeToString(deterministic=True))
        (made / coreml.INSIDE / "model.mlmodel").chmod(0o644)
        own = _own(spec, made)
        rows = tuple(Packed(name, names[name], own[names[name]], parity) for name, parity in _proved(made, path, filters))
        coreml.settle(made, folder)
        total = _size(folder)
    notices = (f"the filters stand on {len(bases)} bases, which share no weights with each other",) if len(bases) > 1 else ()
    return Pack(path, "ios18", total, rows, None, notices)


def _join(parts: list[Path], made: Path, path: Path) -> Any:
    """Merge packages with one function each into one with a function for each, named as the packages are; its description."""
    ct = require("coremltools", "coreml")
    try:
        with quiet():
            descriptor = ct.utils.MultiFunctionDescriptor()
            for part in parts:
                descriptor.add_function(str(part), src_function_name="main", target_function_name=part.stem)
            descriptor.default_function_name = parts[0].stem
            ct.utils.save_multifunction(descriptor, str(made))
            spec = ct.proto.Model_pb2.Model()
            spec.ParseFromString((made / coreml.INSIDE / "model.mlmodel").read_bytes())
    except OSError as error:
        raise coreml.full(path) from error
    except Exception as error:
        if "FileWriter" in str(error):
            raise coreml.full(path) from error
        raise ExportError(f"coremltools cannot join the filters ({first_line(error)}): try --target ios15") from error
    return spec


def _own(spec: Any, made: Path) -> dict[str, int]:
    """The bytes that each function alone takes: its program, and the constants that no other function shares."""
    weights = (made / coreml.INSIDE / "weights" / "weight.bin").stat().st_size
    found_in = {name: offsets(function) for name, function in spec.mlProgram.functions.items()}
    users = Counter(offset for found in found_in.values() for offset in found)
    ends = dict(zip(sorted(users), [*sorted(users)[1:], weights], strict=True))
    return {
        name: spec.mlProgram.functions[name].ByteSize() + sum(ends[offset] - offset for offset in found if users[offset] == 1)
        for name, found in found_in.items()
    }


def _styled(filters: Mapping[str, Filter], names: Mapping[str, str], path: Path, size: coreml.Size, words: dict[str, str]) -> Pack:
    (first, base), *others = filters.items()
    for name, filter in others:
        if different := styles.differing(base, filter):
            raise ExportError(
                f"{name!r} does not stand on the base of {first!r}: {different} differ. An ios15 pack has one base: "
                "choose filters of the same one, or --target ios18, which takes any"
            )
    for filter in filters.values():
        coreml.check_fp16(filter, size)
    folder_of_styles, finished = styles_folder(path), False
    try:
        with staged(path) as folder, staged(folder_of_styles) as beside:
            made = folder / path.name
            files = styles_folder(made)
            for name, filter in filters.items():
                styles.write(filter, name, files / f"{names[name]}{styles.SUFFIX}")
            entries = [_note(filter, name, "file", f"{names[name]}{styles.SUFFIX}") for name, filter in filters.items()]
            notes = {"algorithm": base.arch, "base": styles.base_of(base), LIST: _list(entries)}
            coreml.write(base, made, size, "fp16", words, notes=notes, styled=True)
            sizes = {name: (files / f"{names[name]}{styles.SUFFIX}").stat().st_size for name in filters}
            rows = tuple(Packed(name, names[name], sizes[name], parity) for name, parity in _proved(made, path, filters))
            blend = None
            if others:
                blend = _faithful(verify_blend(made, base, others[0][1]), made, path, "a mix of its first two filters")
            total = _size(made) + _size(files)
            for file in list(files.iterdir()):
                shutil.move(file, beside / file.name)
            files.rmdir()
            coreml.settle(made, folder)
            finished = True
    except BaseException:
        if finished and not os.path.lexists(path):  # the style files were there already when the package could not be
            shutil.rmtree(folder_of_styles, ignore_errors=True)
        raise
    return Pack(path, "ios15", total, rows, blend, ())
