"""Each client's photos in a simulation, as `[data]` says: a folder each, or a share of one folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedstyle import content
from fedstyle.data import Data
from fedstyle.demo import demo_photos
from fedstyle.errors import ConfigError
from fedstyle.partition import AMOUNTS, PHOTO_SPLITS, ByContent, ByFolder, make_partitioner
from fedstyle.photos import Photos
from fedstyle.picture import show
from fedstyle.training import derive


class Library(NamedTuple):
    """The photos that a client trains on, those that judge its filter, and the kind of each of the former, where kinds are known."""

    photos: Photos
    heldout: Photos
    kinds: tuple[str, ...] = ()


def open_libraries(data: Data, seed: int) -> tuple[list[Library], dict[str, int]]:
    """The clients' libraries, and how many files were no usable photo, by reason; every photo is decoded once.

    Raises ConfigError or PhotoError for folders that are missing, empty or too small, and for a split that does not fit them.
    """
    if data.photos == "demo":
        return _split(Photos.open(list(demo_photos().values())).checked(), data, seed)
    if data.clients and isinstance(data.photos, str):
        return _split(Photos.open(Path(data.photos)).checked(), data, seed)
    for key, default in (("amounts", "even"), ("photo_split", "shuffled")):
        if getattr(data, key) != default:
            raise ConfigError(
                f"data.{key} is set, but every folder is a client's own: set data.clients to split one folder, or leave it out"
            )
    libraries, skipped = list[Library](), dict[str, int]()
    for number, folder in enumerate(_folders(data)):
        whole = Photos.open(folder).checked()
        for reason, count in whole.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
        libraries.append(_keep_out(Library(whole, whole), data.holdout, derive(seed, number)))
    return libraries, skipped


def _folders(data: Data) -> list[Path]:
    """A folder a client."""
    if isinstance(data.photos, tuple):
        folders = [Path(folder) for folder in data.photos]
    else:
        root = Path(data.photos)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")) if root.is_dir() else [root]
        if not folders:
            raise ConfigError(
                f"data.photos = {data.photos!r} has no sub-folders: set data.clients to split its photos, or make a folder a client"
            )
    if data.clients and data.clients != len(folders):
        raise ConfigError(f"data.clients = {data.clients}, but data.photos lists {len(folders)} folders: leave data.clients out")
    return folders


def _keep_out(library: Library, count: int, seed: int) -> Library:
    """The library with so many of its photos kept out of training, but never the last one."""
    whole, kept_out = library.photos, min(count, len(library.photos) - 1)
    order = np.random.default_rng(seed).permutation(len(whole)).tolist()
    stay = sorted(order[kept_out:])
    kinds = tuple(library.kinds[place] for place in stay) if library.kinds else ()
    return Library(whole.subset(stay), whole.subset(sorted(order[:kept_out])), kinds)


def _split(whole: Photos, data: Data, seed: int) -> tuple[list[Library], dict[str, int]]:
    """Shares of one folder."""
    common = data.holdout if data.holdout_from == "whole" else 0
    clients = data.clients or len(whole) - common
    if len(whole) < clients + common or clients < 1:
        raise ConfigError(
            f"data.photos holds {len(whole)} usable photos: too few for data.clients = {clients} and data.holdout = {common}; "
            "give more photos, or lower one of them"
        )
    order = np.random.default_rng(seed).permutation(len(whole)).tolist()
    heldout, rest = whole.subset(sorted(order[:common])), whole.subset(sorted(order[common:]))
    amounts = make_partitioner(AMOUNTS, data.amounts, "data.amounts")
    split = make_partitioner(PHOTO_SPLITS, data.photo_split, "data.photo_split")
    sizes = amounts.sizes(len(rest), clients, np.random.default_rng(derive(seed, "amounts")))
    kinds = _kinds(rest, data, split, seed)
    parts = split.deal(kinds or [""] * len(rest), sizes, np.random.default_rng(seed))
    libraries = [Library(rest.subset(part), heldout, tuple(kinds[place] for place in part) if kinds else ()) for part in parts]
    if data.holdout_from == "own":
        libraries = [_keep_out(library, data.holdout, derive(seed, number)) for number, library in enumerate(libraries)]
    return libraries, dict(whole.skipped)


def _kinds(photos: Photos, data: Data, split: object, seed: int) -> list[str]:
    """The kind of each photo, as the split asks for it; empty where it asks for none."""
    if isinstance(split, ByContent):
        return [f"content {kind}" for kind in content.cluster(photos, split.clusters, derive(seed, "content"))]
    if not isinstance(split, ByFolder):
        return []
    if not isinstance(data.photos, str) or data.photos == "demo":
        raise ConfigError("data.photo_split = 'folder' needs data.photos to be a folder with a sub-folder for each kind of photo")
    kinds = [path.relative_to(data.photos).parts[0] if path.parent != Path(data.photos) else "" for path in photos.paths]
    if len(set(kinds)) < 2:
        raise ConfigError(f"data.photo_split = 'folder': data.photos = {data.photos!r} has no two sub-folders with photos; take 'content'")
    return [show(kind) for kind in kinds]
