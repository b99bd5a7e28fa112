"""The training loop, used by clients in a round and by personalisation alike.

`descend` is an iterator of progress: its caller may stop it, slice it, or save the state between two steps. The batch of an iteration is a
function of seed and iteration number alone, so that weights, Adam's moments and the iteration number are the whole state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedstyle import keeping
from fedstyle.config import Training
from fedstyle.errors import ConfigError, FedstyleError, ParamsError, PhotoError
from fedstyle.hardware import has_fast_bf16
from fedstyle.heap import keep_heap
from fedstyle.keeping import Share
from fedstyle.net import is_norm
from fedstyle.perceptual import Losses, Objective
from fedstyle.prediction import Look, is_constant


@dataclass(frozen=True)
class Progress:
    """Where training stands after an iteration: the batch's mean losses before its update."""

    iteration: int
    iterations: int
    content: float
    style: float
    total: float

    @property
    def fraction(self) -> float:
        """The share of the work that is done, 0..1."""
        return self.iteration / self.iterations if self.iterations else 1.0

    def as_dict(self) -> dict[str, float]:
        """The fields as JSON."""
        return asdict(self)


def derive(seed: int, *words: object) -> int:
    """A 63-bit seed that depends on `seed` and on each word; equal inputs give equal seeds on every machine."""
    text = "\0".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `mps`; raises ConfigError when the named one is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there.get(name):
        raise ConfigError(f"training.device = {name!r}: this machine has none; use one of auto, {', '.join(d for d in there if there[d])}")
    return torch.device(name)


def detailed(crops: Tensor) -> Tensor:
    """Which crops uint8 (N, 3, S, S) are not of one colour: the values of some channel deviate by a level or more.

    On a picture of one colour each instance norm divides next to nothing by the root of its epsilon; through fifteen of them slopes grow
    to 1e27, and Adam, which squares them, never trains again.
    """
    return torch.tensor([bool((crop.float().std((1, 2), correction=0) >= 1).any()) for crop in crops])


