"""What methods are made of: the rates of a round, descents, and tensors that a device keeps by name."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedstyle import params
from fedstyle.errors import ConfigError
from fedstyle.tables import need
from fedstyle.training import Progress, Task, derive, descend, everything

Memory = MutableMapping[str, Tensor]
OWN = "own/"
"""What a method keeps under this prefix of its memory outlives the rounds: `personalize` finds it in the memory that it gets."""
START = "start/"
"""Tensors as a personalisation found them, so that one that is resumed knows them too."""
PARTS = ("down1", "down2", "down3", "blocks", *(f"blocks.{number}" for number in range(5)), "up1", "up2", "out")
"""The parts of a transform network, from the photo to the picture; `cnnLite` has no `down3`."""


@dataclass(frozen=True)
class Rates:
    """The hyper-parameters of a round of Adam; in a `[method]` table they stand beside the method's own."""

    steps: int = 10
    """Iterations a round."""
    lr: float = 1e-3
    """Adam's rate for convolutions."""
    norm_lr: float = 1e-2
    """Adam's rate for norms."""
    decay_rounds: int = 0
    """Rounds over which both rates fall linearly, to a twentieth; 0 keeps them."""
    keep_moments: bool = True
    """Whether Adam's moments stay on the device between rounds; a fresh Adam each round learns much more slowly."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.steps >= 1, "method.steps", self.steps, "give 1 or more iterations a round")
        need(0 < self.lr <= 1, "method.lr", self.lr, "a learning rate lies over 0 and up to 1")
        need(self.decay_rounds >= 0, "method.decay_rounds", self.decay_rounds, "give a number of rounds, or 0 for constant rates")
        need(0 < self.norm_lr <= 1, "method.norm_lr", self.norm_lr, "a learning rate lies over 0 and up to 1")


RATES = Rates()


# ----------------------------------------------------------------------------------------------------------- descents


def train(
    net: nn.Module,
    task: Task,
    memory: Memory,
    rates: Rates,
    *,
    trains: Callable[[str], bool] = everything,
    anchor: Mapping[str, Tensor] | None = None,
    shift: Mapping[str, Tensor] | None = None,
    first: int = 0,
    steps: int | None = None,
) -> Iterator[Progress]:
    """The iterations from `first` to `steps` (else `rates.steps`) of a round, on the parameters that `trains` accepts.

    With `anchor` they are pulled to it by `task.proximal`, which is what a server with FedProx asks for unless the method sets another.
    `shift` is added to the slopes.
    """
    _check_trained(net, trains)
    memory["iteration"] = torch.tensor(first)
    if not rates.keep_moments and not first:
        for key in [key for key in memory if key.startswith("adam/")]:
            del memory[key]
    scale = max(0.05, 1 - task.round / rates.decay_rounds) if rates.decay_rounds else 1.0
    speeds: dict[str, Any] = {"rate": scale * rates.lr, "norm_rate": scale * rates.norm_lr}
    return descend(net, task, memory, iterations=steps or rates.steps, **speeds, trains=trains, anchor=anchor, shift=shift)


def tune(
    net: nn.Module,
    task: Task,
    memory: Memory,
    iterations: int,
    trains: Callable[[str], bool] = everything,
    anchor: Mapping[str, Tensor] | None = None,
) -> Iterator[Progress]:
    """Personal training: descent at the rates of `[training]` on the parameters that `trains` accepts."""
    _check_trained(net, trains)
    speeds: dict[str, Any] = {"rate": task.training.rate, "norm_rate": task.training.norm_rate}
    return descend(net, task, memory, iterations=iterations, **speeds, trains=trains, anchor=anchor)


def tune_own(net: nn.Module, task: Task, memory: Memory, iterations: int, pull: float) -> Iterator[Progress]:
    """Personal training of a second network, which `memory` holds under `own/`, with a pull of strength `pull` to the base in `net`."""
    if not resumed(memory):
        keep(memory, START, copied(net))
        put(net, kept(memory, OWN))
    keep(memory, OWN, {})
    yield from tune(net, dataclasses.replace(task, proximal=pull), memory, iterations, anchor=kept(memory, START))


def _check_trained(net: nn.Module, trains: Callable[[str], bool]) -> None:
    if not any(trains(name) for name, _ in net.named_parameters()):
        raise ConfigError("the method trains parts that this network does not have: name others in [method]")


def count(steps: Iterator[Progress], total: int) -> Iterator[Progress]:
    """The progress of several descents in a row as that of one of `total` iterations."""
    for number, progress in enumerate(steps, 1):
        yield dataclasses.replace(progress, iteration=number, iterations=total)


def slopes(net: nn.Module, task: Task, iteration: int) -> dict[str, Tensor]:
    """The gradient of an iteration's mean loss with respect to every parameter of `net`, by name; no weight moves."""
    net.to(task.device).train().requires_grad_(True)
    values = dict(net.named_parameters())
    sums = {name: torch.zeros_like(value) for name, value in values.items()}
    pixels, content = task.content.batch(task.training.batch, derive(task.seed, iteration))
    for part in zip(torch.split(pixels, 1), torch.split(content, 1), strict=True):  # a picture at a time, for memory
        found = torch.autograd.grad(task.losses(net, *part, iteration).total.mean(), list(values.values()), allow_unused=True)
        for name, slope in zip(values, found, strict=True):
            if slope is not None:
                sums[name].add_(slope, alpha=1 / len(pixels))
    return sums


