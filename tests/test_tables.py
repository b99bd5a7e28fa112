import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstyle import tables
from fedstyle.errors import ConfigError


@dataclass(frozen=True)
class Part:
    count: int = 1
    rate: float = 0.5
    name: str = "x"
    on: bool = False
    kind: Literal["a", "b"] = "a"
    many: str | tuple[str, ...] = "one"
    layers: tuple[float, ...] = (1.0,)
    options: Mapping[str, float] = field(default_factory=dict)


def read(text):
    return tables.read(Part, tomllib.loads(text), "part")


def test_every_kind_of_value_is_read():
    text = 'count = 2\nrate = 3\nname = "y"\non = true\nkind = "b"\nmany = ["p", "q"]\nlayers = [1, 0.5]\noptions = { eta = 1, beta = 0.9 }'
    found = read(text)
    assert found == Part(2, 3.0, "y", True, "b", ("p", "q"), (1.0, 0.5), {"eta": 1.0, "beta": 0.9})
    assert type(found.rate) is float
    assert type(found.layers[0]) is float
    assert read('many = "two"').many == "two"
    assert read("") == Part()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cuont = 2", r"unknown key part.cuont: did you mean 'count'\? Known are count, kind, layers, many, name, on, options, rate"),
        ("zzz = 2", "unknown key part.zzz: Known are count, "),
        ("count = 2.0", r"part.count = 2.0: give a whole number"),
        ("count = true", r"part.count = True: give a whole number"),
        ('rate = "fast"', "part.rate = 'fast': give a number"),
        ("rate = true", "part.rate = True: give a number"),
        ("rate = nan", "part.rate = nan: give a finite number"),
        ("rate = -inf", "part.rate = -inf: give a finite number"),
        ("name = 3", "part.name = 3: give a text in quotes"),
        ('on = "yes"', "part.on = 'yes': give true or false"),
        ('kind = "c"', "part.kind = 'c': choose one of a, b"),
        ("kind = []", "part.kind = .*: choose one of a, b"),
        ("many = 3", "part.many = 3: give a text in quotes"),
        ("many = [3]", "part.many = 3: give a text in quotes"),
        ("layers = 1.0", "part.layers = 1.0: give a list"),
        ("layers = [1.0, inf]", "part.layers = inf: give a finite number"),
        ("options = 1", "part.options = 1: give a table"),
        ('options = { eta = "x" }', "part.options.eta = 'x': give a number"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_key(text, says):
    with pytest.raises(ConfigError, match=says):
        read(text)


def test_nearest():
    assert tables.nearest("fedbm", ["local", "fedbn"]) == ": did you mean 'fedbn'? Known are fedbn, local"
    assert tables.nearest("q", ["local"]) == ": Known are local"
    assert tables.nearest("q", []) == ": There is none"


def test_need():
    tables.need(True, "a.b", 3, "must be 3")
    with pytest.raises(ConfigError, match=r"^a.b = 3: must be 4$"):
        tables.need(False, "a.b", 3, "must be 4")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b = 0.5", 0.5),
        ("a.b=true", True),
        ("a.b=FedAdam", "FedAdam"),
        ('a.b="3"', "3"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=", ""),
    ],
)
def test_an_override_is_a_toml_value_or_a_bare_word(text, value):
    found = {"a": {"b": 1, "c": 2}}
    tables.override(found, text)
    assert found == {"a": {"b": value, "c": 2}}


def test_an_override_reaches_into_tables_and_makes_them():
    found = {}
    tables.override(found, "server.options.eta=0.1")
    tables.override(found, "server.options.beta=2")
    assert found == {"server": {"options": {"eta": 0.1, "beta": 2}}}


@pytest.mark.parametrize("text", ["rounds=3", "server.rounds", "=3", "server.=3", ""])
def test_an_override_of_another_form_is_an_error(text):
    with pytest.raises(ConfigError, match=f"--set {text!r}: write table.key=value"):
        tables.override({}, text)


def test_an_override_below_a_value_is_an_error():
    with pytest.raises(ConfigError, match=r"--set 'a.b.c=3': b = 1 is no table"):
        tables.override({"a": {"b": 1}}, "a.b.c=3")
    with pytest.raises(ConfigError, match="a = 1 is no table"):
        tables.override({"a": 1}, "a.b=3")


def test_a_file_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*x.toml: No such file"):
        tables.load(tmp_path / "x.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        tables.load(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        tables.load(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"x.toml is no valid TOML: .*line 1"):
        tables.load(tmp_path / "x.toml")


def test_plain_says_what_toml_can():
    assert tables.plain(Part())["many"] == "one"
    assert tables.plain(Part(layers=(1.0, 2.0), options={"a": 1.0}))["layers"] == [1.0, 2.0]
    assert tables.plain({"p": Part()})["p"]["options"] == {}


def test_write_by_hand():
    assert (
        tables.write({"a b": True, "c": [1, 0.5, 'say "hi"\n'], "d": {}})
        == '{ "a b" = true, "c" = [1, 0.5, "say \\"hi\\"\\u000a"], "d" = {} }'
    )


texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)


@given(st.recursive(texts | numbers, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8))
def test_what_is_written_reads_back_equal(value):
    assert tomllib.loads(f"value = {tables.write(value)}")["value"] == value
