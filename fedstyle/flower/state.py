"""What continues a federation after a round: its number, the base, the strategy's own memory, and what else must not start afresh.

It lies in one sealed file that is replaced as a whole, so that a process that is killed at any moment leaves the last round's or the one
before. Its tensors are `base/NAME`, `arrays/NAME` (the strategy's arrays where they are of another type than fp32), `memory/KEY`, and
`facts`, the UTF-8 bytes of a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.errors import FederationError, ParamsError

FORMAT = "fedstyle-state-1"
MEMORY = ("momentum_vector", "m_t", "v_t")
"""Where the stock strategies keep what they remember: FedAvgM a list in the arrays' order, FedAdam, FedAdagrad and FedYogi a dict."""


@dataclass(frozen=True)
class ServerState:
    """A federation after `round`; 0 is before the first.

    `arrays` are those of the strategy's own arrays that are not fp32, which is what the base has. `memory` is the strategy's: see `recall`.
    `extra` is JSON with room for what else goes on: a privacy ledger, a sampler's state.
    """

    round: int
    base: Base
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write the file, in the place of an older one; `about` is JSON of the caller's own."""
        facts = {
            "format": FORMAT,
            "round": self.round,
            "architecture": self.base.arch,
            "padding": self.base.padding,
            "record": dict(self.base.record),
            "extra": dict(self.extra),
            "about": dict(about),
        }
        parts = {"base/": self.base.weights, "arrays/": self.arrays, "memory/": self.memory}
        tensors = {kind + name: value for kind, part in parts.items() for name, value in part.items()}
        tensors["facts"] = torch.frombuffer(bytearray(json.dumps(facts, allow_nan=False).encode()), dtype=torch.uint8)
        params.save(params.seal(tensors), path)

    @classmethod
    def load(cls, path: Path) -> tuple[Self, dict[str, Any]]:
        """Read the file, with its caller's `about`; raises FederationError when it is damaged or of another format."""
        try:
            tensors = params.unseal(params.load(path), path)
            facts = json.loads(bytes(tensors.pop("facts").tolist()))
            if facts["format"] != FORMAT:
                raise FederationError(f"{path} is not of the format {FORMAT}: a newer fedstyle may have written it")
            parts = {kind: {k.removeprefix(kind): v for k, v in tensors.items() if k.startswith(kind)} for kind in _KINDS}
            base = Base(facts["architecture"], facts["padding"], parts["base/"], facts["record"])
            return cls(facts["round"], base, parts["arrays/"], parts["memory/"], facts["extra"]), facts["about"]
        except (ParamsError, KeyError, TypeError, ValueError) as error:
            raise FederationError(f"{path} cannot be read ({error}): the run cannot go on; run again into another folder") from None


_KINDS = ("base/", "arrays/", "memory/")


def recall(strategy: object, names: list[str]) -> dict[str, Tensor]:
    """A copy of what a stock strategy remembers from round to round, under ATTRIBUTE/NAME; `names` are its arrays' in their order."""
    found: dict[str, Tensor] = {}
    for key in MEMORY:
        kept = getattr(_inner(strategy), key, None)
        if kept:
            named = kept if isinstance(kept, dict) else dict(zip(names, kept, strict=True))
            found |= {f"{key}/{name}": torch.from_numpy(np.array(value)) for name, value in named.items()}
    return found


def remind(strategy: object, memory: Mapping[str, Tensor], names: list[str]) -> None:
    """Give a fresh strategy the memory that `recall` copied; raises FederationError when it is not this strategy's."""
    inner = _inner(strategy)
    for key in sorted({name.partition("/")[0] for name in memory}):
        values = {name: memory[f"{key}/{name}"].numpy().copy() for name in names if f"{key}/{name}" in memory}
        if key not in MEMORY or not hasattr(inner, key) or list(values) != names:
            raise FederationError(
                f"the run's state holds a memory {key!r} that is not {type(inner).__name__}'s: run again into another folder"
            )
        setattr(inner, key, list(values.values()) if key == "momentum_vector" else values)


def _inner(strategy: object) -> object:
    """The stock strategy itself, below what stands around it (see `guard`)."""
    while hasattr(strategy, "strategy"):
        strategy = strategy.strategy
    return strategy
