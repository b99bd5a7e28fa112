"""Predicted norms (Exploring the Structure of a Real-Time, Arbitrary Neural Artistic Stylization, Ghiasi et al. 2017, arXiv:1705.06830)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedstyle.methods.descent import RATES, Memory, Rates, copied, train, tune
from fedstyle.net import is_norm
from fedstyle.tables import need
from fedstyle.training import Progress, Task, everything


@dataclass(frozen=True)
class Predicted:
    """Share all parameters, and a predictor of norms that learns from variants of each style image; norms start as predicted.

    Its update tells more of a style than convolutions do (it is an outer product with the style's code): it is meant for bases that are
    learned from public styles, or under secure aggregation.
    """

    rates: Rates = RATES
    variants: int = 7
    """Recoloured and rescaled parts of a style image that a client teaches the predictor besides the image itself."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.variants >= 1, "method.variants", self.variants, "give 1 or more")

    def shares(self, name: str) -> bool:  # noqa: ARG002  every name is shared
        """Everything, the predictor too."""
        return True

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters."""
        return train(net, task, memory, self.rates, anchor=copied(net, self.shares))

    def personalize(self, net: nn.Module, task: Task, memory: Memory, iterations: int, full: bool) -> Iterator[Progress]:
        """Descent on the norms alone, or on all parameters, from the predicted norms."""
        return tune(net, task, memory, iterations, everything if full else is_norm)
