"""An entry of a shelf: a filter as the arrays in which it differs from its base, a preview, and what it is called.

A folder with `entry.json`, `filter-<hash>.safetensors` and `preview-<hash>.jpg`. The hash is the filter's; `entry.json` names it and is
written last, so that a process that dies leaves the old entry or the new one. Beside them may lie, readable by their owner alone,
`style.png` (the style image as training sees it) and `photo.jpg` (what the preview shows).
"""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.errors import BaseError, FilterError, ParamsError
from fedstyle.filter import Filter
from fedstyle.net import ARCHITECTURES, PADDINGS
from fedstyle.shelf import scene
from fedstyle.style import Style

FORMAT = "fedstyle-shelf-1"
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""What an id looks like; nothing else reaches the file system."""
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A filter on a shelf.

    `predefined` filters ship with fedstyle, the others are the user's own. `base_sha256` names the base that it stands on, empty where
    that is not known. A `whole` filter is stored with all its arrays, any other as its difference from that base. `previewed` says what
    the preview shows: `scene` (a landscape painted by code) or `photo` (one that the app gave). `facts` are the filter's.
    """

    id: str
    name: str
    predefined: bool
    arch: str
    padding: str
    sha256: str
    base_sha256: str
    whole: bool
    previewed: str
    facts: Mapping[str, Any] = field(hash=False)
    place: Path = field(repr=False)
    head: Mapping[str, Any] = field(repr=False, hash=False, compare=False)

    @functools.cached_property
    def filter(self) -> Filter:
        """The filter, bit for bit as it was added; where another process upgraded it since, as it is now.

        Raises FilterError when it was removed, is damaged, or stands on a base that is not there.
        """
        entry = self
        while True:
            try:
                return entry.restore()
            except FilterError:
                now = find(self.place, self.predefined)
                if now.sha256 == entry.sha256:
                    raise
                entry = now

    @property
    def preview(self) -> Image.Image:
        """The preview picture, RGB of 256 x 192 pixels; made anew where its file is missing or damaged."""
        try:
            with Image.open(self.place / f"preview-{self.sha256}.jpg", formats=["JPEG"]) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return self.filter(scene.landscape()).resize(scene.PREVIEW, Image.Resampling.LANCZOS)

    @property
    def style(self) -> Style | None:
        """The style image that was kept with the filter, or None; raises StyleError when its file is damaged."""
        kept = self.head.get("style")
        return Style(self.place / "style.png", strength=kept["strength"], density=kept["density"]) if kept else None

    @property
    def size(self) -> int:
        """Bytes that the filter takes, without its preview, its style image and its base; 0 when it was removed."""
        paths = [self.place / name for name in ("entry.json", f"filter-{self.sha256}.safetensors")]
        return sum(path.stat().st_size for path in paths if path.exists())

    def restore(self) -> Filter:
        """The filter from its difference and its base, checked by its hash; raises FilterError."""
        try:
            weights = params.load(self.place / f"filter-{self.sha256}.safetensors")
            if not self.whole:
                weights = {**plain(self._base()), **weights}
        except BaseError as error:
            raise FilterError(f"the filter {self.id} stands on base {self.base_sha256[:12]}, which cannot be used: {error}") from None
        except ParamsError as error:
            raise FilterError(f"the filter {self.id}: {error}") from None
        found = Filter(self.arch, self.padding, weights, dict(self.facts))
        if found.sha256 != self.sha256:
            raise FilterError(f"{self.place} was altered or damaged: its arrays are not those of filter {self.sha256[:12]}. Remove it")
        return found

    def _base(self) -> Base:
        if not self.predefined:
            return read_base(self.place.parents[1] / "bases" / self.base_sha256, self.base_sha256)
        base = Base.shipped(self.arch)
        if base.sha256 != self.base_sha256:
            raise BaseError(f"fedstyle carries base {base.sha256[:12]} for {self.arch}: install a fedstyle whose filters and base fit")
        return base


def find(place: Path, predefined: bool) -> Entry:
    """The entry in a folder; raises FilterError when there is none, or it is damaged."""
    try:
        head = json.loads((place / "entry.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FilterError(f"the shelf holds no filter with the id {place.name!r}: it was removed, or never there") from None
    except (OSError, ValueError) as error:
        raise FilterError(f"{place}/entry.json cannot be read ({error}): remove this filter") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise FilterError(f"{place}/entry.json is not of the format {FORMAT}: a newer fedstyle may have written it")
    kinds: dict[str, type] = dict.fromkeys(("name", "architecture", "padding", "sha256", "base_sha256", "previewed"), str)
    for key, kind in {**kinds, "whole": bool, "facts": dict, "number": int}.items():
        if not isinstance(head.get(key), kind):
            raise FilterError(f"{place}/entry.json has no usable entry {key!r}: it was altered; remove this filter")
    if head["architecture"] not in ARCHITECTURES or head["padding"] not in PADDINGS:
        raise FilterError(f"{place}/entry.json names an architecture that fedstyle does not know: it was altered; remove this filter")
    if not HASH.fullmatch(head["sha256"]) or not (head["whole"] or HASH.fullmatch(head["base_sha256"])):
        raise FilterError(f"{place}/entry.json names no hash where one belongs: it was altered; remove this filter")
    names = ("sha256", "base_sha256", "whole", "previewed", "facts")
    made = {key: head[key] for key in names}
    return Entry(place.name, head["name"], predefined, head["architecture"], head["padding"], place=place, head=head, **made)


def find_all(folder: Path, predefined: bool) -> list[Entry]:
    """The entries in a folder of entries, in the order in which they were added; one that is damaged is left out with a warning."""
    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if ID.fullmatch(place.name) and (place / "entry.json").exists():
            try:
                found.append(find(place, predefined))
            except FilterError as error:
                if (place / "entry.json").exists():  # else it was removed just now
                    warnings.warn(f"a filter was left out of the list: {error}", stacklevel=3)
    return sorted(found, key=lambda entry: (entry.head["number"], entry.id))


@functools.lru_cache(maxsize=2)
def read_base(place: Path, sha256: str) -> Base:
    """The base in a folder, which is kept for the next filter on it; raises BaseError unless it has this hash."""
    base = Base.load(place)
    if base.sha256 != sha256:
        raise BaseError(f"{place} holds base {base.sha256[:12]} instead of {sha256[:12]}: put the right one back")
    return base


def plain(base: Base) -> Mapping[str, Tensor]:
    """A base's weights without its predictor: what a filter on it is compared with."""
    return base.transform()


def difference(filter: Filter, base: Base | None) -> dict[str, Tensor] | None:
    """The arrays of a filter that are not, bit for bit, those of its base; None where it is better stored whole.

    It is stored whole when its base is not at hand or of another shape, or when more than half of its bytes differ.
    """
    if base is None or (base.arch, base.padding) != (filter.arch, filter.padding):
        return None
    like = plain(base)
    if filter.weights.keys() != like.keys():
        return None
    own = {name: value for name, value in filter.weights.items() if not _same(value, like[name])}
    return own if 2 * params.size(own) <= params.size(filter.weights) else None


def _same(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and params.fingerprint({"": one}) == params.fingerprint({"": other})
