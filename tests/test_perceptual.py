import dataclasses
import functools
import sys

import pytest
import torch
from torch import nn

from fedstyle import params
from fedstyle.errors import ConfigError
from fedstyle.perceptual import FeatureNet, Objective, calibrate, gram, load_features, procedural_images, tiny_network, total_variation
from fedstyle.perceptual import weights as reading

# Convolutions of VGG up to the third tap (Simonyan and Zisserman 2015, table 1, columns D and E), numbered as in torchvision's `features`.
VGG16 = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
VGG19 = {**VGG16, 16: (256, 256)}
PLANS = {"vgg16": VGG16, "vgg19": VGG19}


def random_weights(plan, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for index, (inputs, outputs) in plan.items():
        tensors[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        tensors[f"features.{index}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    return tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One file with random weights for each network, as torchvision would save them."""
    folder = tmp_path_factory.mktemp("weights")
    for name, plan in PLANS.items():
        torch.save(random_weights(plan), folder / f"{name}.pth")
    return folder


def plain():
    """A feature network whose three taps are the image itself."""
    return FeatureNet("plain", [nn.Identity()] * 3)


# ---------------------------------------------------------------------------------------------------------------- losses

Y = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two channels, one row of two pixels: (1, 2) and (3, 4)


def test_gram_by_hand():
    # <a, a> = 1 + 4, <a, b> = 3 + 8, <b, b> = 9 + 16, each divided by the 2 positions.
    assert gram(Y).tolist() == [[[2.5, 5.5], [5.5, 12.5]]]
    assert torch.equal(gram(Y.repeat(1, 1, 3, 2)), gram(Y))  # size does not matter
    assert gram(torch.cat([Y, 2 * Y]))[1].tolist() == [[10.0, 22.0], [22.0, 50.0]]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_slope_of_gram_is_autograds(memory):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 5, 4, 6, generator=generator).to(memory_format=memory).requires_grad_()
    exact = ours.detach().double().requires_grad_()
    flat = exact.flatten(2)
    slope = torch.randn(2, 5, 5, generator=generator)  # not symmetric, as one that a loss gives would be
    gram(ours).backward(slope)
    (flat @ flat.transpose(1, 2) / 24).backward(slope.double())
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)  # fp32's rounding of sums of ten terms


def test_gram_stays_in_fp32_under_autocast():
    tap = torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram(tap), gram(tap.float()))
        assert gram(tap).dtype == torch.float32


def test_total_variation_by_hand():
    # down: 3 - 0 and 5 - 1, mean square (9 + 16) / 2; across: 1 - 0 and 5 - 3, mean square (1 + 4) / 2.
    y = torch.tensor([[[[0.0, 1.0], [3.0, 5.0]]]])
    assert total_variation(y).tolist() == [15.0]
    assert total_variation(torch.cat([y, torch.ones_like(y)])).tolist() == [15.0, 0.0]


def test_relative_losses_by_hand():
    # G = [[2.5, 5.5], [5.5, 12.5]] is the Gram matrix of Y. Against [[2, 4], [4, 10]] the squared gap is
    # 0.25 + 2.25 + 2.25 + 6.25 = 11 and the target's own square 4 + 16 + 16 + 100 = 136; against G itself it is 0.
    # Content (1, 2), (3, 2): the gap is 2² = 4, the content's own square 1 + 4 + 9 + 4 = 18.
    other, own = torch.tensor([[2.0, 4.0], [4.0, 10.0]]), gram(Y)[0]
    content = torch.tensor([[[[1.0, 2.0]], [[3.0, 2.0]]]])
    losses = Objective(plain(), (other, own, other))(Y, content)
    assert losses.content.tolist() == pytest.approx([4 / 18])
    assert losses.style.tolist() == pytest.approx([2 / 3 * 11 / 136])
    assert losses.total.tolist() == pytest.approx([4 / 18 + 2 / 3 * 11 / 136])
    assert losses.numbers() == pytest.approx({"content": 4 / 18, "style": 22 / 408, "total": 4 / 18 + 22 / 408})


def test_weights_by_hand():
    other, own = torch.tensor([[2.0, 4.0], [4.0, 10.0]]), gram(Y)[0]
    objective = Objective(plain(), (other, own, other), content_weight=3.0, style_weight=10.0, layers=(1.0, 3.0, 0.0), tv_weight=0.5)
    losses = dataclasses.replace(objective, tv_weight=0.0)(Y, Y)
    assert losses.content.tolist() == [0.0]
    assert losses.style.tolist() == pytest.approx([11 / 136 / 4])  # (1 * 11/136 + 3 * 0) / (1 + 3 + 0)
    # Two rows, since total variation takes a mean over the pairs that lie above each other.
    tall = Y.repeat(1, 1, 2, 1)  # across: 1 in both channels and rows, down: 0
    assert objective(tall, tall).total.tolist() == pytest.approx([10 * 11 / 136 / 4 + 0.5 * 1.0])


