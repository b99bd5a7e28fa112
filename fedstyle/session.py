"""A training session: the folder that holds a job's checkpoints, so that a training outlives its process.

Its files lie on the device only: `session.json` (the hash of the inputs, and the facts of the filter to be), `start.safetensors` (the
network as training began), a `checkpoint-N.safetensors` after N iterations with the parameters that have changed since, the optimiser's
moments and the losses, and beside it `preview-N.png` where a validation photo was given. Each is written whole or not at all. A checkpoint
is sealed with its own hash and names the session and the iteration that it is of.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fedstyle import params
from fedstyle.errors import ParamsError, SessionError
from fedstyle.files import locked, sha256, write_bytes, write_json
from fedstyle.filter import Filter
from fedstyle.tables import need
from fedstyle.training import Progress

MODES = {"quick": 25, "standard": 100, "best": 500}
"""How long a training may take by name, in iterations."""
KEEP_BYTES = 2**28
"""A session's checkpoints and previews may take this much; beyond it the oldest go, but never the last two."""
FORMAT = "fedstyle-session-2"
STAGED = re.compile(r"\.(session\.json|start\.safetensors|checkpoint-\d+\.safetensors|preview-\d+\.png)\..*\.part")
"""What a killed process may leave of a file that it was writing."""


@dataclass(frozen=True)
class SessionParameters:
    """Where a training keeps its state and how often it speaks: the words and defaults of Create ML's MLTrainingSessionParameters.

    `folder` is the session's own folder; without one nothing survives the process. Every `report_interval` iterations there is a report,
    every `checkpoint_interval` a checkpoint, and after `iterations` the training ends; give more of them later to extend it. Raises
    ConfigError for a number under 1.
    """

    folder: str | Path | None = None
    report_interval: int = 5
    checkpoint_interval: int = 10
    iterations: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("report_interval", "checkpoint_interval", "iterations"):
            value = getattr(self, name)
            need(type(value) is int and value >= 1, f"session.{name}", value, "give a whole number from 1 on")


def count(iterations: int | str) -> int:
    """The number of iterations that a number or the name of a mode asks for; raises ConfigError for anything else."""
    known = iterations in MODES if isinstance(iterations, str) else type(iterations) is int and iterations >= 0
    need(known, "iterations", iterations, f"give a whole number from 0 on, or one of {', '.join(MODES)}")
    return MODES[iterations] if isinstance(iterations, str) else iterations


