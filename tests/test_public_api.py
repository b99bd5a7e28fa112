import inspect
import re
import subprocess
import sys

import pytest

import fedstyle
from fedstyle import errors


def test_the_public_names_exist_and_are_sorted():
    assert fedstyle.__all__ == sorted(fedstyle.__all__)
    assert {"Base", "Client", "Filter", "Style"} <= set(fedstyle.__all__)
    assert dir(fedstyle) == fedstyle.__all__
    for name in fedstyle.__all__:
        value = getattr(fedstyle, name)
        assert getattr(value, "__module__", value.__name__).startswith("fedstyle")
        assert callable(value)
        assert value.__doc__
    assert re.fullmatch(r"\d+\.\d+\.\d+", fedstyle.__version__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fedstyle' has no attribute 'Manager'"):
        _ = fedstyle.Manager


def test_the_import_loads_nothing_until_a_name_is_used():
    code = "import sys, fedstyle; dir(fedstyle); print(sorted(sys.modules.keys() & {'torch', 'numpy', 'PIL', 'flwr', 'coremltools'}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_error_tree_in_the_docstring_is_the_real_one():
    parents, drawn = [], {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ([│ ]*)(?:[├└]── )?(\w+Error|Cancelled)\b", line):
            depth = (line.index(found[2]) - 4) // 4
            parents[depth:] = [found[2]]
            drawn[found[2]] = parents[depth - 1] if depth else "Exception"
    real = {name: value.__base__.__name__ for name, value in vars(errors).items() if inspect.isclass(value)}
    assert drawn == real
    assert len(real) > 10


def test_the_client_takes_its_choices_by_keyword():
    kinds = inspect.signature(fedstyle.Client).parameters
    assert list(kinds)[:3] == ["home", "photos", "style"]
    assert {name for name, value in kinds.items() if value.kind is value.KEYWORD_ONLY} == {"method", "privacy", "loss", "training"}
    assert list(inspect.signature(fedstyle.Style).parameters) == ["image", "strength", "density"]
