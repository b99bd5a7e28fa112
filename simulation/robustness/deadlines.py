"""Whether rounds end by their deadline when clients drop out and straggle, by the clock: real threads sleep, and the real timeout rules."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedstyle import Base, Config, Update
from fedstyle.flower.engine import Round, run_federation
from fedstyle.methods import make_method
from fedstyle.training import derive

DEAD, SILENT, SLOW = 0.15, 0.15, 0.2
"""Shares of a round's clients whose training dies, that say nothing, and that answer after the deadline: 30 % and 20 % in all."""


@dataclass
class Sleepers:
    """Clients that train in no time; who is dead, silent or slow is drawn anew for each round."""

    config: Config
    out: Path
    clients: int
    over: threading.Event = field(default_factory=threading.Event)
    """Set when the run is over, so that nobody sleeps on."""

    def home(self, partition: int) -> Path:
        """The client's own folder."""
        return self.out / f"{partition}"

    def __call__(self, partition: int) -> Sleeper:
        """The client."""
        return Sleeper(self, partition)

    def kind(self, partition: int, number: int) -> str:
        """What is wrong with a client in a round."""
        order = np.random.default_rng(derive(self.config.training.seed, "sleep", number)).permutation(self.clients).tolist()
        ends = {"dead": DEAD, "silent": DEAD + SILENT, "slow": DEAD + SILENT + SLOW}
        return next((kind for kind, end in ends.items() if order[partition] < round(end * self.clients)), "prompt")


@dataclass(frozen=True)
class Sleeper:
    """Gives a small update, perhaps after a time of sleep."""

    all: Sleepers
    partition: int

    def fit(self, base: Base, *, round: int, proximal: float) -> Update:  # noqa: ARG002
        """The update; to the server an answer after the deadline is none, whether it comes or not."""
        kind, deadline = self.all.kind(self.partition, round), self.all.config.server.timeout
        if kind == "dead":
            raise SystemExit
        self.all.over.wait({"silent": 1.5 * deadline, "slow": 1.3 * deadline}.get(kind, 0.01))
        draw = torch.Generator().manual_seed(100 * round + self.partition)
        shares = make_method(self.all.config.method).shares
        return Update({name: 1e-3 * torch.randn(value.shape, generator=draw) for name, value in base.weights.items() if shares(name)})


def measure(config: Config, base: Base, out: Path, clients: int) -> dict[str, Any]:
    """A run's seconds by round, against its deadline, the processor's seconds, and how many replied and why the others did not."""
    rounds: list[Round] = []
    spent = [time.process_time()]
    sleepers = Sleepers(config, out, clients)

    def on_round(now: Round) -> None:
        rounds.append(now)
        spent.append(time.process_time())
        if now.number == config.server.rounds:
            sleepers.over.set()

    try:
        run_federation(config, base, sleepers, clients, on_round=on_round)  # type: ignore[arg-type]
    finally:
        sleepers.over.set()
    return {
        "strategy": config.server.strategy,
        "deadline": config.server.timeout,
        "seconds": [round(now.seconds, 2) for now in rounds],
        "cpu": [round(after - before, 2) for before, after in itertools.pairwise(spent)],
        "replied": [len(now.replied) for now in rounds],
        "failures": dict(Counter(code for now in rounds for code in now.failures.values())),
        "clients": clients,
    }