class Content:
    """Training crops (N, 3, S, S) uint8 with their content features, each computed alone: its bits depend on no batch.

    Crops of one colour, a white sky's for example, are left out; raises PhotoError when all are. Features are kept as far as
    `keeping.CONTENT` goes; what is kept changes how long training takes and nothing else.
    """

    def __init__(self, crops: Tensor, objective: Objective, device: torch.device) -> None:
        teaches = detailed(crops)
        if not teaches.any():
            raise PhotoError("every photo is of one colour, which teaches a filter nothing: add photos of something")
        self.crops, self.objective, self.device = crops[teaches], objective, device
        self._kept: dict[int, Tensor] = {}
        self._share = Share(self, keeping.CONTENT)

    def __len__(self) -> int:
        return len(self.crops)

    @torch.no_grad()
    def _features(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        tap = self.objective.content_features(self.pixels([index]))[0]
        if self._share.take(tap.numel() * tap.element_size()):
            self._kept[index] = tap
        return tap

    def pixels(self, indices: list[int]) -> Tensor:
        """Crops as (n, 3, S, S) in [0, 1] on the device."""
        return self.crops[indices].to(self.device).float() / 255

    def batch(self, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """A batch drawn by `seed`: pixels (n, 3, S, S) and their content features; n is at most the number of crops."""
        order = torch.randperm(len(self.crops), generator=torch.Generator().manual_seed(seed))
        indices = order[:size].tolist()
        return self.pixels(indices), torch.stack([self._features(index) for index in indices])


@dataclass(frozen=True)
class Task:
    """What a client trains on: its content, its objective, how, and the seed that orders the batches.

    `round` is the round's number, 0 outside a federation. `proximal` is FedProx's mu, as the server's strategy asks for it; 0 is none.
    With `looks` each iteration trains a predictor of norms on one of them, the first (the style's own) a third of the time. `beside` are
    the base's companions: see `companions`; what a method leaves there in a round is sent.
    """

    content: Content
    objective: Objective
    training: Training
    seed: int = 0
    proximal: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    round: int = 0
    looks: tuple[Look, ...] = ()
    beside: MutableMapping[str, Tensor] = field(default_factory=dict)

    def losses(self, net: nn.Module, pixels: Tensor, content: Tensor, iteration: int) -> Losses:
        """The losses of an iteration's batch."""
        if not self.looks:
            return self.objective(net(pixels), content)
        draw = derive(self.seed, iteration, "look")
        look = self.looks[0 if draw % 3 == 0 else draw // 3 % len(self.looks)]
        return dataclasses.replace(self.objective, targets=look.targets)(net(pixels, look.code), content)


def everything(name: str) -> bool:  # noqa: ARG001  a predicate on names
    """Train every parameter."""
    return True


def descend(
    net: nn.Module,
    task: Task,
    memory: MutableMapping[str, Tensor],
    *,
    iterations: int,
    rate: float,
    norm_rate: float,
    trains: Callable[[str], bool] = everything,
    anchor: Mapping[str, Tensor] | None = None,
    shift: Mapping[str, Tensor] | None = None,
) -> Iterator[Progress]:
    """Train the parameters whose names `trains` accepts with Adam (Kingma and Ba 2015), and yield after each iteration.

    `memory` holds Adam's moments and step count under `adam/...` and the iteration under `iteration`: with the same memory and weights the
    loop goes on where it stood. Rates rise linearly over the first `training.warmup` steps of the optimiser: a fresh Adam's first steps
    are as long as its later ones while its variance estimate is still one gradient old. With `anchor`, (mu/2) ‖w - anchor‖² is added
    (FedProx, Li et al. 2020), mu being `task.proximal`. `shift` is added to every slope (SCAFFOLD, Karimireddy et al. 2020). Raises
    FedstyleError when a loss is not finite, ParamsError when the moments are another network's.
    """
    keep_heap()
    if next(net.parameters()).device != task.device:  # to ask takes less than to move nothing
        net.to(task.device)
    net.train()
    fast, one = has_fast_bf16(task.device), task.device.type == "cpu"
    if fast and not one:
        net.to(memory_format=torch.channels_last)
    every = dict(net.named_parameters())
    chosen = {name: value for name, value in every.items() if trains(name) and not is_constant(name)}
    for name, value in every.items():
        value.requires_grad_(name in chosen)
    step, moments = _recall(chosen, memory)
    values: list[Tensor] = list(chosen.values())
    slopes = [torch.zeros_like(value) for value in values]  # in the parameters' own memory formats
    anchor = None if anchor is None else {name: value.to(task.device) for name, value in anchor.items()}
    shift = {name: value.to(task.device) for name, value in (shift or {}).items()}
    done = int(memory.get("iteration", torch.tensor(0)))
    with _crew(task.training.batch if one and not task.looks else 1) as each:
        while done < iterations:
            batch = task.content.batch(task.training.batch, derive(task.seed, done))
            parts = list(zip(*(torch.split(tensor, 1) for tensor in batch), strict=True)) if one else [batch]
            torch._foreach_zero_(slopes)
            shown = []
            for numbers, found in each(functools.partial(_slopes, net, task, values, done, fast), parts):
                shown.append(numbers)
                for slope, more in zip(slopes, found, strict=True):
                    if more is not None:
                        slope.add_(more, alpha=1 / len(parts))  # in the pictures' order, whichever thread was first
            if not all(math.isfinite(numbers["total"]) for numbers in shown):
                raise FedstyleError(f"training diverged: the loss is not finite at iteration {done + 1}; lower the learning rates")
            step += 1
            rise = min(1.0, step / max(1, task.training.warmup))
            for (name, value), slope in zip(chosen.items(), slopes, strict=True):
                if anchor and task.proximal and name in anchor:
                    slope.add_(value.detach() - anchor[name], alpha=task.proximal)
                if name in shift:
                    slope.add_(shift[name])
            _adam(values, slopes, *moments, step, [rise * (norm_rate if is_norm(name) else rate) for name in chosen])
            done += 1
            memory["iteration"] = torch.tensor(done)
            memory["adam/step"] = torch.tensor(step)
            yield Progress(done, iterations, **{key: sum(numbers[key] for numbers in shown) / len(shown) for key in shown[0]})


def _slopes(
    net: nn.Module, task: Task, values: list[Tensor], iteration: int, fast: bool, part: tuple[Tensor, Tensor]
) -> tuple[dict[str, float], tuple[Tensor | None, ...]]:
    """Mean losses of some of a batch's pictures, and the slopes of the total with respect to `values`.

    On a CPU a part is one picture, so that its numbers stay in the cache and few are kept at once; no layer mixes pictures.
    """
    pixels, content = part
    if fast and task.device.type != "cpu":
        pixels = pixels.to(memory_format=torch.channels_last)
    with torch.autocast(task.device.type, torch.bfloat16, enabled=fast):
        losses = task.losses(net, pixels, content, iteration)
    return losses.numbers(), torch.autograd.grad(losses.total.mean(), values, allow_unused=True)


@contextlib.contextmanager
def _crew(size: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` by up to `size` threads that divide this one's cores among them; plain `map` where there is one.

    A core that works on a picture of its own never waits for another within a layer, and gives the same bits on any number of cores.
    """
    threads = torch.get_num_threads()
    size = min(size, threads)
    if size < 2:
        yield map
        return
    with ThreadPoolExecutor(size, initializer=torch.set_num_threads, initargs=(threads // size,)) as pool:
        try:
            yield pool.map
        finally:
            torch.set_num_threads(threads)  # the threads' own number has become the process's default


def _recall(chosen: Mapping[str, Tensor], memory: MutableMapping[str, Tensor]) -> tuple[int, tuple[list[Tensor], list[Tensor]]]:
    """Adam's step count and two moments, those in `memory` or fresh ones; memory shares their storage, so that it is always up to date."""
    moments: tuple[list[Tensor], list[Tensor]] = [], []
    for name, value in chosen.items():
        for key, all_ in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
            kept = memory.get(f"adam/{key}/{name}")
            if kept is not None and kept.shape != value.shape:
                raise ParamsError(f"the moments kept of {name!r} have shape {tuple(kept.shape)}, expected {tuple(value.shape)}")
            moment = torch.zeros_like(value)  # in the parameter's own memory format, so that a resumed loop rounds as an unbroken one
            memory[f"adam/{key}/{name}"] = moment if kept is None else moment.copy_(kept)
            all_.append(moment)
    return int(memory.get("adam/step", torch.tensor(0))), moments


@torch.no_grad()
def _adam(values: list[Tensor], slopes: list[Tensor], means: list[Tensor], squares: list[Tensor], step: int, rates: list[float]) -> None:
    """Adam's step number `step`, from 1 on, in place: torch.optim's to the bit, without the compiler that it imports (150 MB, seconds)."""
    torch._foreach_lerp_(means, slopes, 1 - 0.9)
    torch._foreach_mul_(squares, 0.999)
    torch._foreach_addcmul_(squares, slopes, slopes, 1 - 0.999)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, (1 - 0.999**step) ** 0.5)
    torch._foreach_add_(roots, 1e-8)
    torch._foreach_addcdiv_(values, means, roots, [-rate / (1 - 0.9**step) for rate in rates])


@torch.no_grad()
def evaluate(net: nn.Module, objective: Objective, views: Iterable[Tensor]) -> dict[str, float]:
    """Mean losses over photos, (3, H, W) uint8 each, one at a time so that the result does not depend on a batch."""
    net.eval()
    device = objective.features.scales.device
    rows: list[Losses] = []
    for view in views:
        pixels = view[None].to(device).float() / 255
        rows.append(objective(net(pixels), objective.content_features(pixels)))
    return {key: sum(float(getattr(row, key)) for row in rows) / len(rows) for key in ("content", "style", "total")}
