"""Whether `tiny` may stand in for VGG-16 when filters are trained: ranking, equal wall time, equal iterations, and cost.

python simulation/tiny/acceptance.py --data DIR --out runs/tiny [--base DIR] [--styles 13] [--seeds 3] [--iterations 2000] [--tiny FILE]

A race trains two filters of one user and start, one against VGG-16 and one against `tiny`: everything from scratch, the norms from a
base, at the rates that it advises. They go in turns, so that both meet the same machine: whoever has used less time goes next. VGG-19,
which nothing was trained on, judges them on photos that were kept out. Finished races stand in OUT/races.jsonl and are not run again; the
tables are printed and written to OUT/acceptance.md. DIR is the folder that simulation/quality takes, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import prune
import torch
from torch import Tensor, nn

from fedstyle import Base, Client, Filter, Style
from fedstyle.base import build
from fedstyle.config import Loss, Training
from fedstyle.files import append_json, read_lines, write_bytes
from fedstyle.net import is_norm
from fedstyle.params import fingerprint
from fedstyle.perceptual import FeatureNet, Objective, load_features
from fedstyle.training import Content, Task, descend, everything

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
import users

VIEW, JUDGED, PHOTOS = 192, 4, 24
"""The side in pixels at which photos are judged, how many of them, and a user's own photos."""
LADDER = (50, 100, 200, 500, 1000, 2000)
"""Iterations at which both filters of a race are judged, as far as it goes."""
LIMITS = {"ranking": 0.9, "equal time": 1.0, "equal iterations": 1.1, "cost": 10.0}
Row = dict[str, Any]


class Runner:
    """A filter in training, and the seconds that it took so far."""

    def __init__(self, name: str, net: nn.Module, steps: Iterator[object]) -> None:
        self.name, self.net, self.steps = name, net, steps
        self.done, self.seconds = 0, 0.0

    def go(self) -> None:
        """One iteration."""
        clock = time.perf_counter()
        next(self.steps)
        self.seconds += time.perf_counter() - clock
        self.done += 1


def objective(features: FeatureNet, style: Style) -> Objective:
    """A style under a feature network, with the default weights of `[loss]`."""
    loss = Loss()
    return Objective(features, style.targets(features), loss.content, loss.style, loss.layers)


