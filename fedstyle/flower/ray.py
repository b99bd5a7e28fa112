"""The ray engine: Flower's own simulation, for many cores or a cluster; the same apps, the same base."""

from __future__ import annotations

import importlib.util
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedstyle.errors import ConfigError, FederationError

Result = TypeVar("Result")
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""A Ray of our own listens on loopback (the first does that on any system) and to who knows the token; by itself it takes code from all.

The token is the process's, for Ray reads it once.
"""


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
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", *_ALONE)}  # Flower leaves this process's sys.path in the first
    start: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:
        start["num_cpus"] = workers
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
    from flwr.simulation import run_simulation  # it takes seconds, inline has no use for it, and Ray reads the environment with it

    stop, results, failures = threading.Event(), [], []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  Flower's signature
        try:
            results.append(serve(grid, stop))
        except BaseException as error:  # noqa: BLE001  raised again below, where the caller is
            failures.append(error)

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
        _restore(before)
    if failures:
        raise failures[0]
    if not results:
        raise FederationError("Flower's ray engine ended without a result")
    return results[0]


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
