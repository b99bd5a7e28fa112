"""Filters made anew on another base, in sessions that survive a kill, and the better of old and new kept."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedstyle.base import Base
from fedstyle.candidates import Source
from fedstyle.client import Client
from fedstyle.config import Loss, Training
from fedstyle.errors import Cancelled, FedstyleError, FilterError, OutputError, PhotoError, SessionError
from fedstyle.files import locked, write_json
from fedstyle.filter import Filter
from fedstyle.job import Job
from fedstyle.photos import Photos
from fedstyle.picture import open_image
from fedstyle.shelf import scene, store
from fedstyle.shelf.entries import Entry, find
from fedstyle.style import Style
from fedstyle.tables import read

if TYPE_CHECKING:
    from fedstyle.shelf.library import FilterLibrary

MOST = 100
"""Photos that an upgrade looks at, evenly spread over the library: training cuts 32 crops, and each photo has to be read."""
JUDGES = 8
"""Photos kept out that filters are judged on, at most."""
SHARE = 0x33
"""Photos whose content's hash begins with a byte below this, a fifth of all, are kept out of training, in every upgrade alike."""


@dataclass(frozen=True)
class Upgrade:
    """What became of a filter of the user's in an upgrade.

    `outcome` is `new` (the filter made on the new base has taken its place), `old` (it stays: its loss is lower), `current` (it stands on
    that base already), `unfinished` (the time was up: call again), or `left`, with the reason in `why`. `old` and `new` are mean total
    losses on photos kept out, where both were measured. `iterations` is how far training came, 0 where its turn did not come.
    """

    id: str
    name: str
    outcome: Literal["new", "old", "current", "unfinished", "left"]
    old: float | None = None
    new: float | None = None
    iterations: int = 0
    why: str = ""


@dataclass(frozen=True)
class _Plan:
    """What all filters of an upgrade have in common."""

    folder: Path
    base: Base
    trained: Photos
    judges: Photos
    iterations: int
    until: float | None
    training: Training | None

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        return None if self.until is None else self.until - time.monotonic()


def upgrade(
    library: FilterLibrary,
    base: Base,
    photos: Photos | Source,
    *,
    iterations: int,
    seconds: float | None,
    styles: Mapping[str, Style],
    training: Training | None,
) -> tuple[Upgrade, ...]:
    """See `FilterLibrary.upgrade`."""
    folder = Path(library.folder)
    until = None if seconds is None else time.monotonic() + seconds
    entries = [entry for entry in library.list() if not entry.predefined]
    if not entries:
        return ()
    trained, judges = parted(photos if isinstance(photos, Photos) else Photos.open(photos))
    plan = _Plan(folder, base, trained, judges, iterations, until, training)
    taken = FilterError(f"another upgrade of the shelf {folder} is under way: wait for it")
    with locked(folder / "upgrade.lock", taken):
        outcomes: list[Upgrade] = []
        for entry in entries:
            must = not any(found.outcome in ("new", "unfinished") for found in outcomes)  # however short the time, each call gets further
            outcomes.append(_upgrade(plan, entry, styles.get(entry.id), must))
        unfinished = {found.id for found in outcomes if found.outcome == "unfinished"}
        for session in (folder / "upgrade").glob("*"):
            if store.OWN_ID.fullmatch(session.name) and session.name not in unfinished:
                shutil.rmtree(session, ignore_errors=True)
    return tuple(outcomes)


def parted(photos: Photos) -> tuple[Photos, Photos]:
    """Photos to train on, and photos to judge on that no upgrade trains on; which is which follows from each photo's content.

    Raises PhotoError when there are fewer than two.
    """
    few = photos.subset(np.linspace(0, len(photos) - 1, MOST).round().astype(int).tolist()) if len(photos) > MOST else photos
    if len(few) < 2:
        raise PhotoError("an upgrade needs two photos or more, one to train on and one to judge by: give more photos")
    digests = [few.subset([index]).digest() for index in range(len(few))]
    order = sorted(range(len(few)), key=digests.__getitem__)
    judges = [index for index in order if digests[index][:2] < f"{SHARE:02x}"]
    judges = (judges or order[:1])[: len(few) - 1]
    return few.subset(sorted(set(order) - set(judges))), few.subset(judges[:JUDGES])


