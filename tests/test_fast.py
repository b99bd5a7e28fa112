"""fedstyle.fast against torch's plain operators in float64: values and gradients."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedstyle import fast
from fedstyle.base import Base
from fedstyle.fast import cells, convolution, layout, norms, winograd
from fedstyle.net import TransformNet, is_norm, portable

MODES = ["reflect", "constant", "replicate"]
SIZES = [(8, 8), (12, 20), (36, 8), (5, 7)]
ROUNDING = 4e-6
"""fp32 rounds to 6e-8 of a number, and sums of some hundred terms of both signs to some 1e-6 of the largest sum."""
WINOGRAD = 1e-5
"""Winograd's matrices add and subtract numbers a few times as large as the result."""

examples = settings(max_examples=15, deadline=None, derandomize=True)
sides = st.integers(2, 14)
channels = st.integers(1, 5)
modes = st.sampled_from(MODES)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planes(x):
    """(H, W, C) as (1, C, H, W)."""
    return x.permute(2, 0, 1)[None]


def to_cells(x):
    """(2 H, 2 W, C) as (H, W, 2, 2, C)."""
    h, w, c = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, c).permute(0, 2, 1, 3, 4)


def plain(x, weight, mode, stride=1):
    """The plain convolution, from (H, W, inputs) to (H', W', outputs)."""
    y = F.conv2d(F.pad(planes(x), (weight.shape[2] // 2,) * 4, mode=mode), weight, stride=stride)
    return y[0].permute(1, 2, 0)


def doubled(x):
    return x.repeat_interleave(2, 0).repeat_interleave(2, 1)


def agree(ours, theirs, tolerance):
    """Equal but for `tolerance` of the largest number."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach()
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def compare(ours, theirs, tensors, tolerance=ROUNDING):
    """Compare two functions of the same tensors, in fp32 and fp64: their values, and the slopes of all tensors and of each one alone."""
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    there = theirs(*exact)
    slope = draw(*there.shape, seed=9)
    wanted = torch.autograd.grad(there, exact, slope.double())
    every = range(len(tensors))
    for trained in [list(every), *([i] for i in every)]:  # [0] alone is what training the norms asks of a convolution
        given_ = [tensor.clone().requires_grad_(i in trained) for i, tensor in enumerate(tensors)]
        here = ours(*given_)
        agree(here, there, tolerance)
        found = torch.autograd.grad(here, [given_[i] for i in trained], slope)
        for i, one in zip(trained, found, strict=True):
            agree(one, wanted[i], tolerance)


# ------------------------------------------------------------------------------------------------------------ layer by layer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_convolve3(size, mode):
    compare(lambda x, w: fast.convolve3(x, w, mode), lambda x, w: plain(x, w, mode), [draw(*size, 3), draw(5, 3, 3, 3)], WINOGRAD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kernel", "stride", "size"), [(9, 1, (8, 8)), (7, 2, (12, 20)), (3, 2, (36, 8)), (3, 2, (5, 7)), (3, 1, (5, 7))])
def test_convolve(kernel, stride, size, mode):
    for inputs, outputs in ((3, 4), (4, 2)):  # the weight's slope gathers around whichever has fewer channels
        tensors = [draw(*size, inputs), draw(outputs, inputs, kernel, kernel)]
        compare(lambda x, w: fast.convolve(x, w, stride, mode), lambda x, w: plain(x, w, mode, stride), tensors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (9, 4)])
def test_double_and_convolve(size, mode):
    tensors = [draw(*size, 3), draw(2, 3, 3, 3)]
    compare(lambda x, w: fast.double_and_convolve(x, w, mode, cells=False), lambda x, w: plain(doubled(x), w, mode), tensors)
    compare(lambda x, w: fast.double_and_convolve(x, w, mode, cells=True), lambda x, w: to_cells(plain(doubled(x), w, mode)), tensors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kernel", "size"), [(9, (10, 12)), (7, (8, 14)), (5, (8, 8)), (3, (4, 6))])
def test_convolve_cells(kernel, size, mode):
    compare(
        lambda x, w, b: fast.convolve_cells(to_cells(x), w, b, mode),
        lambda x, w, b: to_cells(plain(x, w, mode) + b),
        [draw(*size, 2), draw(3, 2, kernel, kernel), draw(3)],
    )


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 3), (8, 8, 3), (12, 20, 4), (5, 7, 2), (4, 3, 2, 2, 5)])
def test_norm(shape, relu, large, monkeypatch):
    if large:
        monkeypatch.setattr(norms, "LARGE", 0)

    def theirs(x, weight, bias):
        flat = x.reshape(1, -1, shape[-1]).transpose(1, 2)
        y = F.instance_norm(flat, weight=weight, bias=bias, eps=1e-5).transpose(1, 2).reshape(shape)
        return F.relu(y) if relu else y

    channels = shape[-1]
    tensors = [3 * draw(*shape) + 1, draw(channels, seed=1), draw(channels, seed=2)]
    # The slope is a difference from two means, each as large as itself: some digits are lost where a channel has only 4 numbers.
    compare(lambda x, w, b: fast.norm(x, w, b, relu=relu), theirs, tensors, 2e-5)


def test_norm_of_a_large_picture():
    """PyTorch's own kernel is off by 1e-2 here, as it adds up millions of numbers in single precision."""
    x = draw(2000, 1500, 4) + 2
    flat = x.double().flatten(0, 1)
    exact = (flat - flat.mean(0)) / (flat.var(0, correction=0) + 1e-5).sqrt()
    assert (fast.norm(x, torch.ones(4), torch.zeros(4), relu=False).flatten(0, 1) - exact).abs().max() < 1e-5


def test_norm_by_hand():
    # The numbers 0 and 2 have mean 1 and variance 1, so that they become -1 and 1 (but for eps), times 3, plus 1: -2 and 4.
    x, weight, bias = torch.tensor([[[0.0], [2.0]]]), torch.tensor([3.0]), torch.tensor([1.0])
    assert fast.norm(x, weight, bias, relu=False).flatten().tolist() == pytest.approx([-2.0, 4.0], abs=1e-4)
    assert fast.norm(x, weight, bias, relu=True).flatten().tolist() == pytest.approx([0.0, 4.0], abs=1e-4)
    # Without variance only the shift remains, and what the mean rounds off, times 3 / sqrt(eps) = 950: up to 950 * 2.4e-7.
    assert fast.norm(torch.full((3, 3, 1), 7.0), weight, bias, relu=True).flatten().tolist() == pytest.approx([1.0] * 9, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_many_blocks_are_one(mode, monkeypatch):
    """Pictures of this size are done at once; large ones in blocks of rows."""
    monkeypatch.setattr(winograd, "TILES", 1)
    monkeypatch.setattr(convolution, "COLUMNS", 1)
    test_convolve3((13, 6), mode)
    test_convolve(3, 2, (9, 11), mode)
    test_double_and_convolve((5, 3), mode)


# --------------------------------------------------------------------------------------------------------------- bfloat16

HALF = 2**-7
"""bfloat16 rounds to 2^-9 of a number: an input, a weight and the result make 3 of these, of which a sum keeps less."""


def test_bfloat16_is_the_same_but_for_rounding():
    """Values, and slopes of a picture of bfloat16 and of a weight of fp32; numbers that bfloat16 holds exactly round only at the end."""
    x, weight, bias = (tensor.bfloat16().float() for tensor in (draw(10, 12, 4), draw(6, 4, 3, 3, seed=1), draw(3)))
    cases = [
        (lambda x, w: fast.convolve3(x, w, "reflect"), lambda x, w: plain(x, w, "reflect"), (x, weight)),
        (lambda x, w: fast.convolve(x, w, 2, "constant"), lambda x, w: plain(x, w, "constant", 2), (x, weight)),
        (
            lambda x, w: fast.double_and_convolve(x, w, "replicate", cells=False),
            lambda x, w: plain(doubled(x), w, "replicate"),
            (x, weight),
        ),
        (
            lambda x, w: fast.convolve_cells(to_cells(x), w, bias, "reflect"),
            lambda x, w: to_cells(plain(x, w, "reflect") + bias),
            (x, weight[:3]),
        ),
    ]
    for ours, theirs, (picture, kernel) in cases:
        one, two = picture.bfloat16().requires_grad_(), kernel.clone().requires_grad_()
        exact = [tensor.double().requires_grad_() for tensor in (picture, kernel)]
        here, there = ours(one, two), theirs(*exact)
        agree(here, there, HALF)
        slope = draw(*there.shape, seed=9).bfloat16()
        found = torch.autograd.grad(here, (one, two), slope.to(here.dtype))
        assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.float32]
        for ours_, theirs_ in zip(found, torch.autograd.grad(there, exact, slope.double()), strict=True):
            agree(ours_, theirs_, HALF)


@pytest.mark.parametrize("large", [False, True])
def test_a_norm_of_bfloat16_has_moments_of_fp32(large, monkeypatch):
    """A thousand numbers of mean 2 would add up to 2^8 or so in bfloat16 and stop there: 512 + 2 rounds to 512."""
    monkeypatch.setattr(norms, "LARGE", 0 if large else norms.LARGE)
    x = (draw(40, 40, 3) + 2).bfloat16()
    y = fast.norm(x, torch.ones(3), torch.zeros(3), relu=False)
    flat = x.double().flatten(0, 1)
    assert y.dtype == torch.bfloat16
    agree(y.flatten(0, 1), (flat - flat.mean(0)) / (flat.var(0, correction=0) + 1e-5).sqrt(), 2**-8)


@pytest.mark.parametrize("arch", ["cnn", "cnnLite"])
def test_a_network_under_autocast_is_that_of_fp32_but_for_a_level_or_two(arch, monkeypatch):
    monkeypatch.setattr(fast, "LEAST", 0)
    net = Base.new(arch, seed=1, width=8).net()
    x = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    slopes = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = net(x)
        assert y.dtype == torch.float32
        slopes.append((y.detach(), torch.autograd.grad(y.square().sum(), net.out.conv.weight)[0]))
    (exact, there), (rounded, here) = slopes
    assert 0 < float((exact - rounded).abs().max()) < 2 / 255
    assert float((there - here).norm() / there.norm()) < 0.02


def test_small_pictures_under_autocast_are_computed_in_fp32():
    net = Base.new("cnnLite", seed=0, width=4).net()
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        under = net(x)
    assert torch.equal(under, net(x))


# -------------------------------------------------------------------------------------------------------------- any sizes


@examples
@given(h=sides, w=sides, inputs=channels, outputs=channels, mode=modes)
def test_convolve3_at_any_size(h, w, inputs, outputs, mode):
    tensors = [draw(h, w, inputs), draw(outputs, inputs, 3, 3)]
    compare(lambda x, weight: fast.convolve3(x, weight, mode), lambda x, weight: plain(x, weight, mode), tensors, WINOGRAD)


@examples
@given(h=sides, w=sides, inputs=channels, outputs=channels, stride=st.integers(1, 3), mode=modes)
def test_convolve_at_any_size(h, w, inputs, outputs, stride, mode):
    tensors = [draw(h, w, inputs), draw(outputs, inputs, 3, 3)]
    compare(lambda x, weight: fast.convolve(x, weight, stride, mode), lambda x, weight: plain(x, weight, mode, stride), tensors)


@examples
@given(h=sides, w=sides, step=st.sampled_from([1, 2]), margin=st.integers(1, 2), mode=modes)
def test_folding_is_the_transpose_of_surrounding(h, w, step, margin, mode):
    # <surround(x), g> = <x, fold(g)> for all x and g; in whole numbers, so that nothing rounds.
    h, w = h + 1, w + 1
    x = draw(h, w, step, step, 2).mul(8).round()
    around = layout.surround(x, margin, mode)
    k = -(-margin // step)
    assert around.shape == (h + 2 * k, w + 2 * k, step, step, 2)
    g = torch.zeros_like(around)
    inside = layout.surround(torch.ones_like(x), margin, "replicate")  # whole cells may reach beyond the margin: there lies no pixel
    g.copy_(draw(*around.shape, seed=1).mul(8).round() * inside)
    assert float((around * g).sum()) == float((x * layout.fold(g.clone(), margin, mode)).sum())


def test_surround_by_hand():
    # One row 1 2 3 of cells of one pixel with a margin of 2: reflected about its ends, repeated, or zeros.
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1, 1).repeat(3, 1, 1, 1, 1)
    for mode, wanted in (("reflect", [3, 2, 1, 2, 3, 2, 1]), ("replicate", [1, 1, 1, 2, 3, 3, 3]), ("constant", [0, 0, 1, 2, 3, 0, 0])):
        assert layout.surround(row, 2, mode)[3].flatten().tolist() == wanted
    assert layout.surround(row, 1, "replicate", right=2, below=1)[:, :, 0, 0, 0].tolist() == [*[[1, 1, 2, 3, 3, 0, 0]] * 5, [0] * 7]


# ---------------------------------------------------------------------------------------------------- the constant matrices


def test_winograds_matrices_by_hand():
    # For the points 0, 1, -1, 2, -2 and infinity these are those of Lavin and Gray 2016, section 4.3. Rows of G are powers of a point over
    # the product of its distances from the others: at 1, 1 * 2 * -1 * 3 = -6. Rows of B are the coefficients, the constant first, of the
    # polynomial that vanishes at all other points: at 0, (x² - 1) (x² - 4) = 4 - 5 x² + x⁴; at infinity x times that.
    forth, kernel, back = winograd._cook(1.0, 2.0)
    assert forth.tolist() == [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    by_hand = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    torch.testing.assert_close(24 * kernel, torch.tensor(by_hand, dtype=torch.float64))
    assert back[:5].tolist() == [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
    ]
    assert back[5].tolist() == [0, 4, 0, -5, 0, 1]


@pytest.mark.parametrize(("a", "b"), [(1.0, 2.0), (2 / 3, 3 / 2)])
def test_winograds_matrices_give_the_correlation(a, b):
    # A ((G g) * (B d)) is linear in g and in d, so its value on unit vectors says all: output k takes g[m] d[n] once where n = k + m.
    forth, kernel, back = winograd._cook(a, b)
    wanted = torch.tensor([[[float(n == k + m) for n in range(6)] for m in range(3)] for k in range(4)], dtype=torch.float64)
    torch.testing.assert_close(torch.einsum("ki,im,in->kmn", forth, kernel, back), wanted, rtol=0, atol=1e-12)


def test_doubling_by_hand():
    # The left pixel of a cell sees, of the doubled row, the right pixel of the cell before it and both of its own: taps 0, and 1 with 2.
    numbers = torch.arange(1.0, 10.0)  # 1 2 3 / 4 5 6 / 7 8 9
    first = (cells._doubling() @ numbers).view(4, 2, 2)
    assert first[0].tolist() == [[1, 2 + 3], [4 + 7, 5 + 6 + 8 + 9]]
    assert first[3].tolist() == [[1 + 2 + 4 + 5, 3 + 6], [7 + 8, 9]]


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_spreading_puts_each_tap_once_into_each_pixels_kernel(kernel):
    spread = cells._spread(kernel)
    assert spread.sum(0).tolist() == [4.0] * kernel**2
    assert set(spread.unique().tolist()) == {0.0, 1.0}
    assert spread.sum(1).max() == 1


def test_constants_made_while_stylising_serve_training_too(monkeypatch):
    monkeypatch.setattr(fast, "LEAST", 0)
    for function in (winograd._winograd, cells._doubling, cells._spread):
        function.cache_clear()
    net = Base.new("cnnLite", seed=0, width=4).net()
    with torch.inference_mode():
        net(torch.rand(1, 3, 8, 8))
    net(torch.rand(1, 3, 8, 8)).sum().backward()


# ------------------------------------------------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("least", [0, fast.LEAST], ids=["fast", "plain"])
@pytest.mark.parametrize("arch", ["cnn", "cnnLite"])
@pytest.mark.parametrize(("padding", "size"), [("reflect", (8, 8)), ("zeros", (12, 20)), ("replicate", (36, 20))])
def test_a_network_is_the_portable_one(arch, padding, size, least, monkeypatch):
    monkeypatch.setattr(fast, "LEAST", least)
    net = Base.new(arch, seed=1, width=4, padding=padding).net()
    exact = portable(copy.deepcopy(net).double())
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    for trained in (lambda name: True, is_norm):
        names = [name for name, _ in net.named_parameters() if trained(name)]
        slopes = []
        for one, photo in ((net, x), (exact, x.double())):
            values = dict(one.named_parameters())
            for name, value in values.items():
                value.requires_grad_(name in names)
            y = one(photo)
            found = torch.autograd.grad(y.square().sum(), [values[name] for name in names], allow_unused=True)
            slopes.append((y.detach(), dict(zip(names, found, strict=True))))
        (y, ours), (plain_y, theirs) = slopes
        assert float((y - plain_y).abs().max()) < 1e-5  # 15 layers' roundings, of pixels in 0..1
        tolerance = 1e-3 if size == (8, 8) else 1e-4  # norms of blocks of 2 x 2 pixels magnify what rounds
        largest = max(float(value.abs().max()) for value in theirs.values())
        for name in names:
            if name.endswith("conv.bias") and name != "out.conv.bias":
                assert ours[name] is None  # the norm undoes it
                assert float(theirs[name].abs().max()) < 1e-9 * largest
            else:
                assert float((ours[name] - theirs[name]).abs().max()) < tolerance * largest, name


def test_usable():
    x = torch.zeros(2, 3, 100, 100)  # 10,000 pixels, and ten times as many with channels
    assert fast.usable(x, 10)
    assert not fast.usable(x, 9)
    assert not fast.usable(x.double(), 10)
    assert not fast.usable(x.to(torch.bfloat16), 10)
    assert not fast.usable(x.to("meta"), 10)


def test_what_fast_is_not_for_takes_the_plain_operators(monkeypatch):
    monkeypatch.setattr(TransformNet, "picture", None)  # none of these can call it
    monkeypatch.setattr(fast, "LEAST", 0)
    net = Base.new("cnnLite", seed=0, width=4).net()
    assert net.double()(torch.rand(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
