"""Arrays for a strategy in this process: Flower encodes each as a file of numpy's and decodes it at every look, and these are just held.

They never cross: `Cohort` stands between the strategy and Flower's grid, and writes what is sent itself.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedstyle import params


class Held(Array):
    """Flower's array of numpy's kind, with its numbers at hand; its bytes are made when somebody asks for them."""

    values: NDArray[Any]

    def __init__(self, values: NDArray[Any]) -> None:
        self.__dict__ |= {"values": values, "dtype": str(values.dtype), "shape": values.shape, "stype": "numpy.ndarray"}

    def numpy(self) -> NDArray[Any]:
        """A copy of the numbers, as Flower's own arrays give."""
        return self.values.copy()

    @property
    def data(self) -> bytes:  # type: ignore[override]  # nobody sets it
        """The numbers as Flower sends them."""
        np.save(file := io.BytesIO(), self.values, allow_pickle=False)
        return file.getvalue()


def hold(weights: params.Params) -> ArrayRecord:
    """Tensors as a strategy wants them, names sorted; nobody may change them from now on."""
    record = ArrayRecord()  # made of a dictionary it would make Flower's own arrays of them
    for name in sorted(weights):
        record[name] = Held(weights[name].detach().cpu().numpy())
    return record
