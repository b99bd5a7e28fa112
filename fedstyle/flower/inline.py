"""The inline engine: the real ClientApp and the real strategy over a grid within this process, on threads.

Each client trains on one thread, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

# The one import that is not of Flower's public packages. A process-wide identity that only the server's thread reads, when it makes a
# message; replies take theirs from the message, so clients on other threads do not touch it.
from flwr.supercore.task_identity import TaskIdentity

Result = TypeVar("Result")
RUN = 1
WAIT = 0.1
"""Seconds that one look for replies lasts at most."""


class Stopped(BaseException):
    """Raised in a client's thread when the run is over before it is."""


class InlineGrid(Grid):
    """A grid whose nodes 1..n hold the partitions 0..n-1 and answer on `workers` threads."""

    def __init__(self, app: ClientApp, clients: int, workers: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = RUN, RUN, RUN
        self.app = app
        self.contexts = {
            partition + 1: Context(
                run_id=RUN,
                node_id=partition + 1,
                node_config={"partition-id": partition, "num-partitions": clients},
                state=RecordDict(),
                run_config={},
            )
            for partition in range(clients)
        }
        self.pool = ThreadPoolExecutor(workers, "client")
        self.ready: dict[str, Message] = {}
        self.news = threading.Condition()
        self.sent = 0
        self.busy: set[int] = set()
        self.guard = threading.Lock()
        self.closed = False
        self.turns = {node: threading.Lock() for node in self.contexts}

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the workers."""
        names = []
        for message in messages:
            self.sent += 1
            names.append(f"{self.sent}")
            message.metadata.__dict__["_message_id"] = names[-1]  # as Flower's own grids do
            self.pool.submit(self._answer, names[-1], message)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are ready; waits a moment for the first."""
        asked = set(message_ids)
        with self.news:
            self.news.wait_for(lambda: not asked.isdisjoint(self.ready), WAIT)
            return [self.ready.pop(name) for name in asked & self.ready.keys()]

    def _answer(self, name: str, message: Message) -> None:
        node, thread = message.metadata.dst_node_id, threading.get_ident()
        with self.guard:
            if self.closed:  # taken from the queue just before that was emptied
                raise Stopped
            self.busy.add(thread)
        try:
            with self.turns[node]:  # a late client ends one round before it begins the next
                reply = self.app(message, self.contexts[node])
        except Exception:  # noqa: BLE001  as in Flower's engines, an app that raises is an error reply; the text stays here
            reply = Message(Error(code=0), reply_to=message)
        finally:
            with self.guard:
                self.busy.discard(thread)
        with self.news:
            self.ready[name] = reply
            self.news.notify()

    def close(self) -> None:
        """Stop the workers, in the middle of their work if need be: a thread ends at its next Python instruction."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        with self.guard:
            self.closed = True
            for thread in self.busy:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))
        self.pool.shutdown(wait=True)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not used: `Cohort` pushes and pulls."""
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Not used: messages are made by their class."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """There is one run."""

    @property
    def run(self) -> Any:
        """There is one run."""
        return RUN


def run_inline(app: ClientApp, clients: int, workers: int, serve: Callable[[Grid], Result]) -> Result:
    """Give `serve` a grid of clients within this process, and stop them all when it returns or raises."""
    threads = torch.get_num_threads()  # asking fixes this thread's own number; clients set that of theirs, and the default with it
    grid = InlineGrid(app, clients, workers)
    try:
        return serve(grid)
    finally:
        grid.close()
        torch.set_num_threads(threads)
