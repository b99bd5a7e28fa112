"""A device's messages are answered by forks of a process that has imported what takes long, instead of by a fresh process each.

Flower starts a process for every message, and that one would spend seconds with the import of torch before it did anything. Here a process
imports while the device waits for its first message, and is then forked for each; it runs nothing itself, and so has one thread and may
be forked. After IDLE seconds without a message it ends: a device carries nothing between rounds that are far apart. On Linux alone: the
system libraries of others do not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

IDLE = 120.0


@dataclass
class Forks:
    """The process that is forked, `command`, if it runs, and the line to it; one thread owns it."""

    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    ready: bool = False
    used: float = 0.0

    def begin(self) -> None:
        """Start the process, which then takes its time."""
        self.end()
        self.line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(self.command, stdin=theirs.fileno())  # noqa: S603
        self.used = time.monotonic()

    def start(self, words: Sequence[str]) -> bool:
        """Have a fork work with these words as its arguments; what becomes of it shows elsewhere.

        False where no process is ready to be forked: whoever asks has to start one of its own, and for the next time one is begun here.
        """
        self.used = time.monotonic()
        if self.process is None or self.process.poll() is not None:
            self.begin()
        assert self.line is not None
        if not self.ready and select.select([self.line], [], [], 0)[0]:
            self.ready = self.line.recv(1) == b"."
        if self.ready:
            with contextlib.suppress(OSError):
                self.line.sendall(json.dumps(list(words)).encode() + b"\n")
                return True
        return False

    def rest(self) -> None:
        """End the process when it was not needed for long; forks that still work go on."""
        if time.monotonic() - self.used > IDLE:
            self.end()

    def end(self) -> None:
        """End the process."""
        if self.line:
            self.line.close()
        self.process, self.line, self.ready = None, None, False


def fork_for_each(prepare: Callable[[], None], work: Callable[[], None]) -> None:
    """Do `prepare`; then, for each line of the input, `work` in a fork that has that line's words as its arguments."""
    prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    os.write(0, b".")  # the input is a socket: ready
    for line in iter(sys.stdin.readline, ""):
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the input is the parent's
            sys.argv[1:] = json.loads(line)
            work()
            return
