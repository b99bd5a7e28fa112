"""The server's side of a run: a stock Flower strategy, driven by its own `start`, over a seeded cohort.

Nothing here can open a photo: no module that it imports reaches photos, style images, clients or training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedstyle import params
from fedstyle.base import Base
from fedstyle.config import Config, Server
from fedstyle.errors import FederationError, FedstyleError, ParamsError
from fedstyle.flower.cohort import Cohort, Traffic, shared_arrays
from fedstyle.flower.strategies import make_strategy
from fedstyle.flower.wire import TYPES, Contract, pack
from fedstyle.tables import need


@dataclass(frozen=True)
class Round(Traffic):
    """A round that is over: its traffic, the seconds it took, and the base that came of it."""

    seconds: float
    base: Base


def server_app(run: Callable[[Grid, Mapping[str, Any]], None]) -> ServerApp:
    """The Flower app of a server; `run` gets the grid and the run's configuration, as `flwr run` was given it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Run it."""
        run(grid, context.run_config)

    return app


def cohort_size(server: Server, clients: int) -> int:
    """The clients of a round; raises ConfigError when the configuration asks for more than there are."""
    need(server.cohort <= clients, "server.cohort", server.cohort, f"there are {clients} clients; 0 takes all")
    return server.cohort or clients


def serve(
    grid: Grid,
    config: Config,
    base: Base,
    contract: Contract,
    clients: int,
    *,
    on_round: Callable[[Round], None] = lambda _: None,
    done: int = 0,
    stop: threading.Event | None = None,
    pause: float = 0.05,
) -> Base:
    """Run the rounds of `config.server` from `base` over `grid`, and give the last base.

    `on_round` gets every round as it ends, in this thread. A run that goes on after `done` rounds samples the cohorts that it would have
    sampled; a strategy with a memory of its own (FedAvgM, FedAdam, FedAdagrad, FedYogi) starts that afresh. Raises ConfigError for a
    strategy or option that cannot be used, FederationError when too few clients join or reply, or the strategy makes no base of them.
    """
    server, size = config.server, cohort_size(config.server, clients)
    strategy = make_strategy(server.strategy, server.options, size)
    if done >= server.rounds:
        return base
    timing = (server.min_replies, server.timeout, done, stop or threading.Event(), pause)
    cohort = Cohort(grid, contract, base, clients, size, config.training.seed, *timing)
    cohort.gather()
    record = {**base.record, "strategy": server.strategy, "seed": config.training.seed}
    last, started, result = ArrayRecord(), time.monotonic(), base

    def finish(_: int, arrays: ArrayRecord) -> None:
        """Called by the strategy with the arrays that it starts from, and with those of each round."""
        nonlocal last, started, result
        traffic = cohort.traffic
        if traffic is not None:
            if arrays is last:
                raise FederationError(f"round {traffic.number}: {server.strategy} made no base of {len(traffic.replied)} replies")
            shared, private = shared_arrays(arrays), params.split(base.weights, lambda name: name not in contract.shared)[0]
            result = Base(base.arch, base.padding, params.merge(shared, private), {**record, "round": traffic.number})
            try:
                params.check_alike(result.weights, base.weights, f"round {traffic.number}: the base that {server.strategy} made")
            except ParamsError as error:
                raise FederationError(f"{error}: try lower rates in [method] or server.options") from None
            seconds, started = time.monotonic() - started, time.monotonic()
            on_round(Round(**vars(traffic), seconds=seconds, base=result))
        last, started = arrays, time.monotonic()

    initial = pack({name: base.weights[name] for name in contract.shared}, TYPES["fp32"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small sums: threads that wait for each other cost a hundred times what they save
    try:
        strategy.start(cohort, initial, num_rounds=server.rounds - done, timeout=server.timeout, evaluate_fn=finish)
    except FedstyleError:
        raise
    except Exception as error:
        raise FederationError(f"round {cohort.done}: {server.strategy} failed: {error}") from error
    finally:
        torch.set_num_threads(threads)
    return result