def test_losses_are_one_value_an_image_and_do_not_depend_on_the_batch():
    features, generator = load_features("tiny"), torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 3, 32, 32, generator=generator), torch.rand(3, 3, 32, 32, generator=generator)
    objective = Objective(features, tuple(gram(tap)[0] for tap in features(torch.rand(1, 3, 64, 64, generator=generator))))
    together = objective(y, objective.content_features(x))
    alone = [objective(y[[i]], objective.content_features(x[[i]])) for i in range(3)]
    for key in ("content", "style", "total"):
        assert getattr(together, key).shape == (3,)
        torch.testing.assert_close(getattr(together, key), torch.cat([getattr(row, key) for row in alone]))


def test_scaling_all_features_changes_no_loss():
    # Why one set of weights serves every network: both losses are relative.
    generator = torch.Generator().manual_seed(0)
    x, y, s = (torch.rand(1, 3, 8, 8, generator=generator) for _ in range(3))
    found = []
    for scale in (1.0, 50.0):
        features = plain()
        features.scales.fill_(scale)
        objective = Objective(features, tuple(gram(tap)[0] for tap in features(s)))
        found.append(objective(y, objective.content_features(x)))
    torch.testing.assert_close(dataclasses.astuple(found[0]), dataclasses.astuple(found[1]))


def test_a_black_photo_and_a_black_style_give_finite_losses():
    objective = Objective(plain(), (torch.zeros(3, 3),) * 3)
    losses = objective(torch.full((1, 3, 4, 4), 1e-5), torch.zeros(1, 3, 4, 4))
    assert all(torch.isfinite(value).all() for value in (losses.content, losses.style, losses.total))


# -------------------------------------------------------------------------------------------------------- feature networks


def test_procedural_images_are_fixed_and_in_range():
    images = procedural_images()
    assert images.shape == (4, 3, 128, 128)
    assert images.min() >= 0
    assert images.max() <= 1
    state = torch.random.get_rng_state()
    assert torch.equal(images, procedural_images())
    assert torch.equal(state, torch.random.get_rng_state())


def test_calibrate_gives_every_tap_a_root_mean_square_of_1():
    torch.manual_seed(0)
    for net in (tiny_network(), load_features("tiny")):
        taps = calibrate(net)(procedural_images())
        assert [float(tap.square().mean().sqrt()) for tap in taps] == pytest.approx([1.0, 1.0, 1.0], rel=1e-5)
        before = net.scales.clone()
        assert torch.equal(calibrate(net).scales, before)  # measured anew, not on top


def test_the_embedded_network():
    tiny = load_features("tiny")
    assert load_features("tiny", "") is tiny  # one resident network a process
    assert not tiny.training
    assert not any(value.requires_grad for value in tiny.parameters())
    assert {value.dtype for value in tiny.parameters()} == {torch.float32}
    assert [tuple(tap.shape) for tap in tiny(torch.rand(2, 3, 32, 48))] == [(2, 48, 16, 24), (2, 64, 8, 12), (2, 96, 4, 6)]
    assert len(tiny(torch.rand(1, 3, 32, 32), 2)) == 2
    assert torch.equal(tiny(procedural_images(32), 2)[1], tiny(procedural_images(32))[1])
    # Any even size, also one whose halves are odd: 76 / 2 = 38, 19 and 100 / 2 = 50, 25; the coarsest tap may round either way.
    assert [tuple(tap.shape[2:]) for tap in tiny(torch.rand(1, 3, 76, 100))][:2] == [(38, 50), (19, 25)]


def test_the_scales_do_not_depend_on_the_number_of_threads():
    net, before = tiny_network(), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(calibrate(net).scales.tolist())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_missing_or_damaged_embedded_weights_are_an_error(tmp_path, monkeypatch):
    load = functools.partial(reading._resident.__wrapped__, weights="")
    file = tmp_path / "tiny.safetensors"
    monkeypatch.setattr(reading, "_EMBEDDED", file)
    with pytest.raises(ConfigError, match=r"the embedded weights are missing or damaged \(cannot read .*\): install fedstyle again"):
        load("tiny")
    good = {name: value.half() for name, value in tiny_network().state_dict().items()}
    params.save({name: value for name, value in good.items() if name != "stages.2.head.bias"}, file)
    with pytest.raises(ConfigError, match=r"1 tensors are missing, 'stages.2.head.bias' first\): install"):
        load("tiny")
    params.save(good, file)
    assert load("tiny").name == "tiny"