def _upgrade(plan: _Plan, entry: Entry, style: Style | None, must: bool) -> Upgrade:
    """What becomes of one filter; `must` it be worked on even when the time is up."""

    def outcome(kind: Literal["new", "old", "current", "unfinished", "left"], **found: Any) -> Upgrade:
        return Upgrade(entry.id, entry.name, kind, **found)

    if entry.base_sha256 == plan.base.sha256:
        return outcome("current")
    tried = entry.head.get("tried", {})
    if tried.get("base_sha256") == plan.base.sha256 and tried["iterations"] >= plan.iterations:
        return outcome("old", **{key: tried[key] for key in ("old", "new", "iterations")})
    if entry.arch != plan.base.arch:
        return outcome("left", why=f"it is a {entry.arch} and the base a {plan.base.arch}")
    if not must and plan.left is not None and plan.left <= 0:
        return outcome("unfinished")
    try:
        look = style or entry.style
        if look is None:
            return outcome("left", why="its style image was not kept: give it in `styles`")
        look = store.settled(look, entry.facts)
        client = Client(None, plan.trained, look, loss=_loss(entry, look), training=_training(plan, entry))
        job, made = _train(plan, entry, client)
        if made is None:
            return outcome("unfinished", iterations=job.progress.iteration)
        old, new = (client.evaluate(filter, plan.judges)["total"] for filter in (entry.filter, made))
        found = {"old": old, "new": new, "iterations": plan.iterations}
        if not _decide(plan, entry, made if new < old else None, found):
            return outcome("left", why="it was removed meanwhile")
    except OutputError:  # a full disk is full for every filter
        raise
    except FedstyleError as error:
        return outcome("left", why=str(error))
    return outcome("new" if new < old else "old", **found)


def _loss(entry: Entry, look: Style) -> Loss:
    """The loss that a filter was trained on, as its facts tell."""
    facts = {**entry.facts.get("loss", {}), "weights": "", "strength": look.strength, "density": look.density}
    return read(Loss, facts, "the filter's loss")


def _training(plan: _Plan, entry: Entry) -> Training:
    return plan.training or Training.for_base(plan.base.record, size=entry.facts.get("size", Training.size))


def _train(plan: _Plan, entry: Entry, client: Client) -> tuple[Job[Filter], Filter | None]:
    """Train until the end or until the time is up; the job, and the filter where there is one."""
    session = plan.folder / "upgrade" / entry.id
    session.parent.mkdir(mode=0o700, exist_ok=True)
    full = entry.facts.get("trained") == "all"
    for again in (True, False):
        job = client.personalize(plan.base, iterations=plan.iterations, full=full, session=session)
        try:
            if job.run(None if plan.left is None else max(0.0, plan.left)):
                return job, job.result()
            job.cancel()  # so that the iteration at hand is kept
            with contextlib.suppress(Cancelled):
                if job.run():  # that was the last one
                    return job, job.result()
            return job, None
        except SessionError:
            if not again:
                raise
            shutil.rmtree(session, ignore_errors=True)  # it was begun with other photos, another style or base, or is damaged
    raise AssertionError


def _decide(plan: _Plan, entry: Entry, made: Filter | None, found: Mapping[str, float]) -> bool:
    """Put the new filter in the place of the old one, or note that the old one stays; False when it was removed meanwhile."""
    photo = entry.place / "photo.jpg"
    picture = open_image(photo) if made and entry.previewed == "photo" else None
    preview = scene.preview(made, picture) if made else b""
    with store.hold(plan.folder):
        try:
            head = find(entry.place, predefined=False).head
        except FilterError:
            return False
        if made is None:
            write_json(entry.place / "entry.json", {**head, "tried": {"base_sha256": plan.base.sha256, **found}})
        else:
            kept = {key: head[key] for key in ("name", "number", "style") if key in head}
            store.put(plan.folder, entry.id, kept, made, plan.base, preview, "photo" if picture else "scene")
    return True
