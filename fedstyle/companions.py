"""Companions: named tensors that travel with a base from round to round and are averaged as its parameters are.

They are no part of the transform network: SCAFFOLD's control variates, for example, or the networks of IFCA's other clusters. A method
that has any gives their first values in `companions(net)`, and finds them in `Task.beside`, where it leaves in a round what is to be sent.
In a base, in an update and on the wire their names begin with `beside.`; no filter has any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from fedstyle import params
from fedstyle.errors import ConfigError
from fedstyle.prediction import is_predictor

if TYPE_CHECKING:
    from fedstyle.base import Base
    from fedstyle.methods import Method

PREFIX = "beside."


def is_companion(name: str) -> bool:
    """Whether a base's tensor is a companion."""
    return name.startswith(PREFIX)


def is_own(name: str) -> bool:
    """Whether a base's tensor is the transform network's own: neither a companion nor the predictor's."""
    return not is_companion(name) and not is_predictor(name)


def part(weights: params.Params) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that are no companions, and copies of the companions without their prefix."""
    beside, rest = params.split(weights, is_companion)
    return rest, {name.removeprefix(PREFIX): value.clone() for name, value in beside.items()}


def join(weights: params.Params, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `part` took apart."""
    return {**weights, **{f"{PREFIX}{name}": value.detach().cpu() for name, value in beside.items()}}


def outfit(base: Base, method: Method) -> Base:
    """The base with the companions that a method declares, those that it has or else their first values, and with no others.

    Raises ConfigError for a method that does not share what it declares, ParamsError where the base's are of other shapes.
    """
    weights, there = part(base.weights)
    declare = getattr(method, "companions", None)
    if declare is None:
        return dataclasses.replace(base, weights=weights) if there else base
    first = declare(dataclasses.replace(base, weights=base.transform()).net())
    there = {name: value for name, value in there.items() if name in first}
    params.check_alike(there, {name: first[name] for name in there}, "the base's companions")
    made = join(weights, first | there)
    if hidden := [name for name in made if is_companion(name) and not method.shares(name)]:
        raise ConfigError(f"{type(method).__name__} declares the companion {hidden[0]!r} and does not share it: let shares() accept it")
    return dataclasses.replace(base, weights=made)
