"""`FilterLibrary`: add, list, get, rename, remove and upgrade the filters of a device."""

from __future__ import annotations

import contextlib
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fedstyle import base as bases
from fedstyle.base import Base
from fedstyle.candidates import Source
from fedstyle.config import Training
from fedstyle.errors import BaseError, FilterError
from fedstyle.files import write_json
from fedstyle.filter import Filter
from fedstyle.photos import Photos, open_image
from fedstyle.shelf import scene, store
from fedstyle.shelf.entries import HASH, ID, Entry, find, find_all, read_base
from fedstyle.shelf.upgrade import Upgrade, upgrade
from fedstyle.style import Style

LONGEST = 200
"""Characters of the longest name."""


def predefined() -> Path:
    """The folder of the filters that ship with fedstyle; it may be empty."""
    return bases.SHIPPED / "filters"


def check_name(name: str) -> None:
    """Raise FilterError unless people can read a name: 1 to 200 characters, one of them visible, none of control."""
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST:
        raise FilterError(f"a filter's name has 1 to {LONGEST} characters: give such a name")
    kinds = {unicodedata.category(character) for character in name}
    if kinds & {"Cc", "Cs", "Zl", "Zp"} or not any(kind[0] in "LNPS" for kind in kinds):
        raise FilterError(
            f"the name {ascii(name)[:80]} cannot be shown on a line: leave out control characters, and give one that is visible"
        )


