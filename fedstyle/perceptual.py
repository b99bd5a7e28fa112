"""Feature networks and the perceptual losses: content loss (Johnson et al. 2016) and Gram style loss (Gatys et al. 2015).

Both losses are relative, so that one set of weights serves every feature network and no user's style dominates an average: the content
loss is ‖F - F0‖² / ‖F0‖² at one tap, the style loss the weighted mean over taps of ‖G - Gs‖² / ‖Gs‖².
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle.errors import ConfigError, ParamsError
from fedstyle.params import check_alike, load

FeatureName = Literal["tiny", "vgg16", "vgg19"]
FEATURES: tuple[FeatureName, ...] = get_args(FeatureName)

# Indices into torchvision's `features` of the ReLUs that are tapped, fine to coarse, and the convolutions up to the last of them.
_VGG_TAPS = {"vgg16": (3, 8, 15), "vgg19": (3, 8, 17)}
_VGG_PLAN: dict[str, tuple[int | str, ...]] = {
    "vgg16": (64, 64, "pool", 128, 128, "pool", 256, 256, 256),
    "vgg19": (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256),
}
_EMBEDDED = Path(__file__).parent / "weights" / "tiny.safetensors"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNet(nn.Module):
    """A frozen network that turns (N, 3, H, W) RGB in [0, 1] into three taps, fine to coarse, each of root mean square 1.

    The taps are scaled by constants measured on fixed procedural images (`calibrate`), never on a user's.
    """

    scales: Tensor

    def __init__(self, name: str, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.stages = nn.ModuleList(stages)
        self.register_buffer("scales", torch.ones(len(stages)))
        self.requires_grad_(False)

    def forward(self, x: Tensor, depth: int = 3) -> list[Tensor]:
        """The first `depth` taps of a batch of images."""
        taps = []
        for stage, scale in zip(self.stages[:depth], self.scales, strict=False):
            x = stage(x)
            taps.append(x * scale)
        return taps


CONTENT_TAP = 1
"""The tap whose activations the content loss compares: the middle one (relu2_2 in VGG)."""


def procedural_images(side: int = 128) -> Tensor:
    """Four fixed images (4, 3, side, side) in [0, 1]: ramps, colour waves, noise at several scales, and hard edges."""
    generator = torch.Generator().manual_seed(20161116)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    ramps = torch.stack([x, y, (x + y) / 2])
    waves = torch.stack([torch.sin(6.283 * (f * x + g * y)) / 2 + 0.5 for f, g in ((3, 1), (7, 5), (2, 11))])
    noise = torch.zeros(3, side, side)
    for cells in (4, 16, 64):
        grid = torch.rand(1, 3, cells, cells, generator=generator)
        noise += F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)[0] / 3
    edges = ((x * 6).floor() + (y * 6).floor()).remainder(2).expand(3, -1, -1) * torch.tensor([0.9, 0.5, 0.2])[:, None, None]
    return torch.stack([ramps, waves, noise, edges])


@torch.no_grad()
def calibrate(net: FeatureNet) -> FeatureNet:
    """Scale each tap to a root mean square of 1 on the procedural images; on one thread, for the sums' bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net.scales.fill_(1.0)
        for index, tap in enumerate(net(procedural_images())):
            net.scales[index] = 1 / tap.square().mean().sqrt()
    finally:
        torch.set_num_threads(threads)
    return net


class _Normalise(nn.Module):
    """Shift and scale RGB in [0, 1] as the VGG networks expect it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]


def _vgg(name: str) -> FeatureNet:
    """A VGG network up to its third tap, without weights; its parameters bear torchvision's names `features.N.weight`."""
    layers: list[nn.Module] = []
    channels = 3
    for step in _VGG_PLAN[name]:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU(inplace=True)]
            channels = step
    starts = (0, *(tap + 1 for tap in _VGG_TAPS[name]))
    stages = [nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise(starts)]
    stages[0].insert(0, _Normalise())
    return FeatureNet(name, stages)


