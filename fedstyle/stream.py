"""The events of a job as they come, for `for` and for `async for`, and the tie between a job and the asyncio task that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fedstyle.errors import FedstyleError
from fedstyle.session import Checkpoint
from fedstyle.training import Progress

if TYPE_CHECKING:
    from fedstyle.job import Job

T = TypeVar("T")
Event = Progress | Checkpoint
Listener = Callable[[Event | None], None]
"""Called with each event by the thread that trains, and with None at the end."""


class Stream(Generic[T]):
    """The events of a job from now on: see `Job.stream`."""

    def __init__(self, job: Job[T], listeners: list[Listener], outcome: Future[T]) -> None:
        self._job, self._listeners, self._outcome = job, listeners, outcome

    @contextlib.contextmanager
    def _listening(self, listener: Listener) -> Iterator[None]:
        self._listeners.append(listener)
        if self._outcome.done():  # otherwise the end is still to be told
            listener(None)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def __iter__(self) -> Iterator[Event]:
        """Train as it goes, or follow the background thread."""
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with self._listening(events.put):
            while True:
                if events.empty() and not self._job.started:
                    try:
                        next(self._job, None)
                    except Exception:
                        if not self._outcome.done():
                            raise
                    continue
                event = events.get()
                if event is None:
                    break
                yield event
        self._outcome.result()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Follow the background thread, which is started where it does not run."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        def listener(event: Event | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody follows any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        with self._listening(listener):
            async with bound(self._job, self._outcome):
                self._job.start()
                while (event := await events.get()) is not None:
                    yield event
        self._outcome.result()


@contextlib.asynccontextmanager
async def bound(job: Job[Any], outcome: Future[Any]) -> AsyncIterator[None]:
    """Cancel the job when the asyncio task that asks for it is cancelled, here or later, and let its iteration at hand end first."""
    if task := asyncio.current_task():
        task.add_done_callback(lambda ended: job.cancel() if ended.cancelled() else None)
    try:
        yield
    except asyncio.CancelledError:
        job.cancel()
        if job.started:  # so that the session's folder is free when the task is over
            with contextlib.suppress(FedstyleError):
                await asyncio.wrap_future(outcome)
        raise
