import dataclasses
import importlib.util
import os

import pytest
from run_kills import config

from fedstyle.errors import ConfigError
from fedstyle.scalars import check_tensorboard, event_file, of_round
from fedstyle.simulate import simulate

LINE = {
    "round": 2,
    "cohort": ["000"],
    "replied": 1,
    "failures": {"001": "late"},
    "bytes_up": 10,
    "bytes_down": 20,
    "seconds": 0.5,
    "loss": {"content": 0.25, "style": 0.5, "total": 0.75},
}
needed = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard, an extra of fedstyle, is not installed here"
)


def read(folder):
    """What TensorBoard itself reads: each scalar's steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_round_is_numbers_alone():
    assert of_round(LINE) == {
        "loss/content": 0.25,
        "loss/style": 0.5,
        "loss/total": 0.75,
        "clients/replied": 1,
        "clients/failed": 1,
        "bytes/up": 10,
        "bytes/down": 20,
        "seconds/round": 0.5,
    }
    assert "loss/total" not in of_round({**LINE, "loss": None})


def test_without_tensorboard_the_error_names_the_extra(tmp_path, photo_folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name, *rest))
    with pytest.raises(ConfigError, match=r"pip install 'fedstyle\[tensorboard\]'"):
        check_tensorboard()
    (tmp_path / "photos").symlink_to(photo_folder)
    with pytest.raises(ConfigError, match="tensorboard"):
        simulate(config(tmp_path, exports=False), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


@needed
def test_tensorboard_reads_what_was_told_and_forgets_what_was_done_again(tmp_path):
    with event_file(tmp_path, []) as tell:
        for step in (1, 2, 3):
            tell(step, {"loss": step / 4, "none": None})
    with event_file(tmp_path, [1]) as tell:
        tell(2, {"loss": 8.0})
    assert read(tmp_path) == {"loss": [(1, 0.25), (2, 8.0)]}


@needed
def test_a_run_tells_its_numbers_and_no_name(tmp_path, photo_folder):
    (tmp_path / "photos").symlink_to(photo_folder)
    settings = config(tmp_path, exports=False)
    run = simulate(dataclasses.replace(settings, server=dataclasses.replace(settings.server, rounds=2)), tmp_path / "run", tensorboard=True)
    found = read(run.folder / "tensorboard")
    assert found["loss/total"] == [(line["round"], pytest.approx(line["loss"]["total"])) for line in run.rounds]
    assert [step for step, _ in found["personal/mean"]] == [2]
    (file,) = (run.folder / "tensorboard").iterdir()
    for word in (os.uname().nodename, "photos", "mosaic", str(tmp_path)):
        assert word.encode() not in file.read_bytes()
        assert word not in file.name