class TinyStage(nn.Module):
    """Convolutions of which the first halves the size; a 1x1 head reads VGG's tap off them."""

    def __init__(self, inputs: int, channels: int, rank: int, kernel: int, depth: int) -> None:
        super().__init__()
        first = nn.Conv2d(inputs, channels, kernel, stride=2, padding=1)
        self.body = nn.ModuleList([first, *(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth - 1))])
        self.head = nn.Conv2d(channels, rank, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, channels, H/2, W/2); the head is applied by the network."""
        for conv in self.body:
            x = F.relu_(conv(x))
        return x


class TinyNet(FeatureNet):
    """The embedded network: each stage's head gives VGG-16's tap in a rotated frame of lower rank, at half its resolution."""

    def forward(self, x: Tensor, depth: int = 3) -> list[Tensor]:
        """The first `depth` taps of a batch of images."""
        taps = []
        x = x.contiguous(memory_format=torch.channels_last)  # a sixth faster on a CPU: convolutions need no repacking
        for stage, scale in zip(self.stages[:depth], self.scales, strict=False):
            assert isinstance(stage, TinyStage)
            x = stage(x)
            taps.append(stage.head(x) * scale)
        return taps


def tiny_network() -> TinyNet:
    """The network `tiny` without its weights: 32, 64 and 128 channels; 48, 64 and 96 principal directions of VGG-16's taps."""
    plan = ((3, 32, 48, 4, 2), (32, 64, 64, 3, 3), (64, 128, 96, 3, 3))
    net = TinyNet("tiny", [TinyStage(*stage) for stage in plan])
    return net.to(memory_format=torch.channels_last)


def load_features(name: str, weights: str = "") -> FeatureNet:
    """One resident feature network a process, by name: `tiny` (embedded), `vgg16` or `vgg19`.

    `weights` is a file for the VGG networks, a safetensors or a torch state dict with torchvision's names, cut off after relu3 or whole;
    empty takes the ones in torchvision's cache. Raises ConfigError for an unknown name, and for weights that are absent (with how to get
    them), of another network, or incomplete.
    """
    return _resident(name, weights)


@functools.lru_cache(maxsize=4)
def _resident(name: str, weights: str) -> FeatureNet:
    if name not in FEATURES:
        raise ConfigError(f"unknown feature network {name!r}: choose one of {', '.join(FEATURES)}")
    if name == "tiny":
        if weights:
            raise ConfigError(f"loss.weights = {weights!r}: the feature network tiny has its weights embedded; leave weights empty")
        tiny = tiny_network()
        try:
            embedded = load(_EMBEDDED)
            check_alike(embedded, tiny.state_dict(), str(_EMBEDDED))
        except ParamsError as error:
            raise ConfigError(f"the embedded weights are missing or damaged ({error}): install fedstyle again") from None
        tiny.load_state_dict({name: value.float() for name, value in embedded.items()})
        return tiny.eval()
    net = _vgg(name)
    given = _weights(name, weights)
    index = [i for i, step in enumerate(_flat(net)) if isinstance(step, nn.Conv2d)]
    for i in range(len(_flat(net)) + 1):
        if i not in index and f"features.{i}.weight" in given:
            raise ConfigError(f"{weights or name}: the tensor 'features.{i}.weight' is not expected: these are no weights of {name}")
    for i in index:
        conv = _flat(net)[i]
        for part in ("weight", "bias"):
            key = f"features.{i}.{part}"
            value, target = given.get(key), getattr(conv, part)
            if value is None:
                wrong = "is missing"
            elif value.shape != target.shape:
                wrong = f"has shape {tuple(value.shape)}"
            elif not value.isfinite().all():
                wrong = "holds a value that is not finite"
            else:
                target.copy_(value)
                continue
            raise ConfigError(f"{weights or name}: the tensor {key!r} {wrong}: these are no weights of {name}")
    return calibrate(net).eval()


def _flat(net: FeatureNet) -> list[nn.Module]:
    return [layer for stage in net.stages for layer in stage.children() if not isinstance(layer, _Normalise)]


