"""Personalisation methods: frozen dataclasses that say which parameters are shared and how a client trains.

A method is any value with `shares(name)`, `fit(net, task, memory)` and `personalize(net, task, memory, iterations, full)`. Its fields are
its hyper-parameters and the keys of the `[method]` table; those of a field `rates: Rates` stand in that table beside them. The framework
keeps the parameters that a method does not share, and what it leaves in `memory`, on the device.

A method of your own needs no place in METHODS: `method.name = "my_file:MyMethod"` takes it from a file on this machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from fedstyle.errors import ConfigError
from fedstyle.methods.apfl import APFL
from fedstyle.methods.descent import OWN, Memory, Rates
from fedstyle.methods.ditto import Ditto
from fedstyle.methods.fedavg import FedAvg
from fedstyle.methods.fedavg_ft import FedAvgFT
from fedstyle.methods.fedbabu import FedBABU
from fedstyle.methods.fedbn import FedBN
from fedstyle.methods.fedper import FedPer
from fedstyle.methods.fedprox import FedProx
from fedstyle.methods.fedrep import FedRep
from fedstyle.methods.file import load_class
from fedstyle.methods.ifca import IFCA
from fedstyle.methods.lg_fedavg import LGFedAvg
from fedstyle.methods.local import Local
from fedstyle.methods.lora import LoRA
from fedstyle.methods.meta_norms import MetaNorms
from fedstyle.methods.per_fedavg import PerFedAvg
from fedstyle.methods.pfedme import PFedMe
from fedstyle.methods.predicted import Predicted
from fedstyle.methods.reptile import Reptile
from fedstyle.methods.scaffold import Scaffold
from fedstyle.tables import nearest, read
from fedstyle.training import Progress, Task

__all__ = ["METHODS", "Memory", "Method", "OWN", "Rates", "check_match", "make_method", "settings"]


class Method(Protocol):
    """What fedstyle asks of a personalisation method.

    Three attributes are optional: `refuses`, from the name of a server strategy to why the method cannot go with it; `variants`, the
    number of looks of its style with which a client is to teach a base's predictor of norms; and `companions(net)`, which gives the first
    values of tensors that the method lets travel with the base, by names of its own, from the first base's network: see `companions`.
    """

    def shares(self, name: str) -> bool:
        """Whether the parameter with this name is sent to the server."""

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """Train for a round, in place. `memory` is what the method left in the round before; it stays on the device.

        The companions are in `task.beside`, and what the method puts there instead is sent.
        """

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Make the network personal, in place; `full` trains every parameter.

        `memory` begins with what `fit` left under `own/`. `net` and `memory` are the whole state: a training that is resumed between two
        iterations gets both as they were, `iteration` among them.
        """


METHODS: dict[str, type[Any]] = {
    "local": Local,
    "fedavg": FedAvg,
    "fedavg-ft": FedAvgFT,
    "fedprox": FedProx,
    "fedbn": FedBN,
    "fedper": FedPer,
    "fedrep": FedRep,
    "fedbabu": FedBABU,
    "lg-fedavg": LGFedAvg,
    "ditto": Ditto,
    "apfl": APFL,
    "pfedme": PFedMe,
    "per-fedavg": PerFedAvg,
    "reptile": Reptile,
    "lora": LoRA,
    "scaffold": Scaffold,
    "ifca": IFCA,
    "predicted": Predicted,
    "meta-norms": MetaNorms,
}


def make_method(table: Mapping[str, Any]) -> Method:
    """The method that a `[method]` table describes; its `name` is a key of METHODS, or `PATH:CLASS` for a class in a Python file.

    A path has no need of its `.py`; one that is not absolute goes from the current folder. That file is run: name only your own. Raises
    ConfigError for an unknown name or key, a value out of range, or a file that gives no method.
    """
    name = table.get("name", "fedbn")
    if isinstance(name, str) and ":" in name:
        kind = load_class(name)
    elif isinstance(name, str) and name in METHODS:
        kind = METHODS[name]
    else:
        raise ConfigError(f"unknown method.name = {name!r}{nearest(str(name), METHODS)}")
    given = {key: value for key, value in table.items() if key != "name"}
    known = settings(kind)
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key method.{key}{nearest(key, known)}")
    common = _rates(kind)
    rates = {key: given.pop(key) for key in list(given) if common and key in vars(common)}
    method: Method = read(kind, given, "method")
    return dataclasses.replace(method, rates=read(Rates, {**vars(common), **rates}, "method")) if common else method  # type: ignore[type-var]


def settings(kind: type[Any]) -> dict[str, Any]:
    """The keys of the `[method]` table that a method's class takes, with their defaults; None where there is no default."""
    own = {item.name: None if item.default is dataclasses.MISSING else item.default for item in dataclasses.fields(kind)}
    common = own.pop("rates", None) if _rates(kind) else None
    return (vars(common) if common else {}) | own


def check_match(method: Method, strategy: str) -> None:
    """Raise ConfigError where the method cannot go with the server strategy of this name."""
    reason = getattr(method, "refuses", {}).get(strategy)
    if reason:
        raise ConfigError(f"server.strategy = {strategy!r} does not go with the method {type(method).__name__}: {reason}")


def _rates(kind: type[Any]) -> Rates | None:
    """The rates that a class has by default in its field `rates`, if it has one."""
    defaults = [item.default for item in dataclasses.fields(kind) if item.name == "rates"]
    return defaults[0] if defaults and isinstance(defaults[0], Rates) else None
