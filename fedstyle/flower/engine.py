"""A federation on the engine that the configuration names."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from fedstyle.base import Base
from fedstyle.config import Config, Server
from fedstyle.errors import ConfigError
from fedstyle.flower.client import Clients, client_app
from fedstyle.flower.inline import run_inline
from fedstyle.flower.private import Promise, describe, read_ledger
from fedstyle.flower.ray import check_ray, run_ray
from fedstyle.flower.secure import Plan
from fedstyle.flower.server import Round, cohort_size, serve
from fedstyle.flower.state import ServerState
from fedstyle.flower.strategies import make_strategy
from fedstyle.flower.wire import Contract
from fedstyle.methods import check_match, make_method
from fedstyle.privacy.settings import check_mode

__all__ = ["Round", "ServerState", "check_ray", "check_server", "count_workers", "privacy_statement", "run_federation"]


def check_server(config: Config, count: int) -> Plan | None:
    """The plan of secure sums, if there are to be any; raises ConfigError unless strategy, options, cohort and privacy fit each other."""
    check_mode(config, count)
    size = cohort_size(config.server, count)
    make_strategy(config.server.strategy, config.server.options, size)
    return Plan.of(config, size, Promise.of(config, count))


def privacy_statement(config: Config, count: int, state: ServerState, *, signed: bool = False) -> dict[str, Any]:
    """What a run of so many clients that came to this state shared, and what it promises its users: see `private.describe`.

    `shared` are the arrays and numbers that an update has, `of` so many numbers of the whole base. `signed` is a run over a network.
    """
    sizes = {name: value.numel() for name, value in state.base.weights.items()}
    up = list(filter(make_method(config.method).shares, sizes))
    shared = {"arrays": len(up), "numbers": sum(map(sizes.__getitem__, up)), "of": sum(sizes.values())}
    return {"shared": shared, **describe(config, count, read_ledger(state.extra), signed=signed)}


def count_workers(server: Server) -> int:
    """The clients that train at once: `server.workers`, or one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return server.workers or cores or 1


def run_federation(
    config: Config,
    base: Base,
    clients: Clients,
    count: int,
    *,
    on_round: Callable[[Round], None] = lambda _: None,
    on_charge: Callable[[ServerState], None] = lambda _: None,
    after: ServerState | None = None,
    grid: Grid | None = None,
) -> Base:
    """Train `base` with `count` clients, partitions 0..count-1, for the rounds of `config.server`, and give the last base.

    The same seed and configuration give the same base, bit for bit, on both engines and for any number of workers, but for a private run
    that draws its noise from the operating system. `on_round` is called after each round, and `on_charge` before a private one is released
    (see `server.serve`); a run that goes on `after` an earlier round's state takes that in place of `base`. With a `grid` the run serves
    that instead of starting an engine: for a Flower ServerApp, whose clients run elsewhere. Raises ConfigError before anything starts for
    what cannot be run, and FederationError for a round that cannot go on.
    """
    plan = check_server(config, count)
    method = make_method(config.method)
    check_match(method, config.server.strategy)
    contract = dataclasses.replace(Contract.of(base, method.shares, config.server.wire), secure=plan)
    run = partial(serve, config=config, base=base, contract=contract, clients=count, on_round=on_round, on_charge=on_charge, after=after)
    if grid is not None:
        if plan:
            raise ConfigError("privacy.secure = true is for the engines inline and ray: run fedstyle simulate, or set it to false")
        return run(grid)
    workers = min(count_workers(config.server), count)
    if config.server.engine == "ray":
        app = client_app(partial(_kept, uuid.uuid4().hex, contract, clients), simulated=True)
        return run_ray(app, count, workers, lambda below, stop: run(below, stop=stop))
    app = client_app(partial(_given, contract, clients), simulated=True)
    return run_inline(app, count, workers, lambda below: run(below, pause=0.0))


def _given(contract: Contract, clients: Clients, _: Context) -> tuple[Contract, Clients]:
    return contract, clients


_KEEP: dict[str, tuple[Contract, Clients]] = {}


def _kept(run: str, contract: Contract, clients: Clients, _: Context) -> tuple[Contract, Clients]:
    """The clients that this process saw first in this run: Flower pickles the app anew for each message, and what they keep would go."""
    if run not in _KEEP:
        _KEEP.clear()
        _KEEP[run] = (contract, clients)
    return _KEEP[run]
