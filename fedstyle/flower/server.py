"""The server's side of a run: a stock Flower strategy, driven round by round over a seeded cohort.

Nothing here can open a photo: no module that it imports reaches photos, style images, clients or training.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.config import Config, Server
from fedstyle.errors import ConfigError, FederationError, FedstyleError, ParamsError
from fedstyle.flower.cohort import Cohort, Traffic, shared_arrays
from fedstyle.flower.held import hold
from fedstyle.flower.private import EXTRA, Promise, read_ledger
from fedstyle.flower.state import ServerState, recall, remind
from fedstyle.flower.strategies import make_strategy
from fedstyle.flower.wire import Contract
from fedstyle.privacy.secagg.terms import Terms
from fedstyle.privacy.shares import multiplier
from fedstyle.roster import Roster
from fedstyle.tables import need
from fedstyle.threads import threads


@dataclass(frozen=True)
class Round(Traffic):
    """A round that is over: its traffic, the seconds it took, and the state that it left, which continues the run."""

    seconds: float
    state: ServerState

    @property
    def base(self) -> Base:
        """The base that came of it."""
        return self.state.base


def server_app(run: Callable[[Grid, Mapping[str, Any]], None]) -> ServerApp:
    """The Flower app of a server; `run` gets the grid and the run's configuration, as `flwr run` was given it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Run it."""
        run(grid, context.run_config)

    return app


def cohort_size(server: Server, clients: int) -> int:
    """The clients of the first round; raises ConfigError when the configuration asks for more than there are."""
    there = clients - server.unseen - server.late
    where = f"there are {there} clients" + (" that are neither unseen nor late" if there < clients else "")
    need(server.cohort <= there, "server.cohort", server.cohort, f"{where}; 0 takes all")
    return server.cohort or there


def serve(
    grid: Grid,
    config: Config,
    base: Base,
    contract: Contract,
    clients: int,
    *,
    on_round: Callable[[Round], None] = lambda _: None,
    on_charge: Callable[[ServerState], None] = lambda _: None,
    after: ServerState | None = None,
    stop: threading.Event | None = None,
    pause: float = 0.05,
) -> Base:
    """Run the rounds of `config.server` from `base` over `grid`, and give the last base.

    `on_round` gets every round as it ends, in this thread, before the next one begins. In a private run `on_charge` gets the state before a
    round with that round charged, to be kept before the round is released; rounds end where one more would pass the budget. A run that goes
    on `after` an earlier round's state, in place of `base`, asks what an unbroken one would have asked and gives the base that it would
    have given. Raises ConfigError for a strategy, an option or a promise that cannot be, FederationError when too few clients join or
    reply, or the strategy makes no base of them.
    """
    server, size, promise = config.server, cohort_size(config.server, clients), Promise.of(config, clients)
    if config.privacy.secure and not contract.secure:
        raise ConfigError(
            "privacy.secure = true is for the engines inline and ray, and for a Federation: run one of these, or set it to false"
        )
    strategy = make_strategy(server.strategy, server.options, 1 if promise or contract.secure else size)
    state = after or ServerState(0, base)
    if state.round >= server.rounds:
        return state.base
    timing = (server.min_replies, server.timeout, state.round, stop or threading.Event(), pause)
    seed, most = config.training.seed, server.cohort or clients  # all there are may become more
    limits: dict[str, Any] = {"bound": server.bound or math.inf, "level": server.level}
    cohort = Cohort(grid, contract, state.base, clients, most, seed, *timing, roster=Roster.of(server, clients, seed), **limits)
    run = _Run(strategy, cohort, state, config, promise, on_round, on_charge)
    cohort.gather()
    remind(strategy, state.memory, sorted(contract.shared))
    try:
        with threads(1):  # many small sums: threads that wait for each other cost a hundred times what they save
            for number in range(state.round + 1, server.rounds + 1):
                if promise and not promise.allows(read_ledger(run.state.extra)):
                    break
                run.round(number)
    except FedstyleError:
        raise
    except Exception as error:
        raise FederationError(f"round {cohort.done}: {server.strategy} failed: {error}") from error
    return run.state.base


@dataclass
class _Run:
    """The rounds of a run, and the state after the last of them."""

    strategy: FedAvg
    cohort: Cohort
    state: ServerState
    config: Config
    promise: Promise | None
    on_round: Callable[[Round], None]
    on_charge: Callable[[ServerState], None]

    def __post_init__(self) -> None:
        """Let the cohort be drawn and summed as promised."""
        if self.promise:
            self.cohort.choose = self.promise.draw
            if self.promise.secure:
                self.cohort.pay, self.cohort.denominator = partial(self._pay_for, self.promise), self.promise.mechanism.sampler.cohort
            else:
                self.cohort.release = partial(self._release, self.promise)

    def _pay_for(self, promise: Promise, terms: Terms) -> None:
        """Charge a secure sum that is about to be unmasked, if its clients add the noise that is charged."""
        noise, least = multiplier(terms, promise.clip), promise.charged.noise * (1 - 1e-9)  # the same number, rounded another way
        need(noise >= least, "a secure sum's noise", noise, f"the run promises {least:g}")
        self._pay(promise)

    def _pay(self, promise: Promise) -> None:
        """Charge the round where a crash does not take it back."""
        ledger = read_ledger(self.state.extra).charge(promise.charged)
        self.state = replace(self.state, extra={**self.state.extra, EXTRA: ledger.to_json()})
        self._keep(self.cohort.done)

    @property
    def _once(self) -> bool:
        """Whether devices take part in a round once only, as those that sign do: a run that dies in it has to go on after it."""
        return self.cohort.contract.secure is not None and self.cohort.contract.secure.register is not None

    def _keep(self, number: int) -> None:
        """Keep the state from which a run goes on that dies in this round."""
        self.on_charge(replace(self.state, round=number) if self._once else self.state)

    def _release(self, promise: Promise, deltas: Mapping[int, params.Params], like: params.Params) -> list[dict[str, Tensor]]:
        """The noisy mean, once it is paid for."""
        self._pay(promise)
        return [promise.mean(deltas.values(), like, self.cohort.done)]

    def round(self, number: int) -> None:
        """What `Strategy.start` does in a round, with the round's own number also in a run that goes on: FedAdam reckons with it."""
        started, before, name = time.monotonic(), self.state.base, self.config.server.strategy
        if self._once:
            self._keep(number)
        shared, private = params.split(before.weights, lambda one: one in self.cohort.contract.shared)
        whole = {**shared, **self.state.arrays}
        record = hold(whole)
        replies = self.cohort.send_and_receive(self.strategy.configure_train(number, record, ConfigRecord(), self.cohort))
        arrays, _ = self.strategy.aggregate_train(number, replies)
        traffic = self.cohort.traffic
        assert traffic is not None  # the cohort did a round
        if arrays is None:
            raise FederationError(f"round {number}: {name} made no base of {len(traffic.replied)} replies")
        about = {**before.record, "strategy": name, "seed": self.config.training.seed, "round": number}
        base = Base(before.arch, before.padding, params.merge(shared_arrays(arrays), private), about)
        try:
            params.check_alike(base.weights, before.weights, f"round {number}: the base that {name} made")
        except ParamsError as error:
            raise FederationError(f"{error}: try lower rates in [method] or server.options") from None
        others = {key: torch.from_numpy(array.numpy().copy()) for key, array in arrays.items() if array.dtype != "float32"}
        self.state = ServerState(number, base, others, recall(self.strategy, list(arrays)), self.state.extra)
        self.on_round(Round(**vars(traffic), seconds=time.monotonic() - started, state=self.state))
