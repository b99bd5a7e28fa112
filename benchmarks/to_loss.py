"""How much sooner fedstyle reaches the loss that the reference recipe has after some hundred iterations: see training.py."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image
from reference import Recipe, Vgg, pictures, seconds
from torch import Tensor

from fedstyle import Base, Client, Photos, Style, Training
from fedstyle.base import build
from fedstyle.params import load
from fedstyle.perceptual import Objective, load_features
from fedstyle.training import evaluate

JUDGED = 4
"""Photos kept out of training, to judge filters on."""
CROPS = 64
"""Crops that the reference trains on."""


class _Unit(torch.nn.Module):
    """The reference network with RGB in [0, 1] at both ends."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same shape."""
        return (self.net(x * 255) / 255).clamp(0, 1)


def draw(folder: Path, side: int) -> Path:
    """A folder of procedural photos."""
    for index, pixels in enumerate(pictures(12, 3 * side // 2, 5)):
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{index:02}.png")
    return folder


def to_loss(args: argparse.Namespace, full: float) -> None:
    """Print the ratios of wall time; `full` is the seconds of an iteration of the whole recipe, to relu4_3. Judging is not timed."""
    if not args.vgg:
        print("time to the reference's loss: skipped, for it takes VGG-16's weights; give --vgg FILE")
        return
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos.open(args.photos or draw(Path(folder), args.size))
        style = Style(args.style) if args.style else Style(Image.fromarray(pictures(1, 256, 1)[0].permute(1, 2, 0).contiguous().numpy()))
        judge_features = load_features("vgg16", str(args.vgg))
        judge = Objective(judge_features, style.targets(judge_features), style_weight=10.0)
        views = photos.subset(range(JUDGED)).views(args.size)
        library = photos.subset(range(JUDGED, len(photos)))
        goal = _reference(args, full, library, style, judge, views)
        starts = [("from scratch", Base.new("cnnLite", width=args.width or None), True, 5)]
        if args.base or not args.width:
            base = Base.load(args.base) if args.base else Base.shipped("cnnLite")
            starts += [("from the base", base, False, 20), ("from the base, all parameters", base, True, 20)]
        for name, base, everything, wish in starts:
            client = Client(None, library, style, training=Training.for_base(base.record, batch=args.batch, device="cpu"))
            took, iterations = _reach(client, base, everything, goal, judge, views, args, full * args.steps)
            if took is None:
                print(f"cnnLite {name}: not reached in {iterations} iterations")
                continue
            print(f"cnnLite time-to-loss ratio {name}: {full * args.steps / took:.1f}x")
            print(f"    goal: {wish}x; {took:.1f} s, {iterations} iterations")


def _reference(args: argparse.Namespace, full: float, library: Photos, style: Style, judge: Objective, views: Tensor) -> float:
    """Train by the reference recipe, and give the judge's total loss on the photos kept out."""
    weights = load(args.vgg) if args.vgg.suffix == ".safetensors" else torch.load(args.vgg, weights_only=True)
    recipe = Recipe(Vgg(weights), style.pixels * 255, (1.0, 5.0) if args.caffe else (1e5, 1e10), args.width or 32)
    crops = library.crops(args.size, CROPS, 0)
    spent = 0.0
    for step in range(args.steps):
        order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(step))[: args.batch]
        batch = crops[order].float()
        spent += seconds(lambda batch=batch: recipe.step(batch), args.clock)
    goal = evaluate(_Unit(recipe.net), judge, views)["total"]
    print(
        f"reference: total loss {goal:.3f} after {args.steps} iterations, {spent:.0f} s with {len(recipe.vgg.taps)} taps of these weights;"
    )
    print(f"    what counts is {full * args.steps:.0f} s, at the {full:.2f} s that an iteration of the whole recipe takes")
    return goal


def _reach(
    client: Client, base: Base, everything: bool, goal: float, judge: Objective, views: Tensor, args: argparse.Namespace, limit: float
) -> tuple[float | None, int]:
    """Seconds, from the opened photos and style on, and iterations until the judge sees at most `goal`.

    It looks at 0, 1, 2 ... 10 iterations and then after each 10 % more, and gives up once `limit` is spent.
    """
    state = {}

    def prepare() -> None:
        state["net"] = build(base.arch, base.padding, client.predict(base).weights)
        state["loop"] = client.method.personalize(state["net"], client.task(0), {}, 10**9, everything)

    spent, done, look = seconds(prepare, args.clock), 0, 0
    while True:
        if done >= look:
            if evaluate(state["net"], judge, views)["total"] <= goal:
                return spent, done
            if spent > limit:
                return None, done
            look = max(done + 1, round(1.1 * done))
        spent += seconds(state["loop"].__next__, args.clock)
        done += 1
