"""A process that has torch and Flower loaded and forks a child for each attempt at a run, kills it, and takes it up: see test_resume.py.

    python run_kills.py FOLDER SEED KILLS EXPORTS

It prints a line of JSON for each attempt. A child runs a whole federation (a net of width 4, crops of 32 pixels) or goes on with one; it is
killed as kills.py kills: after a drawn time, before or after a drawn system call that writes, or amid a write.
"""

import json
import os
import random
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from kills import Killer, attempt, draw_end, starts

from fedstyle.config import Config, Data, Export, Loss, Net, Server, Training
from fedstyle.flower import engine  # noqa: F401  so that no child has to load it
from fedstyle.simulate import simulate


def config(place, exports):
    return Config(
        data=Data(str(place / "photos"), clients=2, holdout=1),
        net=Net(width=4),
        loss=Loss(density=64),
        training=Training(size=32, batch=2, crops=2, iterations=2, device="cpu"),
        method={"name": "fedbn", "steps": 2},
        server=Server(rounds=3, strategy="FedAdam", options={"eta": 0.01}, workers=1),
        export=Export(size=64, clients=exports),
    )


def identity(folder):
    """What must not depend on kills: the base, the filters, their exports' verdicts, and the history but for times."""
    summary = json.loads((folder / "summary.json").read_text())
    rounds = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    rows = [{**row, "parity": row["parity"] and row["parity"]["faithful"]} for row in summary["clients"]]
    return json.dumps([summary["base_sha256"], rows, [{**line, "seconds": 0} for line in rounds]])


def child(place, folder, exports, killer, pipe):
    def tell(text):
        os.write(pipe, f"{text}\n".encode())

    killer.tell = tell
    resume = (folder / "config.toml").exists()
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    killer.install()
    tell("b")
    simulate(config(place, exports), folder, resume=resume, watch=lambda stage, done, _: tell(f"s{stage} {done}"))
    tell(f"w{killer.count}")
    os._exit(0)


def main(place, seed, kills, exports):
    torch.set_num_threads(1)
    draw = random.Random(seed)
    lines, seconds, _ = attempt(None, partial(child, place, place / "whole", exports, Killer(0, False, draw)))
    assert not starts(lines, "e"), lines
    whole, writes = identity(place / "whole"), int(starts(lines, "w")[0])
    killed = trial = 0
    while killed < kills:
        trial, dead = trial + 1, True
        folder = place / f"run {trial}"
        while dead:
            way, wait, killer = draw_end(draw, seconds, writes) if killed < kills else ("none", None, Killer(0, False, draw))
            lines, _, dead = attempt(wait, partial(child, place, folder, exports, killer))
            stages = starts(lines, "s")
            row = {"trial": trial, "way": way, "killed": dead, "where": "".join(starts(lines, "d")), "error": "".join(starts(lines, "e"))}
            row["stage"] = stages[-1].split()[0] if stages else "start"
            row["same"] = identity(folder) == whole if not dead else None
            row["left"] = sorted(path.name for path in folder.rglob(".*")) if not dead else []
            row["files"] = sorted(path.name for path in folder.iterdir()) if not dead else []
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
            killed += dead
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "exports")
