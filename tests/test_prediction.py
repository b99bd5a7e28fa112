import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedstyle import Base, prediction
from fedstyle.net import TransformNet, is_norm
from fedstyle.perceptual import load_features
from fedstyle.prediction import PREFIX, Predictor, is_constant, is_predictor, look_at, new_predictor, read_style, variants


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Bare(nn.Module):
    """A feature network whose only tap is the picture."""

    def __init__(self):
        super().__init__()
        self.scales = torch.ones(1)

    def forward(self, x):
        return [x]


@pytest.fixture
def few(monkeypatch):
    """Codes are measured on the pictures of one painter only, which is quick."""
    monkeypatch.setattr(prediction, "FAMILIES", ("mosaic",))


# ------------------------------------------------------------------------------------------------------------------- a look


def test_a_look_by_hand():
    # Channels 0 0 1 1, 0 0 0 0 and 1 1 1 1: means 1/2, 0, 1; variance of the first (4 * 1/4) / 3 = 1/3, of the others 0.
    # Gram matrix, a mean over 4 positions: first with itself 2/4, with the third 2/4, third with itself 1, all else 0.
    pixels = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    look = look_at(Bare(), pixels)
    assert look.code.tolist() == pytest.approx([0.5, 0, 1, math.sqrt(1 / 3), 0, 0])
    assert look.targets[0].tolist() == [[0.5, 0, 0.5], [0, 0, 0], [0.5, 0, 1]]


def test_one_network_may_set_the_targets_and_another_read_the_code():
    pixels, tiny = draw(1, 3, 32, 32), load_features("tiny")
    both = look_at(Bare(), pixels, tiny)
    assert [tuple(target.shape) for target in both.targets] == [(3, 3)]
    alone = look_at(tiny, pixels)
    assert torch.equal(both.code, alone.code)
    assert len(alone.code) == 2 * sum(len(target) for target in alone.targets)


def test_a_style_is_read_whole_mirrored_and_by_its_corners():
    # Black on the left, white on the right, 64 px high: parts of 40 px (0.7 x 64 = 44.8) and of 48 (54.4), at two heights each, and means
    # of their columns: whole and mirrored 1/2; corners of 40 hold 0 to 39 or 24 to 63: 8/40 and 32/40 white, those of 48 16/48 and 32/48.
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[..., 32:] = 1
    code = read_style(Bare(), pixels)
    deviations = [0.5, 0.5] + [math.sqrt(part * (1 - part)) for part in (0.2, 0.8, 0.2, 0.8, 1 / 3, 2 / 3, 1 / 3, 2 / 3)]
    assert code[:3].tolist() == pytest.approx([0.5] * 3)
    assert code[3:].tolist() == pytest.approx([sum(deviations) / 10] * 3, rel=1e-3)  # the network's is over n - 1
    small = draw(1, 3, 32, 40)  # no part of it is large enough to be read alone: the mirror image at most
    assert torch.allclose(read_style(Bare(), small), look_at(Bare(), small).code, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- the variants


@pytest.mark.parametrize(("height", "width", "least", "most"), [(600, 400, 128, 307), (64, 96, 48, 76)])
def test_variants_are_pictures_of_a_sensible_size(height, width, least, most):
    # A part has an edge of 160 to 256 pixels, or the whole shorter side, and is shown at 0.8 to 1.2 of it.
    style = draw(1, 3, height, width)
    made = list(variants(style, 12, 3))
    for one in made:
        assert one.shape[:2] == (1, 3)
        assert one.shape[2] == one.shape[3]
        assert least <= one.shape[2] <= most
        assert one.shape[2] % 8 == 0
        assert 0 <= float(one.min()) < float(one.max()) <= 1
    assert len({one.shape[2] for one in made}) > 1
    assert sum(any(torch.equal(a, b) for b in made[:i]) for i, a in enumerate(made)) <= 1  # a small image has few parts


def test_variants_are_a_function_of_style_and_seed():
    style = draw(1, 3, 80, 72)
    torch.manual_seed(1)
    first = list(variants(style, 4, 7))
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, variants(style, 4, 7), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[:2], variants(style, 2, 7), strict=True))
    assert not torch.equal(first[0], next(variants(style, 1, 8)))
    assert list(variants(style, 0, 7)) == []


# -------------------------------------------------------------------------------------------------------------- the predictor


def test_names_and_shapes_are_what_they_were():
    """A change would shut out every stored base that predicts."""
    shapes = {name: tuple(value.shape) for name, value in Predictor(416, 1552).named_parameters()}
    assert shapes == {
        "centre": (416,),
        "spread": (416,),
        "hidden.weight": (64, 416),
        "hidden.bias": (64,),
        "out.weight": (1552, 64),
        "out.bias": (1552,),
    }
    names = [f"{PREFIX}{name}" for name in shapes]
    assert all(map(is_predictor, names))
    assert not any(map(is_norm, names))
    assert [name for name in names if is_constant(name)] == ["predictor.centre", "predictor.spread"]
    assert not is_predictor("down1.conv.weight")


def test_offsets_by_hand():
    # Code 3 2 with centre 1 2 and spread 2 1 is 1 0; the first hidden unit adds both, tanh(1) = 0.761594, the second takes the negative.
    # Out: (10 - 100) * 0.761594 + 0.5 = -68.0435. A code 101 2 would be 50 deviations off and counts as 3: (10 - 100) * 0.995055 + 0.5.
    predictor = Predictor(2, 1)
    with torch.no_grad():
        for value in predictor.parameters():
            value.zero_()
        predictor.centre.copy_(torch.tensor([1.0, 2.0]))
        predictor.spread.copy_(torch.tensor([2.0, 1.0]))
        predictor.hidden.weight[:2] = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        predictor.out.weight[0, :2] = torch.tensor([10.0, 100.0])
        predictor.out.bias[0] = 0.5
        assert predictor(torch.tensor([3.0, 2.0])).tolist() == pytest.approx([-68.0435])
        assert predictor(torch.tensor([101.0, 2.0])).tolist() == pytest.approx([-89.0549])
        assert predictor(torch.tensor([-99.0, 2.0])).tolist() == pytest.approx([90.0549])


