import hashlib
import struct

import pytest
import torch

from fedstyle import params
from fedstyle.errors import OutputError, ParamsError


def named(**values):
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def test_split_and_merge_are_each_others_inverse():
    whole = named(a=[1.0], b=[2.0], c=[3.0])
    shared, private = params.split(whole, lambda name: name != "b")
    assert list(shared) == ["a", "c"]
    assert list(private) == ["b"]
    assert params.fingerprint(params.merge(shared, private)) == params.fingerprint(whole)
    with pytest.raises(ParamsError, match="'b' stands in two parts"):
        params.merge(whole, private)


def test_difference_and_sum():
    old, new = named(a=[1.0, 2.0]), named(a=[1.5, 1.0])
    update = params.subtract(new, old)
    assert update["a"].tolist() == [0.5, -1.0]
    assert params.add(old, update)["a"].tolist() == [1.5, 1.0]
    half = {"a": old["a"].half()}
    assert params.subtract(new, half)["a"].dtype == torch.float32  # widened before anything is computed


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (named(a=[1.0, 2.0]), "1 tensors are missing, 'b' first"),
        (named(a=[1.0, 2.0], b=[0.0], c=[0.0]), "1 tensors are not expected, 'c' first"),
        (named(a=[1.0], b=[0.0]), r"'a' has shape \(1,\), expected \(2,\)"),
        (named(a=[1.0, float("nan")], b=[0.0]), "'a' holds a value that is not finite"),
        (named(a=[1.0, float("-inf")], b=[0.0]), "'a' holds a value that is not finite"),
    ],
)
def test_what_does_not_fit_is_an_error_by_name(other, says):
    like = named(a=[1.0, 2.0], b=[3.0])
    for operation in (lambda: params.subtract(other, like), lambda: params.add(like, other)):
        with pytest.raises(ParamsError, match=says):
            operation()


def test_what_is_not_finite_is_named():
    assert params.infinite({}) is None
    assert params.infinite(named(a=[], b=[1.0])) is None
    assert params.infinite(named(a=[3e38, 3e38], b=[1.0])) is None  # only the sum, 6e38, is more than fp32 holds
    assert params.infinite(named(a=[3e38, 3e38], b=[float("inf"), float("-inf")])) == "b"


def test_the_fingerprint_covers_names_types_shapes_and_bytes():
    # By hand: "a", NUL, type, NUL, shape, NUL, then 1.0 and 2.0 as little-endian floats; then "b" likewise.
    expected = hashlib.sha256(
        b"a\0torch.float32\0(2,)\0" + struct.pack("<2f", 1.0, 2.0) + b"b\0torch.int64\0()\0" + struct.pack("<q", 7)
    ).hexdigest()
    whole = {"b": torch.tensor(7), "a": torch.tensor([1.0, 2.0])}  # their order does not count
    assert params.fingerprint(whole) == expected
    others = [
        {"a": whole["a"], "c": whole["b"]},
        {"a": whole["a"][None], "b": whole["b"]},
        {"a": whole["a"].double(), "b": whole["b"]},
        {"a": whole["a"].flip(0), "b": whole["b"]},
        {"a": whole["a"]},
    ]
    assert len({params.fingerprint(other) for other in [whole, *others]}) == 6


def test_the_fingerprint_does_not_depend_on_how_memory_lies():
    value = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert params.fingerprint({"a": value}) == params.fingerprint({"a": value.to(memory_format=torch.channels_last)})
    turned = value[0, 0].t()
    assert params.fingerprint({"a": turned}) == params.fingerprint({"a": turned.clone(memory_format=torch.contiguous_format)})


def test_size_counts_the_bytes():
    assert params.size({"a": torch.zeros(3, 2), "b": torch.zeros(5, dtype=torch.float16)}) == 6 * 4 + 5 * 2


def test_saved_tensors_come_back_and_equal_tensors_give_equal_files(tmp_path):
    whole = {"b": torch.tensor(7), "a": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)}
    params.save(whole, tmp_path / "x")
    params.save({"a": whole["a"].contiguous(), "b": whole["b"]}, tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    back = params.load(tmp_path / "x", sha256=hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest())
    assert params.fingerprint(back) == params.fingerprint(whole)


def test_a_file_that_is_absent_damaged_or_altered_is_an_error(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(ParamsError, match=r"cannot read .*x: No such file"):
        params.load(path)
    params.save(named(a=[1.0, 2.0]), path)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content[:-1])
    with pytest.raises(ParamsError, match="no safetensors file, or a damaged one"):
        params.load(path)
    path.write_bytes(content[:-1] + b"\1")
    with pytest.raises(ParamsError, match="altered or damaged: its hash"):
        params.load(path, sha256=digest)
    path.write_text("no tensors")
    with pytest.raises(ParamsError, match="no safetensors file"):
        params.load(path)
    with pytest.raises(OutputError, match="cannot write"):
        params.save(named(a=[1.0]), path / "below" / "a file")


def test_a_seal_tells_one_flipped_bit(tmp_path):
    sealed = params.seal({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)})
    assert params.unseal(sealed, tmp_path).keys() == {"a", "b"}
    sealed["a"].view(torch.int32)[0] ^= 1
    with pytest.raises(ParamsError, match="altered or damaged"):
        params.unseal(sealed, tmp_path)
    with pytest.raises(ParamsError, match="altered or damaged"):
        params.unseal({"a": torch.ones(1)}, tmp_path)