def judge(net: nn.Module, photos: Tensor, judges: dict[str, Objective]) -> dict[str, dict[str, float]]:
    """Mean losses of a filter on photos under each feature network."""
    net.eval()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in judges}
    with torch.no_grad():
        for photo in photos.split(1):
            stylised = net(photo)
            for name, one in judges.items():
                found[name].append(one(stylised, one.content_features(photo)).numbers())
    net.train()
    return {name: {key: statistics.fmean(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}


def race(
    start: Filter,
    crops: Tensor,
    judges: dict[str, Objective],
    photos: Tensor,
    training: Training,
    trains: Callable[[str], bool],
    times: Sequence[int],
    last: int,
) -> Iterator[Row]:
    """Rows of both runners at the iterations of LADDER up to `last`, and of `tiny` whenever VGG-16 has made one of `times` iterations."""
    most = max(*times, last)
    runners = {}
    for name in ("vgg16", "tiny"):
        net = build(start.arch, start.padding, start.weights)
        task = Task(Content(crops, judges[name], torch.device("cpu")), judges[name], training, training.seed)
        steps = descend(net, task, {}, iterations=10**6, rate=training.rate, norm_rate=training.norm_rate, trains=trains)
        runners[name] = Runner(name, net, steps)
    vgg, tiny = runners["vgg16"], runners["tiny"]

    def row(runner: Runner, mark: str) -> Row:
        facts = {"features": runner.name, "mark": mark, "iterations": runner.done, "seconds": round(runner.seconds, 3)}
        return facts | {"losses": judge(runner.net, photos, judges)}

    marks = {*(step for step in LADDER if step <= last), last, *times}
    while vgg.done < most or tiny.done < last:
        runner = vgg if vgg.done < most and (vgg.seconds <= tiny.seconds or tiny.done >= 10 * most) else tiny
        runner.go()
        if runner.done in marks and runner.done <= most:
            yield row(runner, "iterations")
        if runner is vgg and vgg.done in times:
            while tiny.seconds < vgg.seconds:
                tiny.go()
                if tiny.done in marks and tiny.done <= most:
                    yield row(tiny, "iterations")
            yield row(tiny, f"time of {vgg.done}")


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation of values of which no two are equal."""
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def cost(vgg: FeatureNet, tiny: FeatureNet, side: int, batch: int, repeats: int) -> Row:
    """Median seconds of a forward and backward pass, with regard to the images, of both networks in turns; and their ratio."""
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    taken: dict[str, list[float]] = {"vgg16": [], "tiny": []}
    for repeat in range(repeats + 1):
        for name, net, times in (("vgg16", vgg, 1), ("tiny", tiny, 4)):
            for _ in range(times):
                x = images.clone().requires_grad_()
                clock = time.perf_counter()
                torch.autograd.backward(sum((tap.square().mean() for tap in net(x)), torch.zeros(())))
                if repeat:  # the first round warms up
                    taken[name].append(time.perf_counter() - clock)
    middle = {name: statistics.median(values) for name, values in taken.items()}
    return {"side": side, "batch": batch, "threads": torch.get_num_threads(), **middle, "ratio": middle["vgg16"] / middle["tiny"]}


def summarise(rows: Sequence[Row], costs: Sequence[Row]) -> str:
    """The tables: a line a question, then all values."""
    lines: list[tuple[str, str, float, list[float], bool]] = []
    scratch = [row for row in rows if row["start"] == "scratch"]
    each = []
    for style in sorted({row["style"] for row in scratch}):
        totals = [[row["losses"][name]["total"] for row in scratch if row["style"] == style] for name in ("tiny", "vgg16")]
        each += [spearman(*totals)] if len(totals[0]) > 2 else []
    if each:
        lines.append(("ranking of filters by tiny and by VGG-16: Spearman in a style", "ranking", statistics.median(each), each, True))

    def ratios(start: str, mark: str, iterations: int) -> list[float]:
        def pick(features: str, mark: str) -> dict[tuple[str, int], float]:
            chosen = [r for r in rows if r["start"] == start and r["features"] == features and r["mark"] == mark]
            chosen = [r for r in chosen if mark != "iterations" or r["iterations"] == iterations]
            return {(r["style"], r["seed"]): r["losses"]["vgg19"]["total"] for r in chosen}

        ours, theirs = pick("tiny", mark), pick("vgg16", "iterations")
        return [ours[key] / theirs[key] for key in sorted(ours.keys() & theirs.keys())]

    for start, words in (("scratch", "from scratch"), ("base", "from the base")):
        for steps in sorted({int(r["mark"].rpartition(" ")[2]) for r in rows if r["start"] == start and r["mark"] != "iterations"}):
            if found := ratios(start, f"time of {steps}", steps):
                text = f"VGG-19 total, tiny / VGG-16, in the time of {steps} iterations on VGG-16, {words}"
                lines.append((text, "equal time", statistics.median(found), found, False))
        for steps in sorted({r["iterations"] for r in rows if r["start"] == start and r["mark"] == "iterations"}):
            if found := ratios(start, "iterations", steps):
                text = f"VGG-19 total, tiny / VGG-16, after {steps} iterations of each, {words}"
                lines.append((text, "equal iterations", statistics.median(found), found, False))
    lines += [
        (f"cost of VGG-16 / cost of tiny, {row['side']} px, batch {row['batch']}, {row['threads']} threads", "cost", row["ratio"], [], True)
        for row in costs
    ]
    table = ["| question | median | asked | kept | all values |", "|---|---|---|---|---|"]
    for question, kind, middle, values, above in lines:
        asked = LIMITS[kind]
        kept = middle >= asked if above else middle <= asked
        listed = " ".join(f"{value:.2f}" for value in values)
        table.append(f"| {question} | {middle:.3f} | {'≥' if above else '≤'} {asked:g} | {'yes' if kept else 'no'} | {listed} |")
    table += ["", "| style | seed | start | features | mark | iterations | seconds | VGG-19 content + 10 x style = total | VGG-16 | tiny |"]
    table += ["|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        loss = row["losses"]
        heavy = f"{loss['vgg19']['content']:.3f} + 10 x {loss['vgg19']['style']:.4f} = {loss['vgg19']['total']:.3f}"
        head = " | ".join(str(row[key]) for key in ("style", "seed", "start", "features", "mark", "iterations", "seconds"))
        table.append(f"| {head} | {heavy} | {loss['vgg16']['total']:.3f} | {loss['tiny']['total']:.3f} |")
    return "\n".join(table) + "\n"


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--base", type=Path, help="a base's folder: races of 50 iterations on VGG-16 start from it, too")
    parser.add_argument("--tiny", type=Path, help="weights that prune.py wrote, in the place of those that ship")
    parser.add_argument("--arch", default="cnnLite")
    parser.add_argument("--width", type=int, help="the transform net's channels, for quick looks")
    parser.add_argument("--styles", type=int, default=13, help="how many unseen styles")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2000, help="iterations that both filters make from scratch")
    parser.add_argument("--times", type=int, nargs="*", default=[100, 500], help="iterations on VGG-16 whose time tiny gets, from scratch")
    parser.add_argument("--base-times", type=int, nargs="*", default=[50], help="the same from the base")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sides", type=int, nargs="*", default=[256, 128], help="sides of the pictures that the cost is measured on")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = options.data / "weights"
    nets = {name: load_features(name, str(weights / f"{name}_features_to_relu3.pth")) for name in ("vgg16", "vgg19")}
    nets["tiny"] = prune.load(options.tiny) if options.tiny else load_features("tiny")
    starts = {"scratch": None} | ({"base": Base.load(options.base)} if options.base else {})
    file = options.out / "races.jsonl"
    kept: list[Row] = []
    for look in users.looks(options.styles):
        style = Style(look.image(options.data))
        for seed in range(options.seeds):
            for name, base in starts.items():
                times, last = (options.times, options.iterations) if name == "scratch" else (options.base_times, max(options.base_times))
                new = Base.new(options.arch, seed=seed, width=options.width)
                advised = Training.for_base(base.record if base else {}, size=options.size, batch=options.batch, device="cpu", seed=seed)
                facts = [(base or new).sha256, fingerprint(nets["tiny"].state_dict()), times, last, options.size, options.batch]
                facts += [advised.rate, advised.norm_rate, advised.warmup] if base else []
                setting = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
                key = {"style": look.name, "seed": seed, "start": name, "setting": setting}
                rows = [row for row in read_lines(file) if all(row.get(part) == value for part, value in key.items())]
                if not rows:
                    judges = {each: objective(net, style) for each, net in nets.items()}
                    library = users.library(options.data, look.name, seed, PHOTOS)
                    crops = library.crops(options.size, advised.crops, seed)
                    photos = users.judged(options.data, JUDGED).views(VIEW).float() / 255
                    if base:
                        start, trains = Client(None, library, style, training=advised).predict(base), is_norm
                    else:
                        start, trains = Filter(new.arch, new.padding, new.weights), everything
                    rows = [key | row for row in race(start, crops, judges, photos, advised, trains, times, last)]
                    append_json(file, *rows)
                    print(f"{look.name}, seed {seed}, from {name}: done", flush=True)
                kept += rows
    costs = [cost(nets["vgg16"], nets["tiny"], side, options.batch, options.repeats) for side in options.sides]
    text = summarise(kept, costs)
    write_bytes(options.out / "acceptance.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