def _weights(name: str, path: str) -> dict[str, Tensor]:
    if path:
        if not Path(path).is_file():
            raise ConfigError(f"loss.weights = {path!r}: there is no such file; give a state dict of {name} with torchvision's names")
        if Path(path).suffix == ".safetensors":
            try:
                return load(Path(path))
            except ParamsError as error:
                raise ConfigError(f"loss.weights: {error}") from None
        return _state_dict(Path(path))
    try:
        from torchvision.models import get_model_weights
    except ImportError:
        raise ConfigError(
            f"the feature network {name} comes with torchvision: pip install 'fedstyle[vgg]', or give loss.weights a file"
        ) from None
    choices = get_model_weights(name)
    choice = getattr(choices, "IMAGENET1K_FEATURES", None) or choices.IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(choice.url).name
    if not cached.is_file():
        raise ConfigError(
            f"the weights of {name} are not in torchvision's cache ({cached}): on a machine with internet access run "
            f"`python -c \"import torchvision; torchvision.models.{name}(weights='{choice.name}')\"`, or give loss.weights a file"
        )
    return _state_dict(cached)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)  # weights_only: tensors, no code
    except Exception as error:  # noqa: BLE001  the loader raises many kinds for a file that is none
        raise ConfigError(
            f"{path} is no file of network weights ({type(error).__name__}): give a state dict or a safetensors file"
        ) from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path} holds no state dict but a {type(found).__name__}: give a state dict or a safetensors file")
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


class _Gram(torch.autograd.Function):
    """Gram matrices of (N, C, P), with a gradient that uses their symmetry: autograd takes two products and a sum of the tap's size."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors
        both = (g + g.transpose(1, 2)) / flat.shape[2]
        return torch.bmm(flat.transpose(1, 2), both).transpose(1, 2)  # in this order, for taps that are stored channels last


def gram(tap: Tensor) -> Tensor:
    """Gram matrices (N, C, C) of a tap (N, C, H, W), divided by the number of positions so that size does not matter."""
    with torch.autocast(tap.device.type, enabled=False):  # in fp32: bfloat16 would round the sums to three digits
        matrices: Tensor = _Gram.apply(tap.flatten(2).float())
    return matrices


@dataclass(frozen=True)
class Losses:
    """Content, style and total-variation loss, and their weighted total; scalars, or one value an image."""

    content: Tensor
    style: Tensor
    total: Tensor

    def numbers(self) -> dict[str, float]:
        """The means as plain numbers."""
        return {key: float(getattr(self, key).detach().mean()) for key in ("content", "style", "total")}


@dataclass(frozen=True)
class Objective:
    """What a filter is trained to reach: total = content weight x content + style weight x style + tv weight x tv.

    `targets` are the style image's Gram matrices, one (C, C) a tap.
    """

    features: FeatureNet
    targets: tuple[Tensor, ...]
    content_weight: float = 1.0
    style_weight: float = 1.0
    layers: tuple[float, ...] = (1.0, 1.0, 1.0)
    tv_weight: float = 0.0

    def content_features(self, x: Tensor) -> Tensor:
        """The content tap of photos (N, 3, H, W)."""
        tap: Tensor = self.features(x, CONTENT_TAP + 1)[CONTENT_TAP]
        return tap

    def __call__(self, y: Tensor, content: Tensor) -> Losses:
        """Losses of stylised images `y`, one value an image, against the content tap of their photos."""
        taps = self.features(y)
        change = (taps[CONTENT_TAP] - content).square().sum((1, 2, 3)) / content.square().sum((1, 2, 3)).clamp_min(1e-8)
        terms = [
            weight * (gram(tap) - target).square().sum((1, 2)) / target.square().sum().clamp_min(1e-8)
            for tap, target, weight in zip(taps, self.targets, self.layers, strict=True)
            if weight
        ]
        style = torch.stack(terms).sum(0) / sum(self.layers)
        total = self.content_weight * change + self.style_weight * style
        if self.tv_weight:
            total = total + self.tv_weight * total_variation(y)
        return Losses(change, style, total)


def total_variation(y: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, one value an image."""
    down, across = y[..., 1:, :] - y[..., :-1, :], y[..., 1:] - y[..., :-1]
    return torch.add(down.square().mean((1, 2, 3)), across.square().mean((1, 2, 3)))
