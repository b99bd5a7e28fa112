"""Federated and personalised training of photo filters."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Base": "base",
    "Client": "client",
    "Filter": "filter",
    "Style": "style",
}

__all__ = ["Base", "Client", "Filter", "Style"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedstyle' has no attribute {name!r}")
    return getattr(import_module(f"fedstyle.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
