"""simulation/tiny/prune.py: the closed form, by hand and on a small network whose answer is known."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedstyle.perceptual import FeatureNet, tiny_network


@pytest.fixture(scope="module")
def prune():
    sys.path.append(str(Path(__file__).parents[1] / "simulation" / "tiny"))
    return importlib.import_module("prune")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_channels_that_others_tell_are_not_kept(prune):
    # Channels a, 2a, b, 0.1c with independent a, b, c of variance 1. Gains at first, summed over what each tells of the others:
    # a tells itself 1 and of 2a all its 4: 5. So does 2a: 5. b tells 1, c 0.01. Either of the first two is kept, then b, then c.
    mix = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0.1]], dtype=torch.float64)
    kept = prune.keep(mix @ mix.T, torch.ones(4, dtype=torch.float64), 3)
    assert kept[0] in (0, 1)
    assert kept[1:] == [2, 3]
    # Where an error in c matters 10,000 times as much, c comes first: 10,000 x 0.01 = 100.
    assert prune.keep(mix @ mix.T, torch.tensor([1.0, 1, 1, 1e4], dtype=torch.float64), 2)[0] == 3


def test_least_squares_finds_an_affine_map(prune):
    x, weight, bias = draw(200, 4), draw(3, 4, seed=1), draw(3, seed=2)
    found, shift = prune.least_squares(x, x @ weight.T + bias)
    torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shift, bias, rtol=1e-3, atol=1e-3)


def test_matched_rows_have_the_moments_that_are_wanted(prune):
    wanted = draw(5000, 3) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.5]]) + torch.tensor([1.0, -2, 3])
    found = 0.5 * wanted + 0.1 * draw(5000, 3, seed=1)
    turn, shift = prune.matched(found, wanted)
    made = found @ turn.T + shift
    torch.testing.assert_close(made.mean(0), wanted.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.cov(made.T), torch.cov(wanted.T), rtol=1e-3, atol=1e-3)
    # Rows of diagonal covariance (1, 4) become those of (9, 4): each axis is scaled by the ratio of deviations, 3 and 1.
    rows = torch.tensor([[1.0, 2], [-1, 2], [1, -2], [-1, -2]])
    turn, shift = prune.matched(rows, rows * torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(turn, torch.diag(torch.tensor([3.0, 1.0])), rtol=1e-4, atol=1e-4)
    assert shift.abs().max() < 1e-6


def test_a_network_that_keeps_every_channel_is_found_again(prune):
    plan, generator = (4, 4, 5, 5, 6, 6, 6), torch.Generator().manual_seed(0)
    channels, pieces = [3, *plan], []
    for a, b in ((0, 2), (2, 4), (4, 7)):
        layers = [] if a else [nn.BatchNorm2d(3, affine=False).eval()]  # in the place of VGG's normalisation: here the identity
        layers += [nn.MaxPool2d(2)] if a else []
        for inputs, outputs in itertools.pairwise(channels[a : b + 1]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        pieces.append(nn.Sequential(*layers))
    teacher = FeatureNet("small", pieces)
    for name, value in teacher.named_parameters():
        value.copy_(torch.randn(value.shape, generator=generator) * (0.5 if name.endswith("weight") else 0.1))
    crops = torch.rand(40, 3, 24, 24, generator=generator)
    frames = [draw(size, rank, seed=rank) for size, rank in zip((4, 5, 6), (48, 64, 96), strict=True)]
    targets = [torch.einsum("nchw,cr->nrhw", F.avg_pool2d(tap, 2), frame) for tap, frame in zip(teacher(crops), frames, strict=True)]
    student = tiny_network(plan).requires_grad_(False)
    torch.manual_seed(0)
    prune.prune(teacher, student, crops, targets)
    for found, target in zip(student(crops), targets, strict=True):
        # What is beyond the border differs: zeros after VGG's normalisation are not those after the student's. So all but exact.
        assert float((found - target)[..., 2:-2, 2:-2].square().sum() / target.square().sum()) < 0.02
