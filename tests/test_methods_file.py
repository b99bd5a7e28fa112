"""A method from the user's own file, and what simulation/personalization/README.md says of methods."""

import re
from pathlib import Path

import pytest

from fedstyle.client import Client
from fedstyle.config import Config
from fedstyle.errors import ConfigError
from fedstyle.inspection import describe_methods
from fedstyle.methods import METHODS, make_method, settings
from fedstyle.prediction import is_predictor

README = (Path(__file__).parents[1] / "simulation" / "personalization" / "README.md").read_text()
OWN = README.partition("## Add your own method\n")[2]


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", OWN, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files of the README's text, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("my_file.py").write_text(block("python"))
    Path("run.toml").write_text(block("toml"))
    return tmp_path


# ------------------------------------------------------------------------------------------------------------- the README


def test_to_add_a_method_takes_less_than_40_lines():
    assert len(OWN.strip().splitlines()) < 40


def test_the_readmes_method_trains_and_keeps_what_it_says(place, base, photo_folder, style_image, quick):
    method = make_method(Config.load("run.toml").method)
    assert (method.rates.steps, method.rates.lr, method.layer) == (20, 1e-3, "up2")
    assert settings(type(method))["layer"] == "out"
    method = make_method({"name": "my_file:LastLayer", "steps": 2})
    style_image.save("style.png")
    device = Client("home", photo_folder, "style.png", method=method, training=quick)
    update = device.fit(base)
    assert set(update.delta) == {name for name in base.weights if ".norm" not in name and not name.startswith("out.")}
    start, made = (device.personalize(base, iterations=count).result() for count in (0, 1))
    moved = {name for name, value in made.weights.items() if not value.equal(start.weights[name])}
    assert moved >= {"out.conv.weight", "down1.norm.weight"}
    assert not moved & set(update.delta)
    assert not [path for path in place.iterdir() if path.name == "__pycache__"]


def test_the_readmes_table_is_what_the_methods_say():
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| ([\d,]+)", README, re.MULTILINE)
    assert [key for key, _, _ in rows] == list(METHODS)
    for (_, paper, shared), row in zip(rows, describe_methods(), strict=True):
        assert re.search(r"[A-Z]\w+ et al. \d{4}", paper)[0] in row["paper"]
        assert int(shared.replace(",", "")) == row["shared_parameters"]


# ---------------------------------------------------------------------------------------------------------- from one's file


def test_a_file_is_named_with_or_without_its_suffix_and_by_a_whole_path(place):
    made = [make_method({"name": f"{path}:LastLayer"}) for path in ("my_file", "my_file.py", place / "my_file", place / "my_file.py")]
    assert all(method == made[0] for method in made)
    assert not made[0].shares("predictor.out.weight")
    assert is_predictor("predictor.out.weight")


def test_a_changed_file_is_run_again_and_an_unchanged_one_is_not(place):
    Path("counted.py").write_text(block("python") + "\nprint('running')\n")
    kinds = [type(make_method({"name": "counted:LastLayer"})) for _ in range(2)]
    assert kinds[0] is kinds[1]
    Path("counted.py").write_text(block("python").replace('"out"', '"up1"'))
    assert make_method({"name": "counted:LastLayer"}).layer == "up1"


def test_a_method_may_have_rates_of_its_own_and_none_of_ours(place):
    Path("flat.py").write_text(block("python").replace("rates: Rates = Rates()", "speed: float = 0.5"))
    assert make_method({"name": "flat:LastLayer", "speed": 1}).speed == 1.0
    with pytest.raises(ConfigError, match=r"unknown key method.steps: Known are layer, speed"):
        make_method({"name": "flat:LastLayer", "steps": 3})


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("gone:LastLayer", None, r"method.name = 'gone:LastLayer': cannot read gone.py: No such file or directory; write PATH:CLASS"),
        ("my_file:Last", None, r"my_file.py has no class 'Last': did you mean 'LastLayer'\? Known are LastLayer"),
        ("my_file:Rates", None, "has no class 'Rates'"),  # what it imports is no method of its own
        ("bad:Mine", "def", r"running bad.py failed: SyntaxError: "),
        ("bad:Mine", "1 / 0", r"running bad.py failed: ZeroDivisionError: division by zero"),
        ("bad:Mine", "class Mine: pass", r"Mine is no method: it has no shares\(\)"),
        ("bad:Mine", "class Mine:\n def shares(self, name): 1\n def fit(self): 1\n def personalize(self): 1", r"make it a @dataclass"),
        (":Mine", None, "cannot read .py"),
        ("~no-such-user/x:Mine", None, "cannot read ~no-such-user"),
        ("a\0b:Mine", None, "cannot read a"),
        ("my_file:", None, "has no class ''"),
    ],
)
def test_what_gives_no_method_is_one_line(place, name, code, says):
    if code:
        Path("bad.py").write_text(code)
    with pytest.raises(ConfigError, match=says) as caught:
        make_method({"name": name})
    assert "\n" not in str(caught.value)


def test_its_keys_are_checked_as_any_other_methods(place):
    with pytest.raises(ConfigError, match=r"unknown key method.layers: did you mean 'layer'\? Known are decay_rounds"):
        make_method({"name": "my_file:LastLayer", "layers": 3})
    with pytest.raises(ConfigError, match=r"method.steps = 0: give 1 or more"):
        make_method({"name": "my_file:LastLayer", "steps": 0})
