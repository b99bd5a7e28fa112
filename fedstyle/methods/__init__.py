"""Personalisation methods: frozen dataclasses that say which parameters are shared and how a client trains.

A method is any value with `shares(name)`, `fit(net, task, memory)` and `personalize(net, task, memory, iterations, full)`. Its fields are
its hyper-parameters and the keys of the `[method]` table. The framework keeps the parameters that a method does not share, and what it
leaves in `memory`, on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from torch import Tensor, nn

from fedstyle.errors import ConfigError
from fedstyle.methods.fedavg import FedAvg
from fedstyle.methods.fedbn import FedBN
from fedstyle.methods.fedprox import FedProx
from fedstyle.methods.local import Local
from fedstyle.methods.predicted import Predicted
from fedstyle.tables import nearest, read
from fedstyle.training import Progress, Task

Memory = MutableMapping[str, Tensor]


class Method(Protocol):
    """What fedstyle asks of a personalisation method."""

    def shares(self, name: str) -> bool:
        """Whether the parameter with this name is sent to the server."""

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """Train for a round, in place."""

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Make the network personal, in place; `full` trains every parameter."""


METHODS: dict[str, type[Any]] = {"fedavg": FedAvg, "fedbn": FedBN, "fedprox": FedProx, "local": Local, "predicted": Predicted}


def make_method(table: Mapping[str, Any]) -> Method:
    """The method that a `[method]` table describes; raises ConfigError for an unknown name or key, or a value out of range."""
    name = table.get("name", "fedbn")
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"unknown method.name = {name!r}{nearest(str(name), METHODS)}")
    method: Method = read(METHODS[name], {key: value for key, value in table.items() if key != "name"}, "method")
    return method
