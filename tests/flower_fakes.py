"""Clients that train in no time, for tests of the federation; a module of their own, so that Ray's actors can import it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fedstyle.base import Base
from fedstyle.config import Config, Server, Training
from fedstyle.errors import PhotoError
from fedstyle.flower.wire import Contract
from fedstyle.net import is_norm

CANARY = "/home/alice/holiday.jpg"


@dataclass(frozen=True)
class Update:
    delta: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Trainee:
    """Moves a tenth of the way to a network of its own, and adds noise that only partition and round decide."""

    partition: int

    def fit(self, base, *, round, proximal):
        assert torch.get_num_threads() == 1
        time.sleep(0.01 * ((self.partition * 7 + round) % 3))  # so that replies come in another order than they were asked
        return Update({name: value / (1 + proximal) for name, value in self.fit_alone(base, round).items()})

    def fit_alone(self, base, round):
        own = Base.new(base.arch, base.padding, seed=100 + self.partition, width=base.net().width)
        noise = torch.Generator().manual_seed(1000 * self.partition + round)
        delta = {}
        for name in sorted(base.weights):
            if not is_norm(name):
                step = 0.1 * (own.weights[name] - base.weights[name])
                delta[name] = step + 0.01 * torch.randn(step.shape, generator=noise)
        return delta


@dataclass(frozen=True)
class Fakes:
    """The clients of a run; `bad` holds partitions whose photo is none, `dead` those whose process ends."""

    folder: Path
    bad: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()

    def home(self, partition):
        return self.folder / f"{partition}"

    def __call__(self, partition):
        if partition in self.bad:
            raise PhotoError(f"{CANARY} is no photo")
        if partition in self.dead:
            os._exit(1)
        return Trainee(partition)


@dataclass(frozen=True)
class Placed(Fakes):
    """Notes on which of Ray's nodes clients were made."""

    def __call__(self, partition):
        import ray

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"node-{ray.get_runtime_context().get_node_id()}").touch()
        return super().__call__(partition)


def small_base():
    return Base.new(width=4, seed=3)


def contract(wire="fp16"):
    return Contract.of(small_base(), lambda name: not is_norm(name), wire)


def config(**server):
    return Config(server=Server(**{"rounds": 2, "timeout": 240.0, **server}), training=Training(seed=7))
