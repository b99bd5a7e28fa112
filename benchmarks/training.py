"""How fast and how small fedstyle's training is beside the published reference recipe.

    python benchmarks/training.py

needs no data and no weights: pictures are procedural, and random weights take the same time. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from reference import Recipe, Vgg, pictures, ratio, seconds
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, baddbmm_flop

from fedstyle.base import Base
from fedstyle.config import Training
from fedstyle.net import is_norm
from fedstyle.params import load
from fedstyle.perceptual import Objective, gram, load_features
from fedstyle.photos import Photos
from fedstyle.style import Style
from fedstyle.training import Content, Progress, Task, descend, evaluate, everything, has_fast_bf16

VARIANTS = {
    "cnn": ("cnn", everything, 5.0),
    "cnn norms-only": ("cnn", is_norm, 7.0),
    "cnnLite": ("cnnLite", everything, 12.0),
    "cnnLite norms-only": ("cnnLite", is_norm, 18.0),
}
"""Name, architecture, what trains, and how many times as fast as the reference issue 3 asks it to be."""
MEMORY = {"cnn": 1000, "cnnLite": 500}
"""MB that a training client may take."""
INPLACE = {torch.ops.aten.addmm_: addmm_flop, torch.ops.aten.baddbmm_: baddbmm_flop}
"""Products that torch's counter leaves out."""
JUDGED = 4
"""Photos kept out of training, to judge filters on."""


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
            LOOPS[name] = client(arch, trains, args.size, args.batch, args.width or None).__next__
    return seconds(LOOPS[name], args.clock)


def count(name: str, args: argparse.Namespace) -> int:
    """Floating-point operations that a step takes, as torch counts those of convolutions and matrix products; on one thread, as it sees one."""
    LOOPS.pop(name)
    step(name, argparse.Namespace(**{**vars(args), "threads": 1}))
    with FlopCounterMode(display=False, custom_mapping=INPLACE) as counter:
        LOOPS.pop(name)()
    return counter.get_total_flops()


def ceiling(args: argparse.Namespace, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product in this process, counted as 2 n^3: the best of several."""
    a = torch.rand(args.matrix, args.matrix).to(dtype)
    return 2 * args.matrix**3 / min(seconds(lambda: torch.mm(a, a), args.clock) for _ in range(5))


def iterations(args: argparse.Namespace) -> float:
    """Print the ratios of an iteration, and give the seconds of the reference's.

    The reference and fedstyle each have a process, for fedstyle sets how its process keeps memory; one rests while the other works.
    """
    kind = torch.bfloat16 if has_fast_bf16(torch.device("cpu")) else torch.float32
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as theirs, ProcessPoolExecutor(1, spawn) as ours:
        homes = {"reference": theirs} | dict.fromkeys(VARIANTS, ours)
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
    for name, (_, _, goal) in VARIANTS.items():
        print(f"{name} training ratio: {ratio(times, name):.1f}x")
        print(f"    goal: {goal:.0f}x")
    return statistics.median(times["reference"])


PROBE = """
import sys
import torch
torch.set_num_threads(int(sys.argv[2]))
if sys.argv[3]:
    sys.path.insert(0, sys.argv[1])
    import training
    loop = training.client(sys.argv[3], training.everything, int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]) or None)
    for _ in range(3):
        next(loop)
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def peak(arch: str, args: argparse.Namespace) -> float:
    """MB of memory that a fresh process takes at most, which trains, or only imports torch when `arch` is empty."""
    settings = (torch.get_num_threads(), arch, args.size, args.batch, args.width or 0)
    command = [sys.executable, "-c", PROBE, str(Path(__file__).parent), *map(str, settings)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024 / 1e6


def memory(args: argparse.Namespace) -> None:
    """Print what a training client takes beyond a process that only imported torch."""
    if not Path("/proc/self/status").exists():
        print("peak memory: not measured, for this system has no /proc")
        return
    empty = peak("", args)
    for arch, goal in MEMORY.items():
        print(f"{arch} peak memory: {peak(arch, args) - empty:.0f} MB")
        print(f"    goal: {goal} MB")


def crops(args: argparse.Namespace, size: int) -> tuple[Tensor, Tensor]:
    """Training crops and views that judge, no photo in both."""
    if not args.photos:
        return pictures(32, size), pictures(JUDGED, args.size, 2)
    photos = Photos.open(args.photos)
    kept = photos.subset(range(JUDGED))
    return photos.subset(range(JUDGED, len(photos))).crops(size, 32, 0), kept.views(args.size)


def to_loss(args: argparse.Namespace, full: float) -> None:
    """Print how much sooner fedstyle reaches the loss that the reference recipe has after `args.steps` iterations.

    `full` is the seconds of an iteration of the whole recipe, to relu4_3. Judging is not timed.
    """
    if not args.vgg:
        print("time to the reference's loss: skipped, for it takes VGG-16's weights; give --vgg FILE")
        return
    weights = load(args.vgg) if args.vgg.suffix == ".safetensors" else torch.load(args.vgg, weights_only=True)
    style = Style(args.style) if args.style else Style(_image(pictures(1, 256, 1)[0]))
    judge_features = load_features("vgg16", str(args.vgg))
    judge = Objective(judge_features, style.targets(judge_features), style_weight=10.0)
    photos, views = crops(args, args.size)
    recipe = Recipe(Vgg(weights), style.pixels * 255, (1.0, 5.0) if args.caffe else (1e5, 1e10), args.width or 32)
    spent = 0.0
    for step in range(args.steps):
        order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(step))[: args.batch]
        start = time.perf_counter()
        recipe.step(photos[order].float())
        spent += time.perf_counter() - start
    goal = evaluate(_Unit(recipe.net), judge, views)["total"]
    whole = full * args.steps
    print(f"reference: total loss {goal:.3f} after {args.steps} iterations; {spent:.0f} s as trained here, to {len(recipe.vgg.taps)} taps,")
    print(f"    {whole:.0f} s at the {full:.2f} s that an iteration of the whole recipe takes, which counts")
    starts = {"from scratch": (Base.new("cnnLite", width=args.width), everything, 5.0)}
    if args.base:
        base = Base.load(args.base)
        starts |= {"from the base": (base, is_norm, 20.0), "from the base, all parameters": (base, everything, 20.0)}
    else:
        print("from the base: skipped; give --base FOLDER")
    for name, (base, trains, wish) in starts.items():
        took, at = _reach(goal, base, trains, style, judge, views, whole, args)
        if took is None:
            print(f"cnnLite {name}: not reached in {at} iterations")
            continue
        print(f"cnnLite time-to-loss ratio {name}: {whole / took:.1f}x")
        print(f"    goal: {wish:.0f}x; {took:.1f} s, {at} iterations")


