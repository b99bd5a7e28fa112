"""A federation of many tiny clients in a process of its own, measured: see test_scale.py.

    python scale_run.py FOLDER CLIENTS COHORT ROUNDS

It prints one line of JSON: for each round the memory that the process holds after it (MB) and the seconds since the start, and at the end
the bytes of the largest home on disk. Workload of a client: a net of width 4, one photo, one crop of 32 pixels, one iteration a round.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fedstyle.config import Config, Data, Export, Loss, Net, Server, Training
from fedstyle.simulate import simulate


def write_photos(folder, count):
    """Photos of noise on a ramp, 64 x 64 pixels, no two alike."""
    folder.mkdir()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        ramp = rng.integers(0, 128, 3) + np.linspace(0, 100, 64)[:, None, None]
        Image.fromarray((ramp + rng.integers(0, 28, (64, 64, 3))).astype(np.uint8)).save(folder / f"{seed:05d}.png")


def config(photos, clients, cohort, rounds):
    return Config(
        data=Data(str(photos), clients=clients, holdout=1),
        net=Net(width=4),
        loss=Loss(density=64),
        training=Training(size=32, batch=1, crops=1, iterations=0, device="cpu"),
        method={"name": "fedbn", "steps": 1},
        server=Server(rounds=rounds, cohort=cohort),
        export=Export(clients=False),
    )


def held():
    """MB that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class OverError(BaseException):
    """The rounds are over, and of so many clients nobody waits for the filters."""


def main(folder, clients, cohort, rounds):
    write_photos(folder / "photos", clients + 1)
    memory, seconds, start, cpu = [], [], time.monotonic(), time.process_time()

    def watch(stage, done, total):
        if stage == "rounds":
            memory.append(round(held(), 1))
            seconds.append(round(time.monotonic() - start, 2))
            if cohort and done == total:
                raise OverError

    with contextlib.suppress(OverError):
        simulate(config(folder / "photos", clients, cohort, rounds), folder / "run", watch=watch)
    homes = [sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) for home in (folder / "run" / "clients").iterdir()]
    facts = {"memory": memory, "seconds": seconds, "largest_home": max(homes), "homes": len(homes)}
    sys.stdout.write(json.dumps(facts | {"all": time.monotonic() - start, "cpu": time.process_time() - cpu}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
