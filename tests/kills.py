"""A server that has torch loaded and forks a child for each attempt at a training, kills it, and tries again: see test_kills.py.

    python kills.py FOLDER SEED KILLS

It prints a line of JSON for each kill and for each training that reached its end. A child trains a real job of a real client (a net of
width 4, crops of 32 pixels) in a session's folder. It is killed by SIGKILL at a drawn moment, in one of three ways: by this process after a
drawn time; by itself before or after a drawn system call that writes (open, write, fsync, rename, unlink); or amid a write, of which a
drawn part has reached the file.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

from fedstyle import Base, Client, SessionParameters, Style
from fedstyle.config import Training
from fedstyle.photos import Photos

ITERATIONS, INTERVAL = 12, 3
CALLS = ("replace", "fsync", "unlink", "open", "chmod")


def make(place):
    """The job, as a fresh process would make it."""
    photos = Photos(tuple(sorted((place / "photos").iterdir())))
    training = Training(size=32, crops=3, batch=2, warmup=2, device="cpu")
    client = Client(None, photos, Style(place / "style.png", density=64), training=training)
    return client, Base.load(place / "base")


def job(place, folder):
    client, base = make(place)
    session = SessionParameters(folder, checkpoint_interval=INTERVAL)
    return client.personalize(base, iterations=ITERATIONS, session=session, validation=place / "photos" / "0.png")


class Killer:
    """Counts the system calls that write, and kills this process at the one that was drawn."""

    def __init__(self, at, torn, draw):
        self.at, self.torn, self.draw, self.count, self.tell = at, torn, draw, 0, lambda _: None

    def die(self, what):
        self.tell(f"d{what}")
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self):
        for name in CALLS:
            setattr(os, name, self.wrap(name, getattr(os, name)))
        fdopen = os.fdopen

        def opened(*arguments, **extra):
            file = fdopen(*arguments, **extra)
            return File(file, self) if "w" in arguments[1:2] or "wb" in arguments else file

        os.fdopen = opened

    def wrap(self, name, call):
        def counted(*arguments, **extra):
            self.count += 1
            if self.count == self.at and not self.torn:
                if self.draw.random() < 0.5:
                    self.die(f"before {name}")
                call(*arguments, **extra)
                self.die(f"after {name}")
            return call(*arguments, **extra)

        return counted


class File:
    """A file whose write may be the last thing that the process does."""

    def __init__(self, file, killer):
        self.file, self.killer = file, killer

    def write(self, content):
        self.killer.count += 1
        if self.killer.torn and self.killer.count >= self.killer.at:
            self.file.write(content[: self.killer.draw.randrange(len(content))])
            self.file.flush()
            self.killer.die("amid write")
        return self.file.write(content)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.file, name)


def child(place, folder, killer, pipe):
    """Train to the end, and say each iteration that is over and then the filter's hash."""

    def tell(text):
        os.write(pipe, f"{text}\n".encode())

    killer.tell = tell
    made = job(place, folder)
    killer.install()
    tell("b")
    for progress in made:
        tell(progress.iteration)
    tell(f"w{killer.count}")
    tell(f"h{made.result().sha256}")
    os._exit(0)


def attempt(wait, child):
    """Fork a process for `child`, which gets a pipe to write to, and kill it `wait` seconds after its first line, if it lives so long.

    Gives its lines, the seconds since the first, and whether it was killed.
    """
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(out)
            child(into)
        except BaseException as error:  # noqa: BLE001  it must not leave this branch of the fork
            os.write(into, f"e{type(error).__name__} {error}\n".encode())
            os._exit(1)
    os.close(into)
    said, began = b"", time.monotonic()
    while True:
        left = None if wait is None else max(0.0, began + wait - time.monotonic())
        if not select.select([out], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            wait = None
            continue
        if not (more := os.read(out, 65536)):
            break
        if not said:
            began = time.monotonic()
        said += more
    os.close(out)
    _, status = os.waitpid(pid, 0)
    return said.decode().splitlines(), time.monotonic() - began, os.WIFSIGNALED(status)


def draw_end(draw, seconds, writes):
    """How the next child ends: after how long, or at which write. A third each."""
    way = draw.choice(["time", "call", "torn"])
    if way == "time":
        return way, draw.uniform(0, seconds), Killer(0, False, draw)
    return way, None, Killer(draw.randrange(1, writes), way == "torn", draw)


def starts(lines, letter):
    return [line[1:] for line in lines if line.startswith(letter)]


def main(place, seed, kills):
    torch.set_num_threads(1)
    draw = random.Random(seed)
    client, base = make(place)
    whole = client.personalize(base, iterations=ITERATIONS).result().sha256
    lines, seconds, _ = attempt(None, partial(child, place, place / "whole", Killer(0, False, draw)))
    assert starts(lines, "h") == [whole], lines
    writes = int(starts(lines, "w")[0])
    killed = trial = 0
    while killed < kills:
        trial, last, dead = trial + 1, 0, True
        folder = place / f"session {trial}"
        while dead:
            way, wait, killer = draw_end(draw, seconds, writes) if killed < kills else ("none", None, Killer(0, False, draw))
            lines, _, dead = attempt(wait, partial(child, place, folder, killer))
            done = [int(line) for line in lines if line.isdigit()]
            row = {"trial": trial, "way": way, "killed": dead, "where": "".join(starts(lines, "d")), "error": "".join(starts(lines, "e"))}
            row["lost"] = last - (done[0] - 1) if done else 0  # iterations that were over and must be done again
            row["last"] = last = max([last, *done])
            row["same"] = starts(lines, "h") == [whole] if not dead else None
            row["left"] = [] if dead else sorted(path.name for path in folder.glob(".*"))
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
            killed += dead
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
