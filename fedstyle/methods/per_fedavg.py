"""Per-FedAvg: a start that one step makes personal (Personalized FL: A Meta-Learning Approach, Fallah et al. 2020, arXiv:2002.07948)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedstyle.methods.descent import RATES, Memory, Rates, Through, copied, slopes, train, tune
from fedstyle.prediction import is_predictor
from fedstyle.tables import need
from fedstyle.training import Progress, Task, derive


@dataclass(frozen=True)
class PerFedAvg:
    """Share all parameters; each step lowers the loss that the network has after a gradient step of `inner_lr` on another batch.

    It is the paper's first-order variant: the slope at the moved weights, without the Hessian's factor (I - inner_lr H); the other variant
    needs two more gradients a step. The outer step is Adam's, the inner one plain, as in the paper. A step costs two gradients.
    """

    rates: Rates = RATES
    inner_lr: float = 1e-4
    """The inner step's rate: the paper's alpha. This loss is steep in a young network: 1e-3 diverged with three seeds of three."""

    def __post_init__(self) -> None:
        """Check ranges."""
        need(0 < self.inner_lr <= 1, "method.inner_lr", self.inner_lr, "a learning rate lies over 0 and up to 1")

    def shares(self, name: str) -> bool:
        """Everything but a base's predictor of norms, which does not train."""
        return not is_predictor(name)

    def fit(self, net: nn.Module, task: Task, memory: Memory) -> Iterator[Progress]:
        """A few steps on all parameters; the losses are those after the inner step."""
        shift: dict[str, Tensor] = {}
        inner = dataclasses.replace(task, seed=derive(task.seed, "inner"))

        def moved(own: Mapping[str, Tensor], _: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value - self.inner_lr * shift[name] for name, value in own.items()}

        shift.update(slopes(net, inner, 0))
        ahead = Through(net, moved)
        for progress in train(ahead, task, memory, self.rates, anchor=copied(net, prefix="net.")):
            yield progress
            if progress.iteration < self.rates.steps:
                shift.update(slopes(net, inner, progress.iteration))

    def personalize(
        self,
        net: nn.Module,
        task: Task,
        memory: Memory,
        iterations: int,
        full: bool,  # noqa: ARG002  the inner step moves all parameters
    ) -> Iterator[Progress]:
        """Descent on all parameters."""
        return tune(net, task, memory, iterations)