class Through(nn.Module):
    """A network that runs with weights made from its own parameters and `more` ones; its names are `net.NAME` and `more.NAME`."""

    def __init__(self, net: nn.Module, make: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]], **more: Tensor):
        super().__init__()
        self.net, self._make, self._turn = net, make, threading.Lock()
        self.more = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in more.items()})

    def weights(self) -> dict[str, Tensor]:
        """The weights that the network runs with, by its own names."""
        return self._make(dict(self.net.named_parameters()), dict(self.more.items()))

    def forward(self, x: Tensor) -> Tensor:
        """Stylise (N, 3, H, W) with those weights."""
        with self._turn:  # the weights are lent to the one network, and other threads may have pictures of the same batch
            y: Tensor = functional_call(self.net, self.weights(), (x,))
        return y


# ------------------------------------------------------------------------------------------------------------- names


def copied(net: nn.Module, chosen: Callable[[str], bool] = everything, prefix: str = "") -> dict[str, Tensor]:
    """Copies of the parameters whose names `chosen` accepts, with `prefix` before their names."""
    return {f"{prefix}{name}": value.detach().clone() for name, value in net.named_parameters() if chosen(name)}


@torch.no_grad()
def put(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set every parameter that `weights` names; raises ParamsError for one that the network lacks, or of another shape."""
    own = dict(net.named_parameters())
    params.check_alike(weights, {name: value for name, value in own.items() if name in weights}, "what the method keeps")
    for name, value in weights.items():
        own[name].copy_(value)


def kept(memory: Memory, prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in memory.items() if key.startswith(prefix)}


def keep(memory: Memory, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Replace the entries under a prefix."""
    for key in [key for key in memory if key.startswith(prefix)]:
        del memory[key]
    memory.update({f"{prefix}{name}": value.detach().clone() for name, value in tensors.items()})


def resumed(memory: Memory) -> bool:
    """Whether a personalisation goes on with the weights that it left, rather than begins."""
    return "iteration" in memory


class Drawer(MutableMapping[str, Tensor]):
    """The entries of a memory under a prefix, as a memory of its own: a second optimiser's, for example."""

    def __init__(self, memory: Memory, prefix: str) -> None:
        self.memory, self.prefix = memory, prefix

    def __getitem__(self, key: str) -> Tensor:
        return self.memory[self.prefix + key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.memory[self.prefix + key] = value

    def __delitem__(self, key: str) -> None:
        del self.memory[self.prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self.prefix) for key in list(self.memory) if key.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def within(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of these parts of the network."""
    return any(name.startswith(f"{part}.") for part in parts)


def check_parts(parts: tuple[str, ...], key: str) -> None:
    """Raise ConfigError unless `parts` names parts of a transform network."""
    wrong = [part for part in parts if part not in PARTS]
    if wrong or not parts:
        raise ConfigError(f"{key} = {list(parts)!r}: give one or more of {', '.join(PARTS)}")
