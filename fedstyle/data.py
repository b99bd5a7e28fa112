"""The `[data]` table of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedstyle.partition import AMOUNTS, PHOTO_SPLITS, STYLE_SPLITS, make_partitioner
from fedstyle.tables import need


@dataclass(frozen=True)
class Data:
    """Who has which photos and which style image."""

    photos: str | tuple[str, ...] = "demo"
    """`demo` (photographs that scikit-image carries), a folder, or a list with one folder a client."""
    clients: int = 0
    """Split one folder's photos among this many clients; 0 takes each sub-folder of `photos` as one client's."""
    styles: str | tuple[str, ...] = "painted"
    """`painted` (fedstyle's own generators), a folder of images, or a list of images."""
    holdout: int = 1
    """Photos kept out of training, to judge filters on: of the whole when one folder is split, of each client's own otherwise."""
    holdout_from: Literal["whole", "own"] = "whole"
    """When one folder is split: whether all clients are judged on the same photos, or each on some of its own share."""
    style_split: str | Mapping[str, Any] = "turns"
    """Who has which style: a partitioner of `partition.STYLE_SPLITS`, by name or as a table of `name` and its fields."""
    amounts: str | Mapping[str, Any] = "even"
    """How many photos of one folder each client gets: a partitioner of `partition.AMOUNTS`."""
    photo_split: str | Mapping[str, Any] = "shuffled"
    """Which photos of one folder each client gets: a partitioner of `partition.PHOTO_SPLITS`."""
    strength: tuple[int, ...] = ()
    """The least and the largest style strength; each client's is drawn from all between. Empty gives all that of [loss]."""
    density: tuple[int, ...] = ()
    """The least and the largest style density in pixels; each client's is drawn from the multiples of 4 between."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key, known in (("style_split", STYLE_SPLITS), ("amounts", AMOUNTS), ("photo_split", PHOTO_SPLITS)):
            make_partitioner(known, getattr(self, key), f"data.{key}")
        for key, low, high in (("strength", 1, 10), ("density", 64, 1024)):
            ends = getattr(self, key)
            fits = not ends or (len(ends) == 2 and low <= ends[0] <= ends[1] <= high)
            need(fits, f"data.{key}", list(ends), f"give the least and the largest, from {low} to {high}, or none")
        some = not self.density or -(-self.density[0] // 4) <= self.density[-1] // 4
        need(some, "data.density", list(self.density), "there is no multiple of 4 between; widen it")
        need(self.clients >= 0, "data.clients", self.clients, "give a number of clients, or 0 for one client a sub-folder")
        need(self.holdout >= 0, "data.holdout", self.holdout, "give 0 or more photos")
