import hashlib

import pytest
import torch
from torch.nn import functional as F

from fedstyle.base import Base
from fedstyle.errors import ConfigError
from fedstyle.net import InstanceNorm, TransformNet, double, initialise, is_norm


def count(arch):
    with torch.device("meta"):
        net = TransformNet(arch)
    sizes = {name: value.numel() for name, value in net.named_parameters()}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if is_norm(name))


def test_the_published_numbers_of_parameters():
    # A convolution has in*out*k*k + out numbers, a norm 2 a channel. The classic network, w channels at full resolution:
    #   down  3*w*81 + w,  w*2w*9 + 2w,  2w*4w*9 + 4w     residual  10 * (4w*4w*9 + 4w)
    #   up    4w*2w*9 + 2w,  2w*w*9 + w                   out  w*3*81 + 3
    #   norms 2 * (w + 2w + 4w + 10*4w + 2w + w) = 100 w
    def by_hand(w):
        down, blocks = 3 * w * 81 + w + 18 * w * w + 2 * w + 72 * w * w + 4 * w, 10 * (144 * w * w + 4 * w)
        return down + blocks + 72 * w * w + 2 * w + 18 * w * w + w + w * 3 * 81 + 3 + 100 * w, 100 * w

    # cnnLite halves the picture at once and has w/2 channels at full resolution:
    #   down  3*2w*49 + 2w,  2w*4w*9 + 4w                 residual  as above
    #   up    4w*2w*9 + 2w,  2w*w/2*9 + w/2               out  w/2*3*25 + 3
    #   norms 2 * (2w + 4w + 10*4w + 2w + w/2) = 97 w
    def lite_by_hand(w):
        down, blocks = 3 * 2 * w * 49 + 2 * w + 72 * w * w + 4 * w, 10 * (144 * w * w + 4 * w)
        return down + blocks + 72 * w * w + 2 * w + 9 * w * w + w // 2 + w // 2 * 75 + 3 + 97 * w, 97 * w

    assert count("cnn") == by_hand(32) == (1_679_235, 3_200)
    assert count("cnnLite") == lite_by_hand(16) == (415_443, 1_552)


def test_norms_are_known_by_their_names():
    classic = [name for name, _ in TransformNet("cnn", width=4).named_parameters()]
    assert len(classic) == 16 * 2 + 15 * 2  # 16 convolutions, all but the last with a norm
    names = [name for name, _ in TransformNet("cnnLite", width=4).named_parameters()]
    assert len(names) == 15 * 2 + 14 * 2
    assert set(classic) - set(names) == {f"down3.{part}" for part in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")}
    assert {name for name in names if is_norm(name)} == {name for name in names if name.split(".")[-2] == "norm"}
    assert "down1.norm.weight" in names
    assert "blocks.4.second.norm.bias" in names
    assert "out.conv.bias" in names


def test_group_norm_is_instance_norm():
    torch.manual_seed(0)
    norm = InstanceNorm(5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 * torch.randn(2, 5, 7, 6) + 1).requires_grad_()
    torch.testing.assert_close(norm(x), F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5), rtol=1e-5, atol=1e-6)
    # By hand: the values 0 and 2 have mean 1 and variance 1, so they become -1 and 1 (but for eps), times scale, plus shift.
    norm = InstanceNorm(1)
    norm.weight.data.fill_(3.0)
    norm.bias.data.fill_(10.0)
    assert norm(torch.tensor([[[[0.0, 2.0]]]])).flatten().tolist() == pytest.approx([7.0, 13.0], abs=1e-4)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_double_is_nearest_upsampling_forward_and_backward(memory):
    torch.manual_seed(0)
    ours = torch.randn(2, 3, 4, 5).to(memory_format=memory).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    a, b = double(ours), F.interpolate(theirs, scale_factor=2.0, mode="nearest")
    assert torch.equal(a, b)
    slope = torch.randn_like(b)
    a.backward(slope)
    b.backward(slope)
    torch.testing.assert_close(ours.grad, theirs.grad)
    # By hand: [1 2] becomes [1 1 2 2] twice, and each input gets the sum of its four slopes.
    assert double(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


@pytest.mark.parametrize("arch", ["cnn", "cnnLite"])
@pytest.mark.parametrize("padding", ["reflect", "zeros", "replicate"])
def test_every_padding_keeps_size_and_range(arch, padding):
    net = TransformNet(arch, padding, width=4)
    initialise(net, 0)
    y = net(torch.rand(2, 3, 12, 20)).detach()
    assert y.shape == (2, 3, 12, 20)
    assert 0 < float(y.min()) < float(y.max()) < 1


def test_the_paddings_differ_at_the_border_only():
    x = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    first = {}
    for padding in ("reflect", "zeros", "replicate"):
        net = TransformNet("cnnLite", padding, width=4)
        initialise(net, 0)
        first[padding] = net.down1.conv(F.pad(x, net.down1.margin, mode=net.down1.mode))
    # Output pixel i sees the photo's pixels 2i - 3 to 2i + 3 of 0 to 159: only 0, 1 and the last, 79, see beyond the border.
    assert first["zeros"].shape[2:] == (80, 80)
    for other in ("zeros", "replicate"):
        assert torch.equal(first["reflect"][..., 2:-1, 2:-1], first[other][..., 2:-1, 2:-1])
        for edge in (slice(0, 1), slice(1, 2), slice(79, 80)):
            assert not torch.equal(first["reflect"][..., edge, :], first[other][..., edge, :])


def test_initialisation_is_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    one = Base.new(width=4, seed=7)
    torch.manual_seed(2)
    assert Base.new(width=4, seed=7).sha256 == one.sha256
    assert Base.new(width=4, seed=8).sha256 != one.sha256
    assert Base.new(width=4, seed=7, padding="zeros").sha256 == one.sha256


def test_initial_values_lie_within_one_over_the_root_of_fan_in():
    weights = Base.new(width=4).weights
    # down1: 3 channels * 7 * 7 = 147 inputs; blocks: 16 * 3 * 3 = 144, so 1/12.
    for name, bound in (("down1.conv", 147**-0.5), ("blocks.0.first.conv", 1 / 12)):
        for part in ("weight", "bias"):
            assert float(weights[f"{name}.{part}"].abs().max()) <= bound
        assert float(weights[f"{name}.weight"].abs().max()) > 0.99 * bound
    assert all(bool((value == (1.0 if name.endswith("weight") else 0.0)).all()) for name, value in weights.items() if is_norm(name))


@pytest.mark.parametrize(("arch", "digest"), [("cnn", "1079aa911d85"), ("cnnLite", "fa8ffa3d8532")])
def test_the_networks_are_what_they_were(arch, digest):
    """A change of names or shapes would shut out every stored base, filter and session."""
    names = "\n".join(f"{name} {tuple(value.shape)}" for name, value in Base.new(arch, width=4).weights.items())
    assert hashlib.sha256(names.encode()).hexdigest()[:12] == digest


def test_unknown_names_are_errors():
    with pytest.raises(ConfigError, match="unknown architecture 'resnet': choose one of cnn, cnnLite"):
        TransformNet("resnet")
    with pytest.raises(ConfigError, match="unknown padding 'circular': choose one of reflect, zeros, replicate"):
        TransformNet("cnn", "circular")
