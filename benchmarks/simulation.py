"""How fast fedstyle simulates a federation beside Flower's own simulation and Apple's pfl-research: the same clients, network and training.

    python benchmarks/simulation.py

needs no data: photos and the style image are procedural. pfl-research takes part where it is installed (`pip install pfl`; it asks for an
older dp-accounting than fedstyle, so give it a folder of its own on PYTHONPATH). See README.md in this folder, and contenders.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from contenders import CONTENDERS, Work
from PIL import Image
from reference import options, pictures, settle

WORKS = {
    "tiny": Work(clients=20, rounds=5, steps=1, batch=1, photos=1, size=32, width=4, workers=2),
    "real": Work(clients=8, rounds=4, steps=5, batch=2, photos=4, size=128, width=16, workers=2),
}
"""A workload that shows what a framework itself costs, and one of a client as it trains: cnnLite at its own width."""
OURS = "fedstyle inline"
GOALS = {("tiny", "Flower"): 5.0, ("real", "Flower"): 1.0, ("tiny", "pfl-research"): 1.0, ("real", "pfl-research"): 1.0}
"""How many times as fast fedstyle inline is meant to be."""


def write_population(folder: Path, work: Work) -> None:
    """The photos of all clients and the style image, procedural, and the work's numbers."""
    (folder / "photos").mkdir(parents=True)
    for number, picture in enumerate(pictures(work.clients * work.photos, max(64, work.size), 1)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / "photos" / f"{number:04d}.png")
    Image.fromarray(pictures(1, 256, 2)[0].permute(1, 2, 0).numpy()).save(folder / "style.png")
    (folder / "work.json").write_text(json.dumps(dataclasses.asdict(work)))


def run(name: str, folder: Path, clock: str) -> tuple[float, float]:
    """Seconds from the start of the process to the end of the last round, and the median seconds of a round after the first."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("contenders.py")), name, str(folder), clock]
    start = time.time() if clock == "wall" else 0.0
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    ends = json.loads(done.stdout.splitlines()[-1])
    return ends[-1] - start, statistics.median(b - a for a, b in itertools.pairwise(ends))


def contenders() -> list[str]:
    """Those that can run here."""
    needs = {"fedstyle ray": "ray", "Flower": "ray", "pfl-research": "pfl"}
    there = [name for name in CONTENDERS if importlib.util.find_spec(needs.get(name, "torch"))]
    for name in CONTENDERS:
        if name not in there:
            print(f"{name}: left out, for {needs[name]} is not installed")
    return there


def main(words: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "simulation.py", repeats=3, size=128)
    parser.add_argument("--only", choices=list(WORKS), help="one of the two workloads")
    parser.add_argument("--skip", action="append", default=[], choices=[name for name in CONTENDERS if name != OURS], help="repeatable")
    args = settle(parser, words)
    there, failed = [name for name in contenders() if name not in args.skip], set[str]()
    for kind in [args.only] if args.only else WORKS:
        work = dataclasses.replace(WORKS[kind], workers=args.threads)
        if kind == "real":
            work = dataclasses.replace(work, size=args.size)
        if args.quick:
            work = dataclasses.replace(work, clients=3, rounds=3, steps=1, width=4, size=32)
        print(f"{kind} workload: {', '.join(f'{value} {key}' for key, value in vars(work).items())}")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in there}
        for _ in range(args.repeats):  # taking turns, so that a busy minute hits all
            for name in list(times):
                folder = Path(tempfile.mkdtemp(prefix="fedstyle-benchmark-"))
                try:
                    write_population(folder / "population", work)
                    times[name].append(run(name, folder / "population", args.clock))
                except RuntimeError as error:  # such as Ray, on a machine that is too busy to start it
                    print(error)
                    del times[name]
                    failed.add(name)
                finally:
                    shutil.rmtree(folder)
        if OURS not in times:
            sys.exit(1)
        for name, found in times.items():
            whole, each = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{name}: {each:.3f} s a round without start-up, {whole:.1f} s for {work.rounds} rounds with it")
        for name in times:
            if name == OURS:
                continue
            for column, what in enumerate(("with start-up", "")):
                found = [theirs[column] / ours[column] for theirs, ours in zip(times[name], times[OURS], strict=True)]
                print(f"{kind} workload against {name}{f', {what}' if what else ''}: {statistics.median(found):.1f}x")
            if goal := GOALS.get((kind, name)):
                print(f"goal: {goal:g}x")
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
