"""A running training as a value: progress, checkpoints, result, cancel, and resume by session folder (Create ML's MLJob in Python)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from fedstyle import params
from fedstyle.errors import Cancelled, ParamsError, SessionError
from fedstyle.files import locked, sha256, write_bytes, write_json
from fedstyle.training import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A state that was written to the session folder; `preview` is a stylised validation picture, where one was asked for."""

    iteration: int
    path: Path
    progress: Progress | None = None
    preview: Path | None = None


@dataclass(frozen=True)
class Session:
    """A folder that lets a killed training go on bit-exactly, as long as its inputs are the same.

    `identity` is JSON that names every input (digests of photos and style, base hash, method, training): another identity in the same
    folder is an error. It lies on the device only, hashed. `interval` is the number of iterations between checkpoints.
    """

    folder: Path
    identity: Mapping[str, Any]
    interval: int = 10

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder for this process; raises SessionError when another process holds it or it belongs to other inputs."""
        taken = SessionError(f"the session {self.folder} is in use by another job or process: wait for it, or choose another folder")
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        with locked(self.folder / "session.lock", taken):
            head = self.folder / "session.json"
            if head.exists():
                try:
                    found = json.loads(head.read_text()).get("inputs_sha256")
                except (ValueError, AttributeError):
                    raise SessionError(f"{head} is damaged: remove the session folder to start again") from None
                if found != digest:
                    raise SessionError(
                        f"the session {self.folder} was begun with other photos, style, base or settings: give those, or another folder"
                    )
            else:
                write_json(head, {"format": "fedstyle-session-1", "inputs_sha256": digest})
            yield

    def _iterations(self) -> list[int]:
        names = (re.fullmatch(r"checkpoint-(\d+)\.json", path.name) for path in self.folder.glob("checkpoint-*.json"))
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def _paths(self, iteration: int) -> tuple[Path, Path]:
        stem = f"checkpoint-{iteration:06d}"
        return self.folder / f"{stem}.safetensors", self.folder / f"{stem}.json"

    def latest(self, most: int) -> dict[str, Tensor] | None:
        """The newest whole checkpoint of at most `most` iterations, or None; a damaged one is passed over for the one before it."""
        for iteration in self._iterations():
            tensors, head = self._paths(iteration)
            if iteration > most:
                continue
            with contextlib.suppress(ParamsError, ValueError, KeyError, OSError):
                return params.load(tensors, sha256=json.loads(head.read_text())["sha256"])
        return None

    def save(self, iteration: int, tensors: params.Params) -> Path:
        """Write a checkpoint and keep the one before it; the JSON with the hash comes last and makes it count."""
        path, head = self._paths(iteration)
        params.save(tensors, path)
        write_json(head, {"iteration": iteration, "sha256": sha256(path)})
        for old in [found for found in self._iterations() if found < iteration][1:]:  # later ones are of a longer run, or damaged
            for stale in reversed(self._paths(old)):
                stale.unlink(missing_ok=True)
        return path


class Job(Generic[T]):
    """Training that its owner drives: iterate over it, run it in slices, or ask for the result.

    No training happens until it is asked to: iterating, `run(seconds=30)` and `result()` all advance the same training. `cancel`
    may be called from any thread; the training stops after the iteration at hand and keeps its checkpoint.
    """

    def __init__(
        self,
        net: nn.Module,
        memory: MutableMapping[str, Tensor],
        steps: Callable[[], Iterator[Progress]],
        finish: Callable[[Progress], T],
        *,
        iterations: int,
        session: Session | None = None,
        preview: Callable[[], Image.Image] | None = None,
    ) -> None:
        self._net, self._memory, self._steps, self._finish = net, memory, steps, finish
        self._session, self._preview = session, preview
        self._stop = threading.Event()
        self._checkpoints: list[Checkpoint] = []
        self._result: list[T] = []
        self.progress = Progress(0, iterations, float("nan"), float("nan"), float("nan"))
        self._run = self._drive()

    def _drive(self) -> Generator[Progress, None, None]:
        with self._session.open() if self._session else contextlib.nullcontext():
            if self._session and (state := self._session.latest(self.progress.iterations)):
                self._restore(state)
            saved = self.progress.iteration
            for progress in self._steps():
                self.progress = progress
                end = progress.iteration == progress.iterations
                if self._session and (end or self._stop.is_set() or progress.iteration % self._session.interval == 0):
                    self._save(self._session)
                    saved = progress.iteration
                yield progress
                if self._stop.is_set():
                    if self._session and saved != progress.iteration:
                        self._save(self._session)
                        saved = progress.iteration
                    raise Cancelled(f"cancelled after iteration {progress.iteration}" + (": run again to go on" if saved else ""))
            self._result.append(self._finish(self.progress))

    def _restore(self, state: params.Params) -> None:
        own = dict(self._net.named_parameters())
        weights = {name.removeprefix("net/"): value for name, value in state.items() if name.startswith("net/")}
        params.check_alike(weights, own, "the checkpoint")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(weights[name])
        self._memory.update({name.removeprefix("memory/"): value for name, value in state.items() if name.startswith("memory/")})
        done = int(self._memory["iteration"])
        self.progress = Progress(done, self.progress.iterations, *(float(value) for value in state["losses"]))

    def _save(self, session: Session) -> None:
        state: dict[str, Tensor] = {f"net/{name}": value.detach() for name, value in self._net.named_parameters()}
        state |= {f"memory/{name}": value for name, value in self._memory.items()}
        now = self.progress
        state["losses"] = torch.tensor([now.content, now.style, now.total], dtype=torch.float64)
        path = session.save(now.iteration, state)
        preview = None
        if self._preview:
            preview = session.folder / f"preview-{now.iteration:06d}.png"
            self._preview().save(png := io.BytesIO(), "PNG")
            write_bytes(preview, png.getvalue())
        self._checkpoints.append(Checkpoint(now.iteration, path, now, preview))

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that this job wrote, oldest first; the files of all but the last two are gone."""
        return tuple(self._checkpoints)

    def __iter__(self) -> Iterator[Progress]:
        return self._run

    def run(self, seconds: float | None = None) -> bool:
        """Train for at most this long (one iteration at least), or to the end; True when the result is there."""
        until = None if seconds is None else time.monotonic() + seconds
        for _ in self._run:
            if until is not None and time.monotonic() >= until:
                break
        return bool(self._result)

    def result(self) -> T:
        """Train to the end and give the result; raises Cancelled when the job was cancelled."""
        while not self._result:
            if not self.run():
                raise Cancelled("this job was cancelled or failed before: make a new one with the same session folder to go on")
        return self._result[0]

    def cancel(self) -> None:
        """Stop after the iteration at hand; `result` then raises Cancelled."""
        self._stop.set()

    def close(self) -> None:
        """Give the session folder back without a result; a new job with it goes on from the last checkpoint."""
        self._run.close()
