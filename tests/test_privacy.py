import math
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.privacy import clip
from fedstyle.privacy.clipping import level


def norm(update):
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))


def test_an_update_is_clipped_to_the_joint_norm():
    # sqrt(3² + 4² + 12²) = 13: at 6.5 every number is halved.
    update = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[12.0]])}
    clipped = clip(update, 6.5)
    assert clipped["a"].tolist() == [1.5, 2.0]
    assert clipped["b"].tolist() == [[6.0]]
    assert update["a"].tolist() == [3.0, 4.0]


def test_a_short_update_and_a_norm_of_0_leave_it_as_it_is():
    update = {"a": torch.tensor([3.0, 4.0])}
    for bound in (5.0, 100.0, 0.0, math.inf):
        assert clip(update, bound)["a"].tolist() == [3.0, 4.0]
    assert clip({}, 1.0) == {}
    assert clip({"a": torch.zeros(2)}, 1.0)["a"].tolist() == [0.0, 0.0]


def test_a_norm_beyond_the_range_of_fp32_squares_is_clipped_too():
    update = {"a": torch.full((4,), 1e30)}  # its square is no fp32
    assert math.isclose(norm(clip(update, 1.0)), 1.0, rel_tol=1e-6)


def test_updates_longer_than_the_median_are_shortened_to_it():
    # Lengths 5, 10, 15 and 0: of the two in the middle, 5 and 10, the shorter counts.
    updates = {k: {"a": torch.tensor([3.0 * times]), "b": torch.tensor([4.0 * times])} for k, times in enumerate((1, 2, -3, 0))}
    found = level(updates)
    assert [(float(one["a"]), float(one["b"])) for one in found.values()] == [(3, 4), (3, 4), (-3, -4), (0, 0)]
    assert level({}) == {}
    assert level({1: {}, 2: {}}) == {1: {}, 2: {}}  # of a method that shares nothing


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.floats(-1e6, 1e6, width=32), max_size=6), max_size=4),
    st.floats(1e-3, 1e6),
)
def test_the_norm_is_at_most_the_bound_and_the_direction_stays(values, bound):
    update = {name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in values.items()}
    clipped = clip(update, bound)
    assert list(clipped) == list(update)
    assert all(value.dtype == torch.float32 and value.shape == update[name].shape for name, value in clipped.items())
    assert norm(clipped) <= bound * (1 + 1e-6)
    scale = min(1.0, bound / norm(update)) if norm(update) else 1.0
    for name, value in clipped.items():
        torch.testing.assert_close(value.double(), update[name].double() * scale, rtol=1e-6, atol=1e-37)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_accounting_and_secure_sums_need_neither_torch_nor_flower_to_load():
    names = ("accounting", "ledger", "sampling", "shares", "secagg.client", "secagg.server")
    code = "; ".join(f"import fedstyle.privacy.{name}" for name in names)
    loaded = {module.partition(".")[0] for module in run(f"{code}; import sys; print(*sys.modules)")}
    assert "cryptography" in loaded
    assert not loaded & {"torch", "flwr", "dp_accounting", "scipy", "PIL"}


def test_without_cryptography_the_extra_is_named():
    code = """
import sys
sys.modules["cryptography.exceptions"] = None
import fedstyle.privacy.secagg.terms, fedstyle.privacy.shares
from fedstyle.errors import FedstyleError
try:
    import fedstyle.privacy.secagg.client
except FedstyleError as error:
    print(error)
"""
    assert "'fedstyle[secure]'" in run(code)