@dataclass(frozen=True)
class Checkpoint:
    """A state of a training in its session's folder: its iteration, its losses and, where a validation photo was given, its preview.

    It is a value: the files are read when it is asked for its filter, in this process or any other.
    """

    path: Path
    progress: Progress

    @property
    def iteration(self) -> int:
        """The number of iterations that were done."""
        return self.progress.iteration

    @property
    def preview(self) -> Path | None:
        """The stylised validation photo, a PNG; None when none was given, or it is gone."""
        path = _preview(self.path.parent, self.iteration)
        return path if path.is_file() else None

    def filter(self) -> Filter:
        """The filter as it was then, that of a job which ended there; raises SessionError when its files are gone or damaged."""
        session = Session(self.path.parent)
        try:
            head = session.head()
            weights = session.start(head) | session.changed(self.iteration, head)
            return Filter(head["architecture"], head["padding"], weights, {**head["facts"], "iterations": self.iteration})
        except (ParamsError, KeyError, OSError) as error:
            raise SessionError(f"the checkpoint {self.path} gives no filter: {error}") from None

    def remove(self) -> None:
        """Delete its files. A session without checkpoints begins again; one that has others goes on from the newest."""
        for path in (self.path, _preview(self.path.parent, self.iteration)):  # a preview alone is a leftover, a checkpoint is not
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Session:
    """A session's folder. `Session(folder).checkpoints()` needs nothing else, and no job."""

    folder: Path

    def __init__(self, folder: str | Path) -> None:
        object.__setattr__(self, "folder", Path(folder))

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The whole checkpoints of this session, oldest first; damaged and foreign files are left out.

        Raises SessionError when the folder holds no session, or one whose head is damaged.
        """
        head = self.head()
        found = []
        for iteration in reversed(self._iterations()):
            with contextlib.suppress(ParamsError):
                found.append(self._checkpoint(iteration, self._state(iteration, head)))
        return tuple(found)

    # -------------------------------------------------------------------------------------------------- for a job

    @contextlib.contextmanager
    def open(
        self, identity: Mapping[str, Any], weights: params.Params, about: Mapping[str, Any], threads: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Hold the folder for this process; gives the weights and the number of threads that the session began with.

        `identity` is JSON that names every input (digests of photos and style, base hash, method, training); it is kept hashed. `weights`,
        `about` (architecture, padding, facts) and `threads` are kept when the session is new. Raises SessionError when another job holds
        the folder, it belongs to other inputs, or its head is damaged.
        """
        taken = SessionError(f"the session {self.folder} is in use by another job or process: wait for it, or choose another folder")
        with contextlib.suppress(OSError):  # the lock says what is wrong
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)  # previews and filter tell of photos and style
        with locked(self.folder / "session.lock", taken):
            digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
            if (self.folder / "session.json").exists():
                head = self.head()
                if head["inputs_sha256"] != digest:
                    raise SessionError(
                        f"the session {self.folder} was begun with other photos, style, base or settings: give those, or another folder"
                    )
                start = self._mend(head, weights)
            else:
                params.save(weights, self.folder / "start.safetensors")
                kept = {"inputs_sha256": digest, "start_sha256": sha256(self.folder / "start.safetensors"), "threads": threads}
                write_json(self.folder / "session.json", _sealed({"format": FORMAT, **kept, **about}))
                head = self.head()
                start = self.start(head)
            self._clean()
            yield start, int(head["threads"])

    def latest(self, most: int) -> dict[str, Tensor] | None:
        """The newest whole checkpoint of at most `most` iterations, or None; a damaged or foreign one is passed over."""
        head = self.head()
        for iteration in self._iterations():
            if iteration <= most:
                with contextlib.suppress(ParamsError):
                    return self._state(iteration, head)
        return None

    def save(self, progress: Progress, weights: params.Params, memory: params.Params, preview: Image.Image | None = None) -> Checkpoint:
        """Write a checkpoint: `weights` are the parameters that differ from the start; the sealed file comes last and makes it count."""
        if preview:
            preview.save(png := io.BytesIO(), "PNG")
            write_bytes(_preview(self.folder, progress.iteration), png.getvalue())
        state = {f"net/{name}": value for name, value in weights.items()} | {f"memory/{name}": value for name, value in memory.items()}
        state["losses"] = torch.tensor([progress.content, progress.style, progress.total, progress.iterations], dtype=torch.float64)
        state["session"] = _key(self.head(), progress.iteration)
        params.save(params.seal(state), self._path(progress.iteration))
        self._prune(progress.iteration)
        return Checkpoint(self._path(progress.iteration), progress)

    def head(self) -> dict[str, Any]:
        """What session.json says; raises SessionError when it is absent, damaged or of another format."""
        path = self.folder / "session.json"
        try:
            found = json.loads(path.read_bytes())
        except OSError:
            raise SessionError(f"{self.folder} holds no session: give the folder that a job was given") from None
        except (ValueError, RecursionError):
            found = None
        head: dict[str, Any] = found if isinstance(found, dict) else {}
        if head.get("format", FORMAT) != FORMAT:
            raise SessionError(f"{path} is not of the format {FORMAT}: another fedstyle wrote it; choose another session folder")
        if head != _sealed(head):
            raise SessionError(f"{path} is damaged: remove the session folder to start again")
        return head

    def start(self, head: Mapping[str, Any]) -> dict[str, Tensor]:
        """The network's parameters as training began; raises ParamsError when the file is absent or damaged."""
        return params.load(self.folder / "start.safetensors", sha256=head["start_sha256"])

    def changed(self, iteration: int, head: Mapping[str, Any]) -> dict[str, Tensor]:
        """The parameters that differ from the start in a checkpoint; raises ParamsError when it is absent, damaged or foreign."""
        state = self._state(iteration, head)
        return {name.removeprefix("net/"): value for name, value in state.items() if name.startswith("net/")}

    def _mend(self, head: Mapping[str, Any], weights: params.Params) -> dict[str, Tensor]:
        """The start; a damaged one is written again where the same inputs give the same bytes, as they do on the same machine."""
        with contextlib.suppress(ParamsError):
            return self.start(head)
        params.save(weights, self.folder / "start.safetensors")
        try:
            return self.start(head)
        except ParamsError:
            raise SessionError(f"{self.folder / 'start.safetensors'} is damaged: remove the session folder to start again") from None

    def _state(self, iteration: int, head: Mapping[str, Any]) -> dict[str, Tensor]:
        path = self._path(iteration)
        try:
            state = params.unseal(params.load(path), path)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # what a parser may say of a damaged head
            raise ParamsError(f"{path} is damaged: {error}") from None
        if not torch.equal(state.pop("session", torch.zeros(0)), _key(head, iteration)):
            raise ParamsError(f"{path} is of another session or another iteration")
        return state

    def _checkpoint(self, iteration: int, state: params.Params) -> Checkpoint:
        content, style, total, iterations = state["losses"].tolist()
        return Checkpoint(self._path(iteration), Progress(iteration, int(iterations), content, style, total))

    def _path(self, iteration: int) -> Path:
        return self.folder / f"checkpoint-{iteration:06d}.safetensors"

    def _iterations(self) -> list[int]:
        """The iterations of all files that are named as checkpoints, newest first."""
        names = (re.fullmatch(r"checkpoint-(\d{6,})\.safetensors", path.name) for path in self.folder.glob("checkpoint-*.safetensors"))
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def _prune(self, newest: int) -> None:
        """Remove the oldest checkpoints beyond KEEP_BYTES; later ones than `newest` are of a longer run, or damaged."""
        files = {k: [path for path in (self._path(k), _preview(self.folder, k)) if path.is_file()] for k in self._iterations()}
        sizes = {k: sum(path.stat().st_size for path in paths) for k, paths in files.items()}
        spare = sum(sizes.values()) - KEEP_BYTES
        earlier = sorted(k for k in files if k < newest)
        for k in [*earlier[:-1], *sorted((k for k in files if k > newest), reverse=True)]:
            if spare <= 0:
                return
            for path in files[k]:
                path.unlink(missing_ok=True)
            spare -= sizes[k]

    def _clean(self) -> None:
        """Remove what killed processes left: files that were being written, and previews whose checkpoint never came or is gone."""
        there = {_preview(self.folder, k) for k in self._iterations()}
        for path in [*self.folder.glob(".*.part"), *self.folder.glob("preview-*.png")]:
            if STAGED.fullmatch(path.name) or (re.fullmatch(r"preview-\d{6,}\.png", path.name) and path not in there):
                path.unlink(missing_ok=True)


def _preview(folder: Path, iteration: int) -> Path:
    return folder / f"preview-{iteration:06d}.png"


def _sealed(head: Mapping[str, Any]) -> dict[str, Any]:
    """The head with the hash of its other entries."""
    plain = {key: value for key, value in head.items() if key != "sha256"}
    return {**plain, "sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def _key(head: Mapping[str, Any], iteration: int) -> Tensor:
    """What binds a checkpoint to its session and iteration: a hash (32,) of inputs, start and number."""
    text = f"{head['inputs_sha256']} {head['start_sha256']} {iteration}"
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
