"""Flower apps, as an app bundle imports them: a simulation's two, and a federation's two.

`server` and `client` are the main job, with Flower's own simulation below it, for `flwr run simulation/app`. Two keys of the run's
configuration say what to run: `config`, a TOML of fedstyle, and `out`, the run's folder. Both are absolute, for the process that reads them
was started in another folder. The clients are made again from that TOML by the number of their partition.

`federation` and `device` are those of devices over the network. What they serve, their environment names: see `flower.hosting` and
`flower.device`. Importing `federation` imports nothing that can open a photo.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedstyle.config import Config
from fedstyle.errors import ConfigError
from fedstyle.flower.client import Clients, client_app
from fedstyle.flower.hosting import host
from fedstyle.flower.server import server_app
from fedstyle.flower.wire import Contract


def _paths(run_config: Mapping[str, Any]) -> tuple[Path, Path]:
    """The TOML and the run's folder; raises ConfigError unless both are absolute paths."""
    found = [Path(str(run_config.get(key, ""))) for key in ("config", "out")]
    for key, path in zip(("config", "out"), found, strict=True):
        if not path.is_absolute():
            raise ConfigError(f"{key} = '{path}': give an absolute path, flwr run simulation/app --run-config \"{key}='/...'\"")
    return found[0], found[1]


def _serve(grid: Any, run_config: Mapping[str, Any]) -> None:
    from fedstyle.simulate import simulate  # opens photos, which importing a server's app must not

    config, out = _paths(run_config)
    simulate(Config.load(config), out, grid=grid)


@functools.cache
def _clients(path: Path, out: Path) -> tuple[Contract, Clients]:
    """What a device's process needs, once: its contract from its own configuration, and the clients it may be asked to be."""
    from fedstyle.methods import make_method
    from fedstyle.population import Clients as Population
    from fedstyle.population import first_base

    config = Config.load(path)
    return Contract.of(first_base(config), make_method(config.method).shares, config.server.wire), Population(config, out)


server = server_app(_serve)
client = client_app(lambda context: _clients(*_paths(context.run_config)))
federation = server_app(host)


def __getattr__(name: str) -> Any:
    """The device's app, made when it is asked for: it opens photos, which a server's process must not be able to."""
    if name != "device":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedstyle.flower.device import device_app

    return device_app()
