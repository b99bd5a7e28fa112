import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import strategy_utils

from fedstyle.flower.held import Held, hold


@pytest.mark.parametrize("values", [torch.arange(6.0).reshape(2, 3), torch.tensor(1.5), torch.zeros(0, 2), torch.ones(2, 2).double()])
def test_a_held_array_is_flowers_own_in_all_that_can_be_seen(values):
    held, own = hold({"a": values})["a"], Array(values.numpy())
    assert isinstance(held, Held)
    assert (held.dtype, held.shape, held.stype, held.data) == (own.dtype, own.shape, own.stype, own.data)
    assert held.numpy().dtype == own.numpy().dtype
    np.testing.assert_array_equal(held.numpy(), own.numpy())
    assert hold({"a": values}).count_bytes() == ArrayRecord({"a": own}).count_bytes()


def test_what_a_strategy_does_to_its_copy_is_not_seen():
    weights = {"b": torch.ones(2), "a": torch.zeros(2)}
    record = hold(weights)
    assert list(record) == ["a", "b"]
    record["b"].numpy()[:] = 5
    assert record["b"].numpy().tolist() == weights["b"].tolist() == [1, 1]


def test_flowers_own_mean_is_the_same_to_the_bit():
    def mean(make):
        records = [RecordDict({"arrays": ArrayRecord({"a": make(values)}), "metrics": MetricRecord({"n": 1})}) for values in drawn]
        return strategy_utils.aggregate_arrayrecords(records, "n")["a"].data

    drawn = list(np.random.default_rng(0).standard_normal((5, 7, 3)).astype(np.float32))
    assert mean(Held) == mean(Array)
