"""Federated and personalised training of photo filters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedstyle import export as export
    from fedstyle import simulate as simulate
    from fedstyle.base import Base as Base
    from fedstyle.client import Client as Client
    from fedstyle.client import Update as Update
    from fedstyle.config import Config as Config
    from fedstyle.config import Training as Training
    from fedstyle.export import Parity as Parity
    from fedstyle.export import verify as verify
    from fedstyle.filter import Filter as Filter
    from fedstyle.job import Job as Job
    from fedstyle.photos import Photos as Photos
    from fedstyle.simulate import History as History
    from fedstyle.style import Style as Style

_HOMES = {
    "Base": "base",
    "Client": "client",
    "Config": "config",
    "Filter": "filter",
    "History": "simulate",
    "Job": "job",
    "Parity": "export",
    "Photos": "photos",
    "Style": "style",
    "Training": "config",
    "Update": "client",
    "export": "",
    "simulate": "",
    "verify": "export",
}

__all__ = [
    "Base",
    "Client",
    "Config",
    "Filter",
    "History",
    "Job",
    "Parity",
    "Photos",
    "Style",
    "Training",
    "Update",
    "export",
    "simulate",
    "verify",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedstyle' has no attribute {name!r}")
    home = _HOMES[name]
    return getattr(import_module(f"fedstyle.{home}"), name) if home else import_module(f"fedstyle.{name}")  # those modules can be called


def __dir__() -> list[str]:
    return __all__
