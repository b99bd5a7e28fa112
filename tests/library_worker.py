"""A process that starts once and does what a test asks on a shelf, each request in forked children: some are killed, by SIGKILL.

Requests are lines of JSON on standard input: what to do (`do`, with `arguments`), in how many children at once (`children`, numbered from
0), and when to kill: before a child's `operation`-th change of the file system, or after so many `seconds`. The answer is a line of JSON:
exit codes, negative for a signal, and the seconds it took.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from fedstyle import Base, Filter, FilterLibrary, Photos, Training
from fedstyle.errors import FilterError
from fedstyle.shelf import scene

TRAINING = Training(size=32, crops=4, batch=2, warmup=2, device="cpu")
OPERATIONS = ("replace", "unlink", "rmdir", "mkdir", "fsync", "open")


def work(number, shelf, filters, count, log):
    """Random changes and looks, `count` of them; writes the names that this child's filters are to have in the end."""
    rng, library = random.Random(number), FilterLibrary(shelf)
    stock = [Filter.load(path) for path in filters]
    bases = {base.sha256: base for base in (Base.load(path) for path in sorted(Path(filters[0]).parent.glob("base-*")))}
    mine = {}
    for turn in range(count):
        kind = rng.choice(["add", "add", "rename", "remove", "get", "list"]) if mine else "add"
        id = rng.choice(sorted(mine)) if mine else ""
        if kind == "add":
            filter = rng.choice(stock)
            entry = library.add(filter, f"{number} {turn}", base=bases[filter.facts["base_sha256"]])
            mine[entry.id] = entry.name, filter.sha256
        elif kind == "rename":
            mine[id] = library.rename(id, f"{number} {turn} again").name, mine[id][1]
        elif kind == "remove":
            library.remove(id)
            del mine[id]
        elif kind == "get":
            entry = library.get(id)
            assert (entry.name, entry.filter.sha256) == mine[id]
        else:
            listed = library.list()
            assert {id: (entry.name, entry.sha256) for entry in listed for id in [entry.id] if id in mine} == mine
            for entry in rng.sample(listed, min(2, len(listed))):
                try:
                    assert entry.filter.sha256 == entry.sha256
                except FilterError:  # another child removed it
                    assert entry.id not in {found.id for found in library.list()}
    Path(log).with_suffix(f".{number}").write_text(json.dumps(mine))


def change(_, shelf, filters, remove):
    """Add, rename, add on another base, and remove."""
    library, (one, two) = FilterLibrary(shelf), [Filter.load(path) for path in filters]
    base, other = (Base.load(path) for path in sorted(Path(filters[0]).parent.glob("base-*")))
    library.rename(library.add(one, "one", base=base).id, "renamed")
    library.add(two, "two", base=other)
    for entry in library.list():
        if entry.name in remove:
            library.remove(entry.id)


def upgrade(_, shelf, photos, base, iterations):
    """An upgrade of the whole shelf."""
    FilterLibrary(shelf).upgrade(Base.load(base), Photos.open(Path(photos)), iterations=iterations, training=TRAINING)


def die_at(operation):
    """Kill this process before its `operation`-th change of the file system."""
    done = 0

    def counted(real):
        def run(*arguments, **named):
            nonlocal done
            done += 1
            if done == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return run

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def child(request, number):
    """Do a request in a forked child; its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        if request.get("operation"):
            die_at(request["operation"])
        {"work": work, "change": change, "upgrade": upgrade}[request["do"]](number, **request["arguments"])
        code = 0
    except BaseException:  # noqa: BLE001  the parent is to know of anything
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main():
    torch.set_num_threads(1)
    scene.preview = lambda *_: b"a picture"  # what it shows does not matter here
    for line in sys.stdin:
        request, started = json.loads(line), time.monotonic()
        children = [child(request, number) for number in range(request.get("children", 1))]
        if request.get("seconds"):
            time.sleep(request["seconds"])
            for pid in children:
                os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        sys.stdout.write(json.dumps({"codes": codes, "seconds": time.monotonic() - started}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
