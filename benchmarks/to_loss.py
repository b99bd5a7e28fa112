"""How much sooner fedstyle reaches the loss that the reference recipe has after some hundred iterations, on photos kept out of training.

    python benchmarks/to_loss.py --vgg VGG16.safetensors
    python benchmarks/to_loss.py

The first trains the reference on VGG-16 and judges all by VGG-16 up to relu3_3. Without weights `tiny` is the reference's teacher and the
judge: that shows what the network, the base and the speed of an iteration give, and not whether `tiny` is as good a teacher as VGG-16.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from reference import Recipe, Vgg, options, pictures, reference_net, seconds, settle
from torch import Tensor, nn

from fedstyle import Base, Client, Photos, Style, Training
from fedstyle.base import build
from fedstyle.params import load
from fedstyle.perceptual import Objective, load_features
from fedstyle.training import evaluate

JUDGED = 4
"""Photos kept out of training, to judge filters on."""
CROPS = 64
"""Crops that the reference trains on."""
STYLE_WEIGHT = 10.0
"""That of fedstyle's own training at the middle strength."""


class Unit(nn.Module):
    """The reference network with RGB in [0, 1] at both ends."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same shape."""
        return (self.net(x * 255) / 255).clamp(0, 1)


def image(pixels: Tensor) -> Image.Image:
    """uint8 (3, H, W) as Pillow has it."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def draw(folder: Path, side: int) -> Path:
    """A folder of procedural photos."""
    for index, pixels in enumerate(pictures(12, 3 * side // 2, 5)):
        image(pixels).save(folder / f"{index:02}.png")
    return folder


def whole_recipe(args: argparse.Namespace) -> float:
    """Seconds of an iteration of the whole published recipe, to relu4_3; the same with random weights as with VGG-16's."""
    recipe = Recipe(Vgg(), pictures(1, args.size, 1).float(), width=args.width or 32)
    photos = pictures(args.batch, args.size).float()
    recipe.step(photos)  # to warm up
    return statistics.median(seconds(lambda: recipe.step(photos), args.clock) for _ in range(args.repeats))


def reference(args: argparse.Namespace, style: Style, judge: Objective) -> tuple[nn.Module, Callable[[Tensor], None]]:
    """The reference network, and a step of its training on photos (N, 3, H, W) in 0..255: on VGG-16 where there are weights for it, or
    straight on what the judge looks at.
    """
    if args.vgg:
        weights = load(args.vgg) if args.vgg.suffix == ".safetensors" else torch.load(args.vgg, weights_only=True)
        recipe = Recipe(Vgg(weights), style.pixels * 255, (1.0, 5.0) if args.caffe else (1e5, 1e10), args.width or 32)
        return recipe.net, recipe.step
    net = reference_net(args.width or 32)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(photos: Tensor) -> None:
        adam.zero_grad()
        with torch.no_grad():
            content = judge.content_features(photos / 255)
        judge(net(photos) / 255, content).total.mean().backward()
        adam.step()

    return net, step


def goal(args: argparse.Namespace, library: Photos, style: Style, judge: Objective, views: Tensor) -> float:
    """The judge's total loss, on photos kept out, of the reference network after its iterations."""
    torch.manual_seed(0)
    net, step = reference(args, style, judge)
    crops = library.crops(args.size, CROPS, 0)
    for index in range(args.steps):
        order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(index))[: args.batch]
        step(crops[order].float())
    return evaluate(Unit(net), judge, views)["total"]


def reach(
    client: Client, base: Base, full: bool, goal: float, judge: Objective, views: Tensor, clock: str, limit: float
) -> tuple[float | None, int]:
    """Seconds, from the opened photos and style on, and iterations until the judge sees at most `goal`; judging is not timed.

    It looks at 0, 1, 2 ... 10 iterations and then after each 10 % more, and gives up (None) once `limit` seconds are spent.
    """
    found = {}

    def prepare() -> None:
        found["net"] = build(base.arch, base.padding, client.predict(base).weights)
        found["loop"] = client.method.personalize(found["net"], client.task(0), {}, 10**9, full)

    spent, done, look = seconds(prepare, clock), 0, 0
    while True:
        if done >= look:
            if evaluate(found["net"], judge, views)["total"] <= goal:
                return spent, done
            if spent > limit:
                return None, done
            look = max(done + 1, round(1.1 * done))
        spent += seconds(found["loop"].__next__, clock)
        done += 1


def compare(args: argparse.Namespace, photos: Photos, style: Style) -> None:
    """Print the ratios of wall time."""
    each = whole_recipe(args)
    limit = each * args.steps
    features = load_features("vgg16", str(args.vgg)) if args.vgg else load_features("tiny")
    judge = Objective(features, style.targets(features), style_weight=STYLE_WEIGHT)
    views = photos.subset(range(JUDGED)).views(args.size)
    library = photos.subset(range(JUDGED, len(photos)))
    wanted = goal(args, library, style, judge, views)
    print(f"judge: {features.name}{'' if args.vgg else ', for want of VGG-16; it taught the reference too'}")
    print(f"reference: total loss {wanted:.3f} after {args.steps} iterations of {each:.2f} s, {limit:.0f} s")
    start = Base.load(args.base) if args.base else Base.shipped("cnnLite")
    scratch = Base.new("cnnLite", seed=0, width=args.width)
    for name, base, full, wish in (
        ("from scratch", scratch, True, 5),
        ("from the base", start, False, 20),
        ("from the base, all parameters", start, True, 20),
    ):
        training = Training.for_base(base.record, size=args.size, batch=args.batch, device="cpu")
        client = Client(None, library, style, training=training)
        took, iterations = reach(client, base, full, wanted, judge, views, args.clock, limit)
        if took is None:
            print(f"cnnLite {name}: not reached in {iterations} iterations, as long as the reference took")
            continue
        print(f"cnnLite time-to-loss ratio {name}: {limit / took:.1f}x")
        print(f"    goal: {wish}x; {took:.1f} s, {iterations} iterations")


def main(words: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "to_loss.py --photos PHOTOS --style IMAGE", repeats=5, size=256)
    parser.add_argument("--batch", type=int, default=4, help="photos an iteration (4)")
    parser.add_argument("--steps", type=int, default=200, help="iterations of the reference (200)")
    parser.add_argument("--vgg", type=Path, help="VGG-16's weights under torchvision's names, at least up to relu3_3")
    parser.add_argument("--caffe", action="store_true", help="those are the original weights, of Caffe's scale")
    parser.add_argument("--photos", type=Path, help="a folder; procedural pictures without it")
    parser.add_argument("--style", type=Path, help="an image; a procedural one without it")
    parser.add_argument("--base", type=Path, help="a cnnLite base to start from; the shipped one without it")
    args = settle(parser, words)
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos.open(args.photos or draw(Path(folder), args.size))
        compare(args, photos, Style(args.style or image(pictures(1, 256, 1)[0])))


if __name__ == "__main__":
    main()
