"""Make the embedded feature network `tiny`: prune VGG-16 to a few channels in closed form, and train what is left.

python simulation/tiny/prune.py --data DIR --out tiny.safetensors [--channels 16 16 32 48 64 48 96] [--cycles 2400]

DIR holds photos/, styles/ and weights/; splits.toml says which of the pictures may be used.

Layer by layer (after Zhang et al. 2016, "Accelerating very deep convolutional networks", and He, Zhang and Sun 2017, "Channel pruning"):
the channels that are kept are those from which all of the layer's are predicted best, and their weights are the least-squares fit of VGG's
own values before the ReLU, from what the pruned layers before give. That takes two minutes and no gradient. A least-squares fit predicts
too little variance, of which Gram matrices are made; so the heads are moved until their second moments are VGG's. Then `distil.learn` goes
on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from distil import CROP, FRAME, PLAIN, Library, Teacher, learn, plain, rows, window
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle import params
from fedstyle.perceptual import FeatureNet, TinyNet, load_features, tiny_network

FITTED, PLACES = 300, 600
"""Crops for the closed form, and places of each that a fit sees."""
RIDGE = 1e-5
"""Of the mean of a matrix's diagonal."""


def keep(moment: Tensor, weight: Tensor, count: int) -> list[int]:
    """The `count` channels from which the others are predicted best: a Cholesky factorisation with pivots.

    `moment` (C, C) is the channels' second moment; `weight` (C) says how much an error in each matters to the next layer.
    """
    rest, kept = moment.clone(), list[int]()
    for _ in range(count):
        gain = (rest.square() * weight).sum(1) / rest.diagonal().clamp_min(1e-12 * float(moment.diagonal().max()))
        gain[kept] = -1.0
        best = int(gain.argmax())
        rest = rest - torch.outer(rest[:, best], rest[best]) / rest[best, best].clamp_min(1e-30)
        kept.append(best)
    return kept


def least_squares(x: Tensor, y: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Weights (outputs, inputs) and bias of the best linear map from rows of `x` to rows of `y`; `ridge` is of the mean diagonal."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
    square = x.T @ x
    square += ridge * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    fit = torch.linalg.solve(square, x.T @ y.double()).float()
    return fit[:-1].T, fit[-1]


def matched(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map, as weights and bias, that gives rows of `found` the mean and the second moment of `wanted` and moves them least.

    It is the optimal transport between normal distributions (Olkin and Pukelsheim 1982).
    """
    means = [rows.double().mean(0) for rows in (found, wanted)]
    first, second = (torch.cov(rows.double().T, correction=0) for rows in (found, wanted))
    first += RIDGE * first.diagonal().mean() * torch.eye(len(first), dtype=first.dtype)
    half, back = _power(first, 0.5), _power(first, -0.5)
    turn = back @ _power(half @ second @ half, 0.5) @ back
    return turn.float(), (means[1] - turn @ means[0]).float()


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(1e-9 * float(values.max())) ** exponent) @ vectors.T


@torch.no_grad()
def prune(vgg: FeatureNet, student: TinyNet, crops: Tensor, targets: list[Tensor]) -> None:
    """Set a student's weights in closed form, on crops (N, 3, S, S) in [0, 1] and the teacher's targets of them.

    Channels come out at a root mean square of 1, VGG's being of hundreds: Adam's steps then fit all layers.
    """
    layers = [[layer for layer in stage.children() if isinstance(layer, nn.Conv2d)] for stage in vgg.stages]
    after = [conv.weight.square().sum((0, 2, 3)) for convs in layers for conv in convs][1:]  # what the next layer makes of a channel
    theirs, ours = vgg.stages[0][0](crops), 2 * crops - 1  # VGG's own normalisation
    for stage, convs, target in zip(student.stages, layers, targets, strict=True):
        for conv, small in zip(convs, stage.body, strict=True):
            before = conv(theirs)
            theirs = F.relu(before)
            flat = rows(theirs).double()
            moment = flat.T @ flat / len(flat)
            weight = after.pop(0).double() if after else torch.ones(len(moment), dtype=torch.float64)
            kept = keep(moment, weight, small.out_channels)
            size = moment.diagonal()[kept].sqrt().float()
            near, far = _places(ours, before[:, kept] / size[:, None, None])
            fit, bias = least_squares(near, far)
            small.weight.copy_(fit.view_as(small.weight))
            small.bias.copy_(bias)
            ours = F.relu(small(ours))
        found, wanted = rows(F.avg_pool2d(ours, 2)), rows(target.float())
        fit, bias = least_squares(found, wanted)
        turn, shift = matched(found @ fit.T + bias, wanted)
        stage.head.weight.copy_((turn @ fit)[..., None, None])
        stage.head.bias.copy_(turn @ bias + shift)
        theirs, ours = F.max_pool2d(theirs, 2), F.max_pool2d(ours, 2)


def _places(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """3x3 neighbourhoods of `x` at some places of each crop, and the values of `y` there."""
    near, far = [], []
    for one, value in zip(x, y, strict=True):
        chosen = torch.randperm(value[0].numel())[:PLACES]
        near.append(F.unfold(one[None], 3, padding=1)[0].T[chosen])
        far.append(value.flatten(1).T[chosen])
    return torch.cat(near), torch.cat(far)


def load(path: Path) -> TinyNet:
    """A network of any number of channels, from weights that this script wrote."""
    weights = params.load(path)
    bodies = sorted(name for name in weights if ".body." in name and name.endswith("weight"))
    net = tiny_network([len(weights[name]) for name in bodies])
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net


def main() -> None:
    """Prune, train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--channels", type=int, nargs=7, help="of the seven convolutions, if not as the network that ships")
    parser.add_argument("--cycles", type=int, default=2400)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    library, judges = Library(options.data, "tiny-train"), Library(options.data, "base-train")
    vgg = load_features("vgg16", str(options.data / "weights" / "vgg16_features_to_relu3.pth"))
    student = tiny_network(options.channels) if options.channels else tiny_network()
    ranks = [stage.head.out_channels for stage in student.stages]
    teacher = Teacher(vgg, torch.cat([window(kind, FRAME // 2, CROP) for kind in (library.photos, library.styles)]), ranks)
    first = plain(library, PLAIN)
    labels = teacher(first)
    prune(vgg, student, first[:FITTED], [label[:FITTED] for label in labels])
    learn(student.requires_grad_(True), teacher, library, judges, (first, labels), options.cycles, options.rate, options.out)


if __name__ == "__main__":
    main()
