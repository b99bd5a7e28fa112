"""A running training as a value: progress, checkpoints, result, cancel, and resume by session folder (Create ML's MLJob in Python).

There are four ways to drive a job, and all of them do the same iterations: a loop over it, slices with `run`, a thread of its own with
`start`, and asyncio with `await` or `async for`. Two of them at once on one job raise SessionError, except that everyone may wait for the
result, look at the progress and cancel.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from fedstyle import params
from fedstyle.errors import Cancelled, SessionError
from fedstyle.session import Checkpoint, Session, SessionParameters
from fedstyle.stream import Listener, Stream, bound
from fedstyle.threads import before_the_end, threads
from fedstyle.training import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Work(Generic[T]):
    """What a job trains: a network with its memory, the iterations, and what is made of them at the end.

    `identity` is JSON that names every input, and `about` what a session keeps for a checkpoint's filter (architecture, padding, facts).
    """

    net: nn.Module
    memory: MutableMapping[str, Tensor]
    steps: Callable[[], Iterator[Progress]]
    finish: Callable[[Progress], T]
    preview: Callable[[], Image.Image] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters as they are now, on the CPU."""
        return {name: value.detach().cpu() for name, value in self.net.named_parameters()}


class Job(Generic[T]):
    """A training that nothing starts until it is asked for, and that its owner may stop at any time.

    `progress` is the iteration at hand with its losses, safe to read from any thread. `session` is the folder's Session, or None, and
    `began` the number of iterations that stood in it when this job took it up.

    With a session folder the same call in another process goes on where this one stood, bit for bit on the same machine, on the number of
    threads that the session began with. The result depends on the inputs and the number of iterations alone, never on how often a training
    was stopped. More iterations extend a finished session. Fewer give what a training of that length gives: from a checkpoint at or before
    it where one is left, else from the beginning; the longer training's checkpoints stay. An error ends the job and comes out of `result`
    each time.
    """

    def __init__(self, begin: Callable[[], Work[T]], *, iterations: int, session: SessionParameters | None = None) -> None:
        self._begin, self._wishes = begin, session or SessionParameters()
        self.session = None if self._wishes.folder is None else Session(self._wishes.folder)
        self.progress = Progress(0, iterations, float("nan"), float("nan"), float("nan"))
        self.began = 0
        self._stop, self._turn = threading.Event(), threading.Lock()
        self._threads = torch.get_num_threads()
        self._checkpoints: list[Checkpoint] = []
        self._listeners: list[Listener] = []
        self._thread: threading.Thread | None = None
        self._outcome: Future[T] = Future()
        self._outcome.set_running_or_notify_cancel()  # so that a waiter who is cancelled does not cancel it for all
        self._run = self._drive()

    # ------------------------------------------------------------------------------------------------ the training itself

    def _drive(self) -> Generator[Progress, None, None]:
        if self._stop.is_set():
            raise Cancelled("cancelled before the first iteration")
        work = self._begin()
        start = {name: value.clone() for name, value in work.weights().items()}
        with contextlib.ExitStack() as held:
            if self.session:
                start, self._threads = held.enter_context(self.session.open(work.identity, start, work.about, self._threads))
                torch.set_num_threads(self._threads)  # those of this iteration; `_advance` sees to the others
                self._restore(work, start, self.session.latest(self.progress.iterations))
            saved = self.progress.iteration
            for progress in work.steps():
                self.progress = progress
                end = progress.iteration == progress.iterations
                if end or progress.iteration % self._wishes.report_interval == 0:
                    self._tell(progress)
                if self.session and (end or self._stop.is_set() or progress.iteration % self._wishes.checkpoint_interval == 0):
                    self._save(self.session, work, start)
                    saved = progress.iteration
                yield progress
                if self._stop.is_set() and not end:
                    if self.session and saved != progress.iteration:
                        self._save(self.session, work, start)
                        saved = progress.iteration
                    raise Cancelled(f"cancelled after iteration {progress.iteration}" + (": run again to go on" if saved else ""))
            result = work.finish(self.progress)
        self._end(lambda: self._outcome.set_result(result))

    def _restore(self, work: Work[T], start: params.Params, state: params.Params | None) -> None:
        own = dict(work.net.named_parameters())
        state = state or {}
        weights = {**start, **{name.removeprefix("net/"): value for name, value in state.items() if name.startswith("net/")}}
        params.check_alike(weights, own, "the session's network")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(weights[name])
        if state:
            work.memory.update({name.removeprefix("memory/"): value for name, value in state.items() if name.startswith("memory/")})
            content, style, total, _ = state["losses"].tolist()
            self.began = int(work.memory["iteration"])
            self.progress = Progress(self.began, self.progress.iterations, content, style, total)

    def _save(self, session: Session, work: Work[T], start: params.Params) -> None:
        changed = {name: value for name, value in work.weights().items() if not torch.equal(value, start[name])}
        made = session.save(self.progress, changed, work.memory, work.preview() if work.preview else None)
        self._checkpoints.append(made)
        self._tell(made)

    def _advance(self) -> Progress:
        """One iteration, by whoever holds the turn; StopIteration when the result is there."""
        if self._outcome.done():
            self._outcome.result()
            raise StopIteration
        try:
            with threads(self._threads):
                return next(self._run)
        except StopIteration:
            raise
        except BaseException as error:
            why = error if isinstance(error, Exception) else Cancelled(f"interrupted after iteration {self.progress.iteration}")
            self._end(lambda: self._outcome.set_exception(why))
            raise

    def _tell(self, event: Progress | Checkpoint | None) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    def _end(self, settle: Callable[[], None]) -> None:
        if not self._outcome.done():
            settle()
            self._tell(None)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            raise SessionError("this job is being trained by another thread: wait with result(), follow it with stream(), or cancel it")
        try:
            yield
        finally:
            self._turn.release()

    # ------------------------------------------------------------------------------------------------ plain code

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that this job wrote, oldest first; `session.checkpoints()` has those of earlier processes too."""
        return tuple(self._checkpoints)

    @property
    def done(self) -> bool:
        """Whether it has ended: with a result, an error, or because it was cancelled."""
        return self._outcome.done()

    @property
    def started(self) -> bool:
        """Whether a background thread was started for it."""
        return self._thread is not None

    def __iter__(self) -> Iterator[Progress]:
        return self

    def __next__(self) -> Progress:
        """Train for one iteration; a loop may be left and taken up again."""
        with self._alone():
            return self._advance()

    def run(self, seconds: float | None = None) -> bool:
        """Train for at most this long (one iteration at least), or to the end; True when the result is there.

        The time that an iteration takes is not known before: it may end that much later. The state stays in memory between two slices.
        """
        with self._alone():
            self._slice(seconds)
        return self.done

    def _slice(self, seconds: float | None) -> None:
        until = None if seconds is None else time.monotonic() + seconds
        with contextlib.suppress(StopIteration):
            self._advance()
            while until is None or time.monotonic() < until:
                self._advance()

    def result(self, timeout: float | None = None) -> T:
        """The result: wait for the thread that trains, or train here when none does.

        Raises Cancelled when the job was cancelled, TimeoutError after `timeout` seconds (the training then goes on when it is asked for
        again), and the error that ended it.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self.done:
            left = -1.0 if until is None else max(0.0, until - time.monotonic())
            if not self._turn.acquire(timeout=left):
                break
            try:
                if not self.done:
                    self._slice(None if until is None else left)
            finally:
                self._turn.release()
            if until is not None and time.monotonic() >= until:
                break
        if not self.done:
            raise TimeoutError(f"no result after {timeout} s: iteration {self.progress.iteration} of {self.progress.iterations}")
        return self._outcome.result()

    def cancel(self) -> None:
        """Stop after the iteration at hand, whose checkpoint is kept; `result` then raises Cancelled. Any thread may call it."""
        self._stop.set()

    def close(self) -> None:
        """Give the session folder back at once, with or without a result; a new job with it goes on from the last checkpoint."""
        if self._thread:
            self.cancel()
        with self._turn:
            self._run.close()
            self._end(lambda: self._outcome.set_exception(Cancelled("closed: make a new job with the same session folder to go on")))

    # ------------------------------------------------------------------------------------------------ a thread of its own

    def start(self) -> Self:
        """Train to the end in a background thread, and return at once; a second call changes nothing.

        The thread does not hold up the end of the process: a job stops there after the iteration at hand, and goes on from its checkpoint.
        """
        if self._thread is None and not self.done:
            if not self._turn.acquire(blocking=False):
                raise SessionError("this job is being trained by another thread: let it end its slice before start() or await")
            self._thread = threading.Thread(target=self._background, name="fedstyle-job", daemon=True)
            self._thread.start()
            before_the_end(self._thread, self._stop)
        return self

    def _background(self) -> None:
        try:
            with contextlib.suppress(BaseException):  # it is in the outcome
                self._slice(None)
        finally:
            self._turn.release()

    def stream(self) -> Stream[T]:
        """The job's events from now on: a Progress at each report interval and at the end, a Checkpoint when one is written.

        `for event in job.stream()` trains as it goes, or follows the background thread where there is one; `async for` always trains in
        the background. Either raises, at its end, the error that ended the job.
        """
        return Stream(self, self._listeners, self._outcome)

    # ------------------------------------------------------------------------------------------------ asyncio

    def __await__(self) -> Generator[Any, None, T]:
        """`await job` trains in the background thread; the event loop is never held up. To cancel the task cancels the job."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        async with bound(self, self._outcome):
            self.start()
            return await asyncio.wrap_future(self._outcome)
