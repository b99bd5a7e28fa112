"""Teach a base's predictor to read a new version of `tiny`, so that what the convolutions learned need not be learned anew.

python simulation/base/reread.py --data DIR --base fedstyle/weights/cnnLite --tiny candidate.safetensors --out FOLDER

The predictor's code is made of the feature network's taps, and another network has others. The norms that the base predicts now, for
the styles of `base-train`, the painters' pictures and variants of both, are what the new predictor is to give: its first layer begins at
the least-squares fit of the old one's, then both layers learn. Convolutions and the norms' common part stay as they are. It prints the
share of the norms' variance over styles that is found again, also on styles of `tiny-train`, from which the predictor does not learn.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedstyle import Base
from fedstyle.paint import paint
from fedstyle.params import fingerprint
from fedstyle.perceptual import FeatureNet, load_features
from fedstyle.prediction import PREFIX, PredictiveNet, Predictor, look_at, new_predictor, variants

sys.path.append(str(Path(__file__).parents[1] / "tiny"))
import prune

SPLITS = Path(__file__).parents[1] / "splits.toml"
PAINTED, VARIANTS, SIDE, STEPS = 4, 60, 256, 3000
"""Pictures of each painter, variants of each picture, the side in pixels of the whole, and steps of training."""


def pictures(data: Path, split: str) -> list[Tensor]:
    """The styles of a split and its painters' pictures, (1, 3, H, W) in [0, 1]."""
    splits = tomllib.loads(SPLITS.read_text())
    images = [Image.open(data / "styles" / name).convert("RGB") for name in splits["styles"][split]]
    images += [paint(name, side=SIDE, seed=seed) for name in splits["painters"][split] for seed in range(PAINTED)]
    found = []
    for image in images:
        image.thumbnail((2 * SIDE, 2 * SIDE))
        found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255)
    return found


def codes(nets: Sequence[FeatureNet], styles: Sequence[Tensor], count: int) -> list[Tensor]:
    """The codes (n, K) of styles and `count` variants of each, under each network."""
    seen = [one for seed, style in enumerate(styles) for one in (style, *variants(style, count, seed))]
    return [torch.stack([look_at(net, one).code for one in seen]) for net in nets]


def predictor(base: Base) -> Predictor:
    """The predictor of a base that has one."""
    net = base.net()
    assert isinstance(net, PredictiveNet)
    return net.predictor


def refit(old: Predictor, new: Predictor, theirs: Tensor, ours: Tensor) -> None:
    """Teach `new` on our codes what `old` says of theirs, row by row."""
    with torch.no_grad():
        weight, bias = prune.least_squares(new.read(ours), old.hidden(old.read(theirs)), ridge=1e-2)
        new.hidden.weight.copy_(weight)
        new.hidden.bias.copy_(bias)
        new.out.load_state_dict(old.out.state_dict())
        wanted = old(theirs)
    adam = torch.optim.AdamW([*new.hidden.parameters(), *new.out.parameters()], lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-3, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(ours), (256,))
        noisy = ours[rows] + 0.05 * new.spread * torch.randn(len(rows), ours.shape[1])
        loss = (new(noisy) - wanted[rows]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()


@torch.no_grad()
def share(old: Predictor, new: Predictor, theirs: Tensor, ours: Tensor) -> float:
    """The share of the predicted norms' variance over styles that the new predictor gives."""
    wanted, found = old(theirs), new(ours)
    return 1 - float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def main() -> None:
    """Refit, say how well, and write the base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="the folder of a base whose predictor reads the `tiny` that ships")
    parser.add_argument("--tiny", type=Path, required=True, help="the weights of the network that it is to read, as prune.py writes them")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    base, nets = Base.load(options.base), (load_features("tiny"), prune.load(options.tiny))
    old = predictor(base)
    new = predictor(dataclasses.replace(base, weights={**base.weights, **new_predictor(base.net(), nets[1], 0)}))
    theirs, ours = codes(nets, pictures(options.data, "base-train"), VARIANTS)
    refit(old, new, theirs, ours)
    held = codes(nets, pictures(options.data, "tiny-train"), 4)
    print(
        f"of the norms' variance over styles: {share(old, new, theirs, ours):.3f} where it learned, {share(old, new, *held):.3f} on others"
    )
    weights = {**base.weights, **{f"{PREFIX}{name}": value.detach() for name, value in new.named_parameters()}}
    record = {**base.record, "predictor": {"of_base": base.sha256, "reads": fingerprint(nets[1].state_dict())}}
    dataclasses.replace(base, weights=weights, record=record).halved().save(options.out, half=True)


if __name__ == "__main__":
    main()