@pytest.mark.parametrize("name", PLANS)
def test_vgg_is_torchvisions_up_to_the_third_tap(name, files):
    models = pytest.importorskip("torchvision.models.vgg")
    theirs = models.make_layers(models.cfgs["D" if name == "vgg16" else "E"], batch_norm=False)
    found = random_weights(PLANS[name])
    ends = (4, 9, 16 if name == "vgg16" else 18)
    assert {key.removeprefix("features.") for key in found} == {key for key in theirs.state_dict() if int(key.split(".")[0]) < ends[-1]}
    theirs.load_state_dict({key.removeprefix("features."): value for key, value in found.items()}, strict=False)
    ours = load_features(name, str(files / f"{name}.pth"))
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    z = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        for tap, scale, end in zip(ours(x), ours.scales, ends, strict=True):
            torch.testing.assert_close(tap / scale, theirs[:end](z), rtol=1e-4, atol=1e-5)
    rms = [float(tap.square().mean().sqrt()) for tap in ours(procedural_images())]
    assert rms == pytest.approx([1, 1, 1], rel=1e-4)


def test_taps_are_not_changed_by_the_stage_after_them(files):
    net = load_features("vgg16", str(files / "vgg16.pth"))  # its ReLUs work in place
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(net(x, 1)[0], net(x, 3)[0])


def test_a_safetensors_file_and_a_whole_network_are_taken_too(files, tmp_path):
    found = random_weights(VGG16)
    whole = {**found, "features.17.weight": torch.zeros(512, 256, 3, 3), "classifier.0.weight": torch.zeros(4, 4)}
    params.save(whole, tmp_path / "whole.safetensors")
    x = torch.rand(1, 3, 16, 16)
    one, other = (load_features("vgg16", str(path)) for path in (files / "vgg16.pth", tmp_path / "whole.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(one(x), other(x), strict=True))


def refused(name, tensors, tmp_path):
    params.save(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        reading._resident.__wrapped__(name, str(tmp_path / "w.safetensors"))
    return str(caught.value).removeprefix(f"{tmp_path}/w.safetensors: ")


def test_weights_of_another_network_or_incomplete_ones_are_refused(tmp_path):
    end = ": these are no weights of vgg16"
    assert refused("vgg16", random_weights(VGG19), tmp_path) == f"the tensor 'features.16.weight' is not expected{end}"
    assert refused("vgg19", random_weights(VGG16), tmp_path) == "the tensor 'features.16.weight' is missing: these are no weights of vgg19"
    good = random_weights(VGG16)
    without = {key: value for key, value in good.items() if key != "features.14.bias"}
    assert refused("vgg16", without, tmp_path) == f"the tensor 'features.14.bias' is missing{end}"
    assert refused("vgg16", good | {"features.5.bias": torch.zeros(64)}, tmp_path) == f"the tensor 'features.5.bias' has shape (64,){end}"
    bad = good["features.7.bias"].clone()
    bad[3] = float("nan")
    assert "'features.7.bias' holds a value that is not finite" in refused("vgg16", good | {"features.7.bias": bad}, tmp_path)
    assert "'features.0.weight' is missing" in refused("vgg16", {"a": torch.zeros(1)}, tmp_path)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "w.pth").write_text("hello")
    (tmp_path / "w.safetensors").write_text("hello")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, says in [
        ("nowhere.pth", "there is no such file; give a state dict of vgg16"),
        ("w.pth", "is no file of network weights"),
        ("w.safetensors", "is no safetensors file"),
        ("list.pth", "holds no state dict but a list"),
    ]:
        with pytest.raises(ConfigError, match=says):
            load_features("vgg16", str(tmp_path / name))


def test_a_file_with_code_in_it_is_refused(tmp_path):
    torch.save({"features.0.weight": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="is no file of network weights"):
        load_features("vgg16", str(tmp_path / "w.pth"))
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_missing_weights_are_an_error_that_says_how_to_get_them(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in PLANS:
        with pytest.raises(ConfigError, match=rf"weights of {name} are not in torchvision's cache \({tmp_path}.*run `python -c .*{name}\("):
            load_features(name)


def test_weights_in_torchvisions_cache_are_found(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        load_features("vgg19")
    place = str(caught.value).split("cache (")[1].split(")")[0]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(random_weights(VGG19), place)
    assert load_features("vgg19").name == "vgg19"
    reading._resident.cache_clear()  # those weights are no one's


def test_without_torchvision_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedstyle\[vgg\]', or give loss.weights a file"):
        load_features("vgg16")


def test_unknown_networks_and_weights_for_the_embedded_one_are_errors():
    with pytest.raises(ConfigError, match="unknown feature network 'resnet': choose one of tiny, vgg16, vgg19"):
        load_features("resnet")
    with pytest.raises(ConfigError, match="the feature network tiny has its weights embedded"):
        load_features("tiny", "w.pth")


def test_the_loss_has_a_slope_for_the_image_but_none_for_the_network():
    features = load_features("tiny")
    objective = Objective(features, tuple(gram(tap)[0] for tap in features(procedural_images(64)[:1])))
    y = procedural_images(32)[1:2].clone().requires_grad_()
    objective(y, objective.content_features(procedural_images(32)[2:3])).total.sum().backward()
    assert float(y.grad.abs().max()) > 0
    assert all(value.grad is None for value in features.parameters())
