"""What is compared: ways to a filter, each a ladder of iterations that one training climbs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedstyle import Base, Client, Filter
from fedstyle.config import Loss, Training


@dataclass(frozen=True)
class Protocol:
    """The yardstick's numbers; what issue and README call the protocol."""

    arch: str = "cnnLite"
    width: int | None = None
    """Channels of the networks from scratch, for quick studies; None is the architecture's own."""
    seeds: int = 3
    photos: int = 24
    """A user's own photos."""
    judged: int = 4
    """Photos to judge on, the same for all."""
    view: int = 192
    """The side in pixels at which they are judged."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `[training]` that differ from the defaults; rates and warm-up are otherwise what a base advises."""
    judges: tuple[str, ...] = ("vgg16", "vgg19")
    """Feature networks; Gatys' optimiser descends on the first, the last decides."""
    scratch: tuple[int, ...] = (100, 500)
    long: int = 0
    """Iterations from scratch of the first seed, over the others' ladder; 0 leaves them out."""
    base: tuple[int, ...] = (0, 5, 10, 25, 50, 100)
    full: tuple[int, ...] = (5, 10, 25, 50, 100)
    joint: tuple[int, ...] = (0, 25, 100)
    gatys: int = 200
    """The most L-BFGS iterations an image."""

    def ladder(self, arm: str, seed: int) -> tuple[int, ...]:
        """The iterations at which an arm is judged."""
        steps: tuple[int, ...] = getattr(self, arm)
        return (*steps, self.long) if arm == "scratch" and self.long and not seed else steps

    def facts(self, arm: str, judges: Mapping[str, str], names: list[str], features: str, start: Base | None) -> dict[str, Any]:
        """All that an arm's rows depend on but style, seed and iterations; `judges` and `features` are fingerprints, no file's path."""
        facts: dict[str, Any] = {"judges": dict(judges), "judged": names, "view": self.view}
        if arm == "photo":
            return facts
        facts["loss"] = dataclasses.asdict(Loss())
        if arm == "gatys":
            return facts | {"most": self.gatys}
        training = dataclasses.asdict(self.trains(0, start))
        facts["training"] = {key: value for key, value in training.items() if key not in ("device", "seed", "iterations")}
        facts |= {"features": features, "photos": self.photos, "arch": start.arch if start else self.arch}
        return facts | {"start": start.sha256[:12] if start else "new", "width": None if start else self.width}

    def trains(self, seed: int, start: Base | None) -> Training:
        """How a user of this seed trains, from a base or from scratch."""
        return Training.for_base(start.record if start else {}, seed=seed, **self.training)

    def start(self, seed: int) -> Base:
        """The untrained network of a seed."""
        return Base.new(self.arch, seed=seed, width=self.width)


def climb(
    client: Client, start: Base, full: bool, ladder: list[int], seconds: Mapping[int, float | None], session: Path
) -> Iterator[tuple[int, Filter, float | None]]:
    """The filter at each number of iterations of a rising ladder, out of one training, with its seconds of training: a thread's own on a
    CPU, so that a busy machine does not count.

    Each step up is a job that goes on from the session of the one before, which is bit for bit as if nothing had stopped; so a killed run
    goes on, too. `seconds` are those of steps that an earlier process took, to add to: of a stretch that was interrupted, the part that
    runs now stands for the whole, and where nothing runs now they are not known. Crops are cut before the clock starts.
    """
    client.task(0)
    now = time.process_time if client.device.type == "cpu" else time.perf_counter
    known = {0: 0.0, **seconds}
    below = max(step for step in known if step <= ladder[0])
    for iterations in ladder:
        job = client.personalize(start, iterations=iterations, full=full, session=session if iterations else None)
        before = now()
        ran = sum(1 for _ in job)
        elapsed = now() - before
        spent = known[below]
        if ran == iterations:  # from the beginning
            known[iterations] = elapsed
        elif ran and spent is not None:
            known[iterations] = spent + elapsed / ran * (iterations - below)
        else:
            known[iterations] = None
        yield iterations, job.result(), known[iterations]
        below = iterations