def test_an_untrained_predictor_gives_the_bases_own_norms(few):
    base = Base.new(width=4, predictor=load_features("tiny"))
    plain = Base.new(width=4)
    assert base.predicts
    assert not plain.predicts
    code = look_at(load_features("tiny"), draw(1, 3, 48, 48)).code
    for weights in (base.transform(code), base.transform(), plain.transform(code)):
        assert set(weights) == set(plain.weights)
        assert all(torch.equal(value, plain.weights[name]) for name, value in weights.items())


def test_codes_are_brought_to_mean_0_and_about_deviation_1(few):
    # (code - mean) / (deviation + 0.05) has mean 0 and deviation d / (d + 0.05), over the pictures that it was measured on.
    from fedstyle.paint import paint

    made = new_predictor(TransformNet("cnnLite", width=4), load_features("tiny"), 0)
    codes = []
    for seed in range(4):
        picture = torch.tensor(list(paint("mosaic", side=192, seed=seed).tobytes())).view(1, 192, 192, 3).permute(0, 3, 1, 2)
        codes.append(look_at(load_features("tiny"), picture.float() / 255).code)
    codes = torch.stack(codes)
    white = (codes - made["predictor.centre"]) / made["predictor.spread"]
    torch.testing.assert_close(white.mean(0), torch.zeros(white.shape[1]), rtol=0, atol=1e-4)
    deviation = codes.std(0)
    torch.testing.assert_close(white.std(0), deviation / (deviation + 0.05), rtol=1e-3, atol=1e-4)


def test_a_new_predictor_is_a_function_of_the_seed_alone(few):
    net, tiny = TransformNet("cnnLite", width=4), load_features("tiny")
    first = new_predictor(net, tiny, 0)
    threads = torch.get_num_threads()
    torch.manual_seed(9)
    torch.set_num_threads(2)
    try:
        again = new_predictor(net, tiny, 0)
        assert torch.get_num_threads() == 2  # it measures on one, and gives back what it found
    finally:
        torch.set_num_threads(threads)
    assert list(again) == list(first)
    assert all(torch.equal(value, first[name]) for name, value in again.items())
    other = new_predictor(net, tiny, 1)
    assert {name for name, value in other.items() if not torch.equal(value, first[name])} == {"predictor.hidden.weight"}
    bound = 1 / math.sqrt(first["predictor.hidden.weight"].shape[1])
    assert 0.99 * bound < float(first["predictor.hidden.weight"].abs().max()) <= bound


def test_the_painters_that_codes_are_measured_on_are_known():
    from fedstyle.paint import PAINTERS

    assert set(prediction.FAMILIES) <= set(PAINTERS)


# --------------------------------------------------------------------------------------------------------------- the network


def test_norms_change_with_the_code_and_nothing_else_does(predictive):
    codes = [look_at(load_features("tiny"), draw(1, 3, 48, 48, seed=seed)).code for seed in (0, 1)]
    one, other = (predictive.transform(code) for code in codes)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {name for name in one if is_norm(name)}
    assert not any(map(is_predictor, one))
    # Offsets lie in the order of the network's own parameters: the first ones are those of down1's scale.
    net = predictive.net()
    offsets = net.predictor(codes[0])
    assert torch.equal(one["down1.norm.weight"], predictive.weights["down1.norm.weight"] + offsets[:8])
    assert len(offsets) == sum(value.numel() for name, value in one.items() if is_norm(name))


def test_with_a_code_it_is_the_plain_network_that_holds_those_norms(predictive):
    net, code = predictive.net(), look_at(load_features("tiny"), draw(1, 3, 48, 48)).code
    x, slope = draw(2, 3, 16, 20), draw(2, 3, 16, 20, seed=1)
    plain = TransformNet("cnnLite", width=4)
    plain.load_state_dict(predictive.transform(code))
    y, expected = net(x, code), plain(x)
    assert torch.equal(y, expected)
    assert torch.equal(net(x), Base("cnnLite", "reflect", predictive.transform()).net()(x))
    y.backward(slope)
    expected.backward(slope)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(net.get_parameter(name).grad, value.grad, rtol=1e-5, atol=1e-7)
    # An offset is added to its norm, so that the last bias has the slopes of all norms, one after the other.
    norms = torch.cat([value.grad for name, value in plain.named_parameters() if is_norm(name)])
    torch.testing.assert_close(net.predictor.out.bias.grad, norms, rtol=1e-5, atol=1e-7)
    assert float(net.predictor.hidden.weight.grad.abs().max()) > 0
    assert net.predictor.centre.grad is None


def test_a_code_far_from_all_that_was_seen_gives_bounded_norms(predictive):
    code = torch.full((len(predictive.weights["predictor.centre"]),), 1e6)
    norms = predictive.transform(code)
    assert all(value.isfinite().all() for value in norms.values())
    same = predictive.transform(code * 10)
    assert all(torch.equal(value, same[name]) for name, value in norms.items())


def test_a_predictor_alone_can_learn_a_styles_norms(predictive):
    # Least squares on the norms themselves: those predicted come near the ones asked for, while the network rests.
    net, code = predictive.net(), look_at(load_features("tiny"), draw(1, 3, 48, 48)).code
    adam = torch.optim.Adam(net.predictor.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = F.mse_loss(torch.cat(list(net.norms(code).values())), torch.full((388,), 0.5))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
