"""Feature networks with their weights: embedded, in torchvision's cache, or in a file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fedstyle.errors import ConfigError, ParamsError
from fedstyle.params import check_alike, load
from fedstyle.perceptual.networks import FeatureNet, calibrate, tiny_network, vgg_layers, vgg_network

FeatureName = Literal["tiny", "vgg16", "vgg19"]
FEATURES: tuple[FeatureName, ...] = get_args(FeatureName)

_EMBEDDED = Path(__file__).parents[1] / "weights" / "tiny.safetensors"


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
    net = vgg_network(name)
    layers = vgg_layers(net)
    given = _weights(name, weights)
    index = [i for i, step in enumerate(layers) if isinstance(step, nn.Conv2d)]
    for i in range(len(layers) + 1):
        if i not in index and f"features.{i}.weight" in given:
            raise ConfigError(f"{weights or name}: the tensor 'features.{i}.weight' is not expected: these are no weights of {name}")
    for i in index:
        conv = layers[i]
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