@dataclass(frozen=True)
class FilterLibrary:
    """The shelf of filters in a folder of the device: the predefined ones, which ship with fedstyle, and the user's own.

    Any number of processes and threads may use it at once: each change is whole or not there, also after a kill, and waits up to 30
    seconds for another process's change (FilterError after that). A folder that is not there yet is an empty shelf; the first `add`
    makes it, readable by its owner alone. Filters have ids; names are for people, may be given twice, and never become a file's name.
    """

    folder: Path | str

    def __post_init__(self) -> None:
        """Take the folder as a path."""
        object.__setattr__(self, "folder", Path(self.folder))

    def list(self) -> tuple[Entry, ...]:
        """Every filter: predefined ones first, then the user's own in the order in which they were added.

        A damaged one is left out with a warning; `get` says what is wrong with it, and `remove` still removes it.
        """
        return (*find_all(predefined(), True), *find_all(self._own, False))

    def get(self, id: str) -> Entry:
        """The filter with this id; `.filter` of what is returned is the Filter. Raises FilterError when there is none."""
        place, ours = self._place(id)
        return find(place, ours)

    def add(
        self,
        filter: Filter,
        name: str,
        *,
        base: Base | None = None,
        style: Style | Image.Image | Path | str | None = None,
        photo: Image.Image | Path | str | None = None,
    ) -> Entry:
        """Put a filter on the shelf and return its entry, whose `filter` is the one that was added bit for bit.

        It is stored as its difference from the base that its facts name: the one given, one that the shelf has, or the one that fedstyle
        carries. Where none of these is it, and where more than half of the filter differs, it is stored `whole`; that works everywhere
        and takes as much room as the network. `style` keeps the style image on the shelf, at the filter's density and readable by its
        owner alone, so that `upgrade` needs nobody's help. The preview shows `photo`, otherwise a landscape painted by code.

        Raises FilterError for a name that is empty, longer than 200 characters or not printable, and for a base that is not the
        filter's; ParamsError for a filter that is no network; StyleError or PhotoError for a style image or a photo that cannot be used;
        OutputError for a folder that cannot be written.
        """
        check_name(name)
        picture = scene.framed(photo if isinstance(photo, Image.Image) else open_image(Path(photo))) if photo else None
        preview = scene.preview(filter, picture)  # runs the network: what is none never reaches the shelf
        if style is not None and not isinstance(style, Style):
            style = Style(style, strength=filter.facts.get("strength", 5), density=filter.facts.get("density", 256))
        said = store.stands_on(filter, None)
        if base and said not in ("", base.sha256):
            raise FilterError(f"the filter stands on base {said[:12]}, not on {base.sha256[:12]}: give that base, or none")
        id = uuid.uuid4().hex
        place = self._own / id
        with store.hold(Path(self.folder)):
            base = base or self._base(said, filter.arch)
            with store.explained(place):
                place.mkdir(parents=True, mode=0o700)
            head = {"name": name, "number": store.next_number(Path(self.folder))}
            kept = {"style": store.keep_style(place, store.settled(style, filter.facts))} if style else {}
            if picture:
                store.keep_private(place / "photo.jpg", scene.jpeg(picture, 92))
            store.put(Path(self.folder), id, {**head, **kept}, filter, base, preview, "photo" if picture else "scene")
        return self.get(id)

    def rename(self, id: str, name: str) -> Entry:
        """Give a filter of the user's another name; raises FilterError for a predefined one, one that is not there, or a bad name."""
        check_name(name)
        place = self._changeable(id)
        with store.hold(Path(self.folder)):
            write_json(place / "entry.json", {**find(place, False).head, "name": name})
        return self.get(id)

    def remove(self, id: str) -> None:
        """Remove a filter of the user's with its preview and style image, and its base when no other filter uses it.

        Raises FilterError for a predefined one, or when there is none with this id.
        """
        place = self._changeable(id)
        with store.hold(Path(self.folder)):
            self._changeable(id)  # another process may have removed it meanwhile
            with store.explained(place):
                (place / "entry.json").unlink()  # from here on it is not there; the sweep takes the rest

    def upgrade(
        self,
        base: Base,
        photos: Photos | Source,
        *,
        iterations: int = 100,
        seconds: float | None = None,
        styles: Mapping[str, Style] | None = None,
        training: Training | None = None,
    ) -> tuple[Upgrade, ...]:
        """Make the user's filters of this architecture anew on another base, each with up to `iterations`, and keep the better ones.

        A filter needs its style image: in `styles` by id, or kept by `add`. About a fifth of the photos, chosen by their content, is
        kept out of all upgrades' training; the new filter takes the old one's place when its total loss on those is lower, under the
        same id, and a base that no filter uses any more is dropped. An old filter's first training may have seen those photos, which
        speaks for it. Until then, and where the old one is better, it renders as before, bit for bit.

        `seconds` ends the call after about this long; call again with the same arguments to go on, also after a kill, which loses at
        most one checkpoint interval. What was decided is not trained again unless `iterations` is raised. `training` says how to train;
        without it as the base advises, at the filter's own size.

        Raises PhotoError when there are fewer than two photos, FilterError when another upgrade of this shelf is under way.
        """
        return upgrade(self, base, photos, iterations=iterations, seconds=seconds, styles=styles or {}, training=training)

    @property
    def _own(self) -> Path:
        return Path(self.folder) / "filters"

    def _base(self, sha256: str, arch: str) -> Base | None:
        """The base with this hash, where the shelf has it or fedstyle carries it."""
        if HASH.fullmatch(sha256):
            with contextlib.suppress(BaseError):
                return read_base(Path(self.folder) / "bases" / sha256, sha256)
            with contextlib.suppress(BaseError):
                if (base := Base.shipped(arch)).sha256 == sha256:
                    return base
        return None

    def _place(self, id: str) -> tuple[Path, bool]:
        """Where an id's entry lies, and whether it is predefined; nothing but an id becomes part of a path."""
        if not isinstance(id, str) or not ID.fullmatch(id):
            raise FilterError(f"{ascii(id)[:80]} is no id of a filter: take it from an entry of the list")
        ships = (predefined() / id / "entry.json").exists()
        return (predefined() if ships else self._own) / id, ships

    def _changeable(self, id: str) -> Path:
        place, ships = self._place(id)
        if ships:
            raise FilterError(f"the filter {id} is predefined and ships with fedstyle: only the user's own can be renamed or removed")
        if not (place / "entry.json").exists():
            find(place, False)  # says so
        return place