def _reach(
    goal: float, base: Base, trains: object, style: Style, judge: Objective, views: Tensor, limit: float, args: argparse.Namespace
) -> tuple[float | None, int]:
    """Seconds and iterations until the judge sees at most `goal`; it looks after each 10 % more iterations."""
    training = Training(batch=args.batch, **({"size": args.train_size} if args.train_size else {}))
    photos, _ = crops(args, training.size)
    start = time.perf_counter()
    features = load_features("tiny")
    objective = Objective(features, style.targets(features), style_weight=10.0)
    task = Task(Content(photos, objective, torch.device("cpu")), objective, training)
    net = base.net()
    loop = descend(net, task, {}, iterations=10**9, rate=training.rate, norm_rate=training.norm_rate, trains=trains)
    spent, look = time.perf_counter() - start, 1
    for done in range(10**9):
        if done >= look:
            if evaluate(net, judge, views)["total"] <= goal:
                return spent, done
            net.train()
            if spent > limit:
                break
            look = max(done + 1, round(1.1 * done))
        start = time.perf_counter()
        next(loop)
        spent += time.perf_counter() - start
    return None, done


class _Unit(torch.nn.Module):
    """The reference network with RGB in [0, 1] at both ends."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x * 255) / 255).clamp(0, 1)


def _image(pixels: Tensor) -> object:
    from PIL import Image

    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="example: python benchmarks/training.py --repeats 5")
    parser.add_argument("--repeats", type=int, default=5, help="medians are over this many")
    parser.add_argument("--threads", type=int, default=2, help="cores to train on")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu, with --threads 1, for a machine that is shared")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=0, help="channels of all networks, for a quick try; 0 is each one's own")
    parser.add_argument("--matrix", type=int, default=2048, help="side of the matrices that measure the ceiling")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--to-loss", action="store_true", help="also the time to the reference's loss (minutes)")
    parser.add_argument("--steps", type=int, default=200, help="iterations of the reference")
    parser.add_argument("--vgg", type=Path, help="VGG-16's weights under torchvision's names, at least up to relu3_3")
    parser.add_argument("--caffe", action="store_true", help="those are the original weights, of Caffe's scale")
    parser.add_argument("--photos", type=Path, help="a folder; procedural pictures without it")
    parser.add_argument("--style", type=Path, help="an image; a procedural one without it")
    parser.add_argument("--base", type=Path, help="a cnnLite base to start from")
    parser.add_argument("--train-size", type=int, default=0, help="side of fedstyle's crops; 0 is its default")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    full = iterations(args)
    if not args.no_memory:
        memory(args)
    if args.to_loss:
        to_loss(args, full)


if __name__ == "__main__":
    main()
