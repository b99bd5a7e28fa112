"""How fast and how small fedstyle's training is beside the published reference recipe.

    python benchmarks/training.py

needs no data and no weights: pictures are procedural, and random weights take the same time. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from reference import Recipe, Vgg, options, pictures, ratio, seconds, settle

from fedstyle.base import Base
from fedstyle.config import Training
from fedstyle.hardware import has_fast_bf16
from fedstyle.net import is_norm
from fedstyle.perceptual import Objective, gram, load_features
from fedstyle.training import Content, Progress, Task, descend, everything

VARIANTS = {
    "cnn": ("cnn", everything, 5.0),
    "cnn, norms only": ("cnn", is_norm, 7.0),
    "cnnLite": ("cnnLite", everything, 12.0),
    "cnnLite, norms only": ("cnnLite", is_norm, 18.0),
}
"""Name, architecture, what trains, and how many times as fast as the reference it is meant to be."""
MEMORY = {"cnn": 1000, "cnnLite": 500}
"""MB that a training client may take."""


def product(_total: list[int], a: list[int], b: list[int], **_: object) -> int:
    """Operations of a (batched) matrix product that is added to a total, from its shapes; torch's counter leaves those in place out."""
    return 2 * math.prod(a) * b[-1]


def client(arch: str, trains: object, size: int, batch: int, width: int | None) -> Iterator[Progress]:
    """The training of a client: each `next` is an iteration. Its crops are one batch, whose features are then kept."""
    features = load_features("tiny")
    with torch.no_grad():
        targets = tuple(gram(tap)[0] for tap in features(pictures(1, size, 1).float() / 255))
    objective = Objective(features, targets, style_weight=10.0)
    training = Training(size=size, batch=batch, crops=batch)
    task = Task(Content(pictures(batch, size), objective, torch.device("cpu")), objective, training)
    net = Base.new(arch, width=width).net()
    return descend(net, task, {}, iterations=10**9, rate=training.rate, norm_rate=training.norm_rate, trains=trains)


LOOPS: dict[str, Callable[[], object]] = {}
"""The steps that this process has begun."""


def step(name: str, args: argparse.Namespace) -> float:
    """Seconds of one step in this process; its preparation, at the first call, is not timed."""
    if name not in LOOPS:
        torch.set_num_threads(args.threads)
        if name == "reference":
            recipe = Recipe(Vgg(), pictures(1, args.size, 1).float(), width=args.width or 32)
            photos = pictures(args.batch, args.size).float()
            LOOPS[name] = lambda: recipe.step(photos)
        else:
            arch, trains, _ = VARIANTS[name]
            LOOPS[name] = client(arch, trains, args.size, args.batch, args.width).__next__
    return seconds(LOOPS[name], args.clock)


def count(name: str, args: argparse.Namespace) -> int:
    """Floating-point operations of a step, as torch counts those of convolutions and matrix products; on the one thread that it sees."""
    from torch.utils.flop_counter import FlopCounterMode  # here, for it takes memory, of which a client's is measured

    LOOPS.pop(name)
    step(name, argparse.Namespace(**{**vars(args), "threads": 1}))
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product, torch.ops.aten.baddbmm_: product}) as counter:
        LOOPS.pop(name)()
    return counter.get_total_flops()


def ceiling(args: argparse.Namespace, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product in this process, counted as 2 n^3: the best of several."""
    a = torch.rand(args.matrix, args.matrix).to(dtype)
    return 2 * args.matrix**3 / min(seconds(lambda: torch.mm(a, a), args.clock) for _ in range(5))


def iterations(args: argparse.Namespace) -> None:
    """Print the ratios of an iteration.

    The reference and fedstyle each have a process, for fedstyle sets how its process keeps memory; one rests while the other works.
    """
    kind = torch.bfloat16 if has_fast_bf16(torch.device("cpu")) else torch.float32
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as theirs, ProcessPoolExecutor(1, spawn) as ours:
        homes = {"reference": ours if args.quick else theirs} | dict.fromkeys(VARIANTS, ours)
        for name, home in homes.items():  # to warm up
            home.submit(step, name, args).result()
        times: dict[str, list[float]] = {name: [] for name in homes}
        ceilings = []
        for _ in range(args.repeats):
            for name, home in homes.items():  # they take turns, so that drift of the machine touches all alike
                times[name].append(home.submit(step, name, args).result())
            ceilings.append(ours.submit(ceiling, args, kind).result())
        flops = {name: home.submit(count, name, args).result() for name, home in homes.items()}
        small = argparse.Namespace(**{**vars(args), "matrix": min(args.matrix, 256)})
        speeds = {dtype: ours.submit(ceiling, small, dtype).result() for dtype in (torch.float32, torch.bfloat16)}
    speeds[kind] = statistics.median(ceilings)
    for dtype, speed in speeds.items():
        print(f"{str(dtype).removeprefix('torch.')} matrix products: {speed / 1e9:.0f} GFLOP/s{', the ceiling' if dtype == kind else ''}")
    for name, values in times.items():
        middle = statistics.median(values)
        share = f"{flops[name] / 1e9:.0f} GFLOP, {flops[name] / middle / speeds[kind]:.0%} of the ceiling"
        print(f"{name}: {middle:.2f} s an iteration, {share}{'' if name == 'reference' else ' (goal: 40%)'}")
    for name, (arch, _, goal) in VARIANTS.items():
        print(f"{arch} training ratio{name.removeprefix(arch)}: {ratio(times, name):.1f}x")
        print(f"    goal: {goal:.0f}x")


PROBE = """
import sys
import torch
torch.set_num_threads(int(sys.argv[2]))
if sys.argv[3]:
    sys.path.insert(0, sys.argv[1])
    import training
    arch, trains, _ = training.VARIANTS[sys.argv[3]]
    loop = training.client(arch, trains, int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]) or None)
    for _ in range(3):
        next(loop)
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def peak(name: str, args: argparse.Namespace) -> float:
    """MB of memory that a fresh process takes at most, which trains, or only imports torch when `name` is empty."""
    settings = (torch.get_num_threads(), name, args.size, args.batch, args.width or 0)
    command = [sys.executable, "-c", PROBE, str(Path(__file__).parent), *map(str, settings)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024 / 1e6


def memory(args: argparse.Namespace) -> None:
    """Print what a training client takes beyond a process that only imported torch."""
    if not Path("/proc/self/status").exists():
        print("peak memory: not measured, for this system has no /proc")
        return
    empty = peak("", args)
    for name, (arch, _, _) in VARIANTS.items():
        print(f"{arch} peak memory{name.removeprefix(arch)}: {peak(name, args) - empty:.0f} MB")
        print(f"    goal: {MEMORY[arch]} MB")


def main(words: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "training.py --repeats 5", repeats=5, size=256)
    parser.add_argument("--batch", type=int, default=4, help="photos an iteration (4)")
    parser.add_argument("--matrix", type=int, default=2048, help="side of the matrices that measure the ceiling (2048)")
    parser.add_argument("--only", choices=["time", "memory"], help="measure only this")
    args = settle(parser, words)
    if args.only != "memory":
        iterations(args)
    if args.only != "time":
        memory(args)


if __name__ == "__main__":
    main()
