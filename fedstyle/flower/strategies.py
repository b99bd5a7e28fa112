"""Flower's stock strategies by name, with their own numbers checked before a run starts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from flwr.serverapp import strategy as stock
from flwr.serverapp.strategy import FedAvg

from fedstyle.errors import ConfigError
from fedstyle.tables import nearest, need

STRATEGIES = (
    "Bulyan", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedMedian", "FedProx", "FedTrimmedAvg", "FedYogi", "Krum", "MultiKrum",
)  # fmt: skip

_REFUSED = {
    "QFedAvg": "it weighs clients by their training loss, and no loss leaves a device",
    "FedXgb": "it aggregates trees, not networks",
    "DifferentialPrivacy": "it wraps another strategy; what is done to an update is set in [privacy]",
}


def make_strategy(name: str, options: Mapping[str, float], cohort: int) -> FedAvg:
    """The unmodified strategy `name` that trains all of a cohort of this size and evaluates none.

    `options` are the strategy's own numbers, by the names of its parameters in flwr.serverapp.strategy. Raises ConfigError for an unknown
    or refused strategy, an unknown option, a number out of range, or a cohort too small for what the strategy withstands.
    """
    for start, reason in _REFUSED.items():
        if name.startswith(start):
            raise ConfigError(f"server.strategy = {name!r} cannot be used: {reason}. Choose one of {', '.join(STRATEGIES)}")
    if name not in STRATEGIES:
        raise ConfigError(f"unknown server.strategy = {name!r}{nearest(name, STRATEGIES)}")
    kind: type[FedAvg] = getattr(stock, name)
    known = {key: type(default) for key, default in _own(kind).items()}
    numbers: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"unknown option server.options.{key} of {name}{nearest(key, known)}")
        whole = known[key] is int
        need(not whole or float(value).is_integer(), f"server.options.{key}", value, "give a whole number")
        need(value >= 0, f"server.options.{key}", value, "give 0 or more")
        numbers[key] = known[key](value)
    _check_cohort(name, int(numbers.get("num_malicious_nodes", 0)), int(numbers.get("num_nodes_to_select", 1)), cohort)
    numbers |= {"min_train_nodes": cohort, "min_available_nodes": cohort, "min_evaluate_nodes": 0}
    try:
        return kind(fraction_train=1.0, fraction_evaluate=0.0, **numbers)
    except ValueError as error:
        raise ConfigError(f"server.options of {name}: {error}") from None


def _own(kind: type[FedAvg]) -> dict[str, float]:
    """The numbers that a strategy has beyond FedAvg, with their defaults."""
    common = inspect.signature(FedAvg).parameters
    own = {key: item.default for key, item in inspect.signature(kind).parameters.items() if key not in common}
    return {key: default for key, default in own.items() if isinstance(default, int | float)}


def _check_cohort(name: str, malicious: int, selected: int, cohort: int) -> None:
    """Krum needs 2f + 3 clients to withstand f (Blanchard et al. 2017), Bulyan 4f + 3 (El Mhamdi et al. 2018)."""
    least = {"Krum": 2 * malicious + 3, "MultiKrum": 2 * malicious + 3, "Bulyan": 4 * malicious + 3}.get(name, 1)
    if cohort < least:
        raise ConfigError(f"server.strategy = {name!r} with {malicious} malicious clients needs {least} a round; there are {cohort}")
    need(1 <= selected <= cohort, "server.options.num_nodes_to_select", selected, f"give 1 to {cohort}, the clients of a round")
