"""The ray engine: Flower's own simulation, for many cores or a cluster; the same apps, the same base."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedstyle.errors import ConfigError, FederationError

Result = TypeVar("Result")


def check_ray() -> None:
    """Raise ConfigError unless Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("server.engine = 'ray' needs Ray, which is not installed: pip install 'fedstyle[ray]'")


def run_ray(app: ClientApp, clients: int, workers: int, serve: Callable[[Grid, threading.Event], Result]) -> Result:
    """Give `serve` a grid of clients that live in Ray's actors, one CPU each, `workers` at once.

    With RAY_ADDRESS set the run joins that cluster and takes all its CPUs. `serve` runs in another thread, and its second argument is set
    when the engine stops. Raises ConfigError when Ray is not installed, FederationError when the engine stops early, and whatever `serve`
    raises.
    """
    check_ray()
    from flwr.simulation import run_simulation  # it takes seconds, and inline has no use for it

    stop, results, failures = threading.Event(), [], []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  Flower's signature
        try:
            results.append(serve(grid, stop))
        except BaseException as error:  # noqa: BLE001  raised again below, where the caller is
            failures.append(error)

    start: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:
        start["num_cpus"] = workers
    path = os.environ.get("PYTHONPATH")
    try:
        run_simulation(
            server_app=server,
            client_app=app,
            num_supernodes=clients,
            backend_name="ray",
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": start},
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise FederationError(f"Flower's ray engine stopped: {type(cause).__name__}: {cause}") from error
    finally:
        stop.set()
        _restore("PYTHONPATH", path)  # Flower leaves this process's sys.path there
    if failures:
        raise failures[0]
    if not results:
        raise FederationError("Flower's ray engine ended without a result")
    return results[0]


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
