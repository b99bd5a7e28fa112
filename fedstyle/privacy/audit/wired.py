"""The aggregator and sampler as they run: rounds of a stock strategy over the inline engine, with clients that send what a check says.

The path is a run's own, from the draw to the base that the strategy makes: Flower messages, the cohort with its checks, `flower.private` or
the secure sum, FedAvg, and the base. Clients are made up, the network is the smallest, and the noise follows from a seed.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstyle.base import Base
from fedstyle.config import Config, Net, Server, Training
from fedstyle.errors import FederationError
from fedstyle.methods import make_method
from fedstyle.params import Params
from fedstyle.privacy.audit.conformance import Terms
from fedstyle.privacy.audit.faults import Fault
from fedstyle.privacy.gaussian import seeded
from fedstyle.privacy.noise import flatten, unflatten
from fedstyle.privacy.sampling import Fixed
from fedstyle.privacy.secagg.terms import threshold_for
from fedstyle.privacy.settings import Privacy

NOBODY = 1e-12
"""A share of replies that no reply at all satisfies."""


@dataclass(frozen=True)
class _Reply:
    delta: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Client:
    """Sends one update in every round, or fails."""

    update: Params | None

    def fit(self, base: Base, *, round: int, proximal: float) -> _Reply:  # noqa: ARG002  as a client's
        """The update."""
        if self.update is None:
            raise FederationError("this client is away")
        return _Reply(self.update)


@dataclass(frozen=True)
class _Clients:
    folder: Path
    updates: Sequence[Params]

    def home(self, partition: int) -> Path:
        """The client's folder."""
        return self.folder / f"{partition}"

    def __call__(self, partition: int) -> _Client:
        """Partition k sends update k; those after the last are away."""
        return _Client(self.updates[partition] if partition < len(self.updates) else None)


@dataclass(frozen=True)
class Wired:
    """A `Subject` that is the run of a configuration: its method and wire type, on these terms; `secure` sums securely.

    A `fault` takes the place of what `flower.private` does with updates, or of how it draws. Every call draws from another seed.
    """

    terms: Terms
    config: Config = field(default_factory=Config)
    seed: int = 0
    secure: bool = False
    fault: Fault | None = None
    _calls: list[int] = field(default_factory=lambda: [0], init=False, repr=False)

    @cached_property
    def base(self) -> Base:
        """The smallest network, all zeros, so that what a round moved is the base itself."""
        drawn = Base.new("cnnLite", width=1)
        return replace(drawn, weights={name: torch.zeros_like(value) for name, value in drawn.weights.items()})

    @cached_property
    def like(self) -> Params:
        """What the method shares of it."""
        shares = make_method(self.config.method).shares
        return {name: value for name, value in self.base.weights.items() if shares(name)}

    @property
    def fewest(self) -> int:
        """None at all, but of a secure sum its threshold."""
        return threshold_for(self.terms.cohort, self._colluders) if self.secure else 0

    @property
    def _colluders(self) -> int:
        return (self.terms.cohort - 1) // 3

    def spread(self, replies: int) -> float:
        """The multiplier; of a secure sum more, for the noise of its threshold less colluders is all that is relied on."""
        return self.terms.noise * ((replies / (self.fewest - self._colluders)) ** 0.5 if self.secure else 1.0)

    def release(self, updates: Sequence[Params], counts: Sequence[int], times: int) -> NDArray[np.float64]:
        """Rounds in which every client is asked, and so many reply; see `Subject`."""
        population = max(self.terms.cohort, len(updates))
        rows, before = [], np.zeros(1)
        for moved, _ in self._run(population, 0, times, updates, counts):
            rows.append((moved - before) * population)
            before = moved
        return np.stack(rows)

    def drawn(self, times: int, seed: int) -> NDArray[np.int64]:  # noqa: ARG002  every call has its own
        """Rounds in which nobody replies; see `Subject`."""
        taken, cohort = np.zeros(self.terms.sampler.population, np.int64), self.terms.cohort
        for _, asked in replace(self, secure=False, seed=self.seed + 1)._run(len(taken), cohort, times, [], []):
            taken[list(asked)] += 1
        return taken

    def aggregate(self, updates: Sequence[Params], counts: Sequence[int]) -> Params:
        """One release, as a sum: how many clients there are changes with every round of canaries."""
        return unflatten(self.release(updates, counts, 1)[0], self.like)

    def _run(
        self, clients: int, cohort: int, rounds: int, updates: Sequence[Params], counts: Sequence[int]
    ) -> list[tuple[NDArray[np.float64], tuple[int, ...]]]:
        """What the shared parameters are after each round, and who was asked in it."""
        from fedstyle.flower.engine import run_federation

        self._calls[0] += 1
        seed = 1000 * self.seed + self._calls[0]
        sampler: Literal["poisson", "fixed"] = "fixed" if isinstance(self.terms.sampler, Fixed) else "poisson"
        privacy = Privacy(clip=self.terms.clip, noise=self.terms.noise, reproducible=True, secure=self.secure, sampler=sampler)
        server = Server(rounds=rounds, cohort=cohort, min_replies=NOBODY, workers=1, wire="fp32")
        config = Config(net=Net(), training=Training(seed=seed), method=self.config.method, privacy=privacy, server=server)
        found: list[tuple[NDArray[np.float64], tuple[int, ...]]] = []

        def on_round(now: Any) -> None:
            shared = {name: now.base.weights[name] for name in self.like}
            found.append((flatten(shared), now.cohort))

        with tempfile.TemporaryDirectory() as folder, _seeded(self.fault, self.terms, counts, seed):
            run_federation(config, self.base, _Clients(Path(folder), updates), clients, on_round=on_round)
        return found


_ONE = threading.Lock()
NAME = "Promise"
"""The name by which the server knows it."""


@contextlib.contextmanager
def _seeded(fault: Fault | None, terms: Terms, counts: Sequence[int], seed: int) -> Iterator[None]:
    """Let the server's promise have the fault while the block lasts, as a mistake in its code would."""
    from fedstyle.flower import server
    from fedstyle.flower.private import Promise

    if fault is None:
        yield
        return

    seeded_fault = fault

    class Faulty(Promise):
        """The promise, with the fault in it."""

        def mean(self, updates: Iterable[Params], like: Params, number: int) -> dict[str, Tensor]:
            """As the fault releases, or rightly."""
            if not seeded_fault.aggregate:
                return super().mean(updates, like, number)
            own = replace(terms, sampler=self.mechanism.sampler)
            return dict(seeded_fault.aggregate(own, like, seeded(1000 * seed + number))(list(updates), counts))

        def draw(self, there: Sequence[int], number: int) -> tuple[int, ...]:
            """As the fault draws, or rightly."""
            if not seeded_fault.select:
                return super().draw(there, number)
            own = replace(terms, sampler=self.mechanism.sampler)
            return tuple(seeded_fault.select(own)(there, random.Random(1000 * seed + number)))

    with _ONE:
        setattr(server, NAME, Faulty)
        try:
            yield
        finally:
            setattr(server, NAME, Promise)
