import dataclasses
import re
from pathlib import Path

import pytest

from fedstyle.config import Config
from fedstyle.data import Data
from fedstyle.errors import ConfigError
from fedstyle.partition import AMOUNTS, PHOTO_SPLITS, STYLE_SPLITS

WHOLE = """
[data]
photos = "photos"
clients = 10
style_split = { name = "dirichlet", alpha = 0.3 }
amounts = "lognormal"
strength = [3, 7]
density = [128, 512]
holdout_from = "own"
[data.photo_split]
name = "content"
clusters = 5
[server]
unseen = 2
late = 1
late_round = 4
flaky = 1
flaky_rate = 0.25
min_replies = 0.5
"""


def test_a_population_in_toml_reads_and_writes_and_reads_again(tmp_path):
    (tmp_path / "run.toml").write_text(WHOLE)
    read = Config.load(tmp_path / "run.toml")
    assert read.data.style_split == {"name": "dirichlet", "alpha": 0.3}
    assert read.data.photo_split == {"name": "content", "clusters": 5}
    assert (read.data.amounts, read.data.strength, read.data.density) == ("lognormal", (3, 7), (128, 512))
    assert (read.server.unseen, read.server.late, read.server.late_round, read.server.flaky, read.server.flaky_rate) == (2, 1, 4, 1, 0.25)
    (tmp_path / "again.toml").write_text(read.toml())
    assert Config.load(tmp_path / "again.toml") == read


def test_the_command_line_overrides_a_partitioner_and_its_fields(tmp_path):
    (tmp_path / "run.toml").write_text(WHOLE)
    read = Config.load(tmp_path / "run.toml", ["data.amounts=zipf", "data.style_split.alpha=2", "data.photo_split=shuffled"])
    assert (read.data.amounts, read.data.photo_split) == ("zipf", "shuffled")
    assert read.data.style_split == {"name": "dirichlet", "alpha": 2}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"style_split": "dirichlett"}, r"unknown data\.style_split = 'dirichlett': did you mean 'dirichlet'\?"),
        ({"amounts": {"name": "zipf", "exponent": -1}}, r"^data\.amounts\.exponent = -1\.0"),
        ({"photo_split": {"name": "content", "cluster": 3}}, r"unknown key data\.photo_split\.cluster: did you mean 'clusters'\?"),
        ({"strength": (3,)}, r"^data\.strength = \[3\]: give the least and the largest, from 1 to 10"),
        ({"strength": (7, 3)}, r"^data\.strength = \[7, 3\]"),
        ({"density": (60, 128)}, r"^data\.density = \[60, 128\]: .* from 64 to 1024"),
        ({"density": (65, 67)}, r"^data\.density = \[65, 67\]: there is no multiple of 4 between"),
    ],
)
def test_a_population_that_cannot_be_is_an_error(keys, words):
    with pytest.raises(ConfigError, match=words):
        Data(**keys)


@pytest.mark.parametrize(("line", "words"), [("amounts = 3", "give a text in quotes"), ("amounts = ['zipf']", "give a text in quotes")])
def test_a_partitioner_of_the_wrong_form_is_an_error(tmp_path, line, words):
    (tmp_path / "run.toml").write_text(f"[data]\n{line}\n")
    with pytest.raises(ConfigError, match=rf"data\.amounts = .*: {words}"):
        Config.load(tmp_path / "run.toml")


def test_the_configurations_in_the_documentation_load(tmp_path):
    text = (Path(__file__).parents[1] / "simulation" / "POPULATIONS.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "run.toml").write_text(block)
        assert Config.load(tmp_path / "run.toml").server.unseen == 5
    for known in (STYLE_SPLITS, AMOUNTS, PHOTO_SPLITS):
        for name, kind in known.items():
            numbers = ", ".join(f"`{field.name} = {field.default}`" for field in dataclasses.fields(kind))
            assert f"| `{name}`{f' ({numbers})' if numbers else ''} |" in text
