"""What a session's folder keeps, and what damage does to it: see test_job.py for how a job is driven and test_kills.py for kill -9."""

import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_job import IDENTITY, advance, iterations, job

from fedstyle import params, session
from fedstyle.errors import ConfigError, OutputError, SessionError
from fedstyle.session import Checkpoint, Session, SessionParameters, count
from fedstyle.training import Progress


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def point(folder, iteration):
    return folder / f"checkpoint-{iteration:06d}.safetensors"


@pytest.fixture(scope="module")
def unbroken():
    return job().result()


# ------------------------------------------------------------------------------------------------------------- small values


def test_the_defaults_are_those_of_create_ml():
    parameters = SessionParameters()
    assert (parameters.folder, parameters.report_interval, parameters.checkpoint_interval, parameters.iterations) == (None, 5, 10, 1000)
    for name in ("report_interval", "checkpoint_interval", "iterations"):
        for value in (0, -1, 2.0, True, "5"):
            with pytest.raises(ConfigError, match=f"session.{name} = .*: give a whole number from 1 on"):
                SessionParameters(**{name: value})


def test_a_mode_is_a_number_of_iterations():
    assert [count(name) for name in ("quick", "standard", "best", 0, 7)] == [25, 100, 500, 0, 7]
    for wrong in ("fast", -1, 2.0, True, None):
        with pytest.raises(ConfigError, match=r"iterations = .*: give a whole number from 0 on, or one of quick, standard, best"):
            count(wrong)


# ----------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("interval", [1, 2, 4])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_a_training_that_ends_anywhere_goes_on_bit_exactly(tmp_path, unbroken, stop, interval):
    advance(job(tmp_path, interval=interval), stop)
    resumed = job(tmp_path, interval=interval)
    last = 6 if stop == 6 else stop - stop % interval
    assert iterations(resumed) == list(range(last + 1, 7))
    assert resumed.result() == unbroken


def test_a_training_that_ends_again_and_again_gets_there(tmp_path, unbroken):
    for stop in range(1, 7):
        again = job(tmp_path, interval=1)
        advance(again, stop)
        assert again.progress.iteration == stop
    assert job(tmp_path).result() == unbroken


def test_a_finished_session_gives_the_same_at_once(tmp_path, unbroken):
    assert job(tmp_path).result() == unbroken
    again = job(tmp_path)
    assert iterations(again) == []
    assert again.result() == unbroken
    assert again.progress.fraction == 1.0
    assert again.progress.total > 0
    assert again.checkpoints == ()


def test_more_iterations_extend_a_finished_session(tmp_path):
    job(tmp_path, 3).result()
    longer = job(tmp_path, 6)
    assert iterations(longer) == [4, 5, 6]
    assert longer.result() == job(None, 6).result()


def test_fewer_iterations_give_what_a_training_of_that_length_gives_and_leave_the_longer_one(tmp_path):
    whole = job(tmp_path, 6).result()
    assert iterations(job(tmp_path, 4)) == []  # there is a checkpoint
    shorter = job(tmp_path, 3)
    assert iterations(shorter) == [3]  # from the one before
    assert shorter.result() == job(None, 3).result()
    point(tmp_path, 2).unlink()
    point(tmp_path, 3).unlink()
    assert iterations(job(tmp_path, 3)) == [1, 2, 3]
    again = job(tmp_path, 6)
    assert iterations(again) == []
    assert again.result() == whole


def test_a_session_keeps_to_the_threads_and_the_start_that_it_began_with(tmp_path, unbroken, monkeypatch):
    seen = []
    torch.set_num_threads(2)
    try:
        advance(job(tmp_path, interval=1), 2)
        torch.set_num_threads(1)
        resumed = job(tmp_path, net=(1.5, 0.5), watch=lambda: seen.append(torch.get_num_threads()))  # as another thread count may predict
        next(iter(resumed))
        assert torch.get_num_threads() == 1
        assert resumed.result() == unbroken
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {2}


# ------------------------------------------------------------------------------------------------------------- what lies there


def test_what_lies_in_a_session(tmp_path):
    advance(job(tmp_path, interval=2, preview=lambda: Image.new("RGB", (4, 4), "red")), 5)
    stems = ["checkpoint-000002.safetensors", "checkpoint-000004.safetensors", "preview-000002.png", "preview-000004.png"]
    assert files(tmp_path) == [*stems, "session.json", "session.lock", "start.safetensors"]
    assert "abc" not in (tmp_path / "session.json").read_text()  # the inputs lie there hashed
    advance(job(tmp_path / "a" / "session"), 1)
    assert stat.S_IMODE((tmp_path / "a" / "session").stat().st_mode) == 0o700  # for the owner alone, as previews show a photo
    state = params.load(point(tmp_path, 4))
    names = ["layer.conv.weight", "layer.norm.weight"]
    moments = [f"memory/adam/{key}/{name}" for key in ("exp_avg", "exp_avg_sq") for name in names]
    own = ["losses", "memory/adam/step", "memory/iteration", "session", "sha256"]
    assert sorted(state) == sorted([*(f"net/{name}" for name in names), *moments, *own])
    assert int(state["memory/iteration"]) == 4


def test_a_checkpoint_holds_what_has_changed_alone(tmp_path):
    advance(job(tmp_path, interval=1, trains=lambda name: "norm" in name), 1)
    assert [name for name in params.load(point(tmp_path, 1)) if name.startswith("net/")] == ["net/layer.norm.weight"]
    assert job(tmp_path, trains=lambda name: "norm" in name).result() == job(trains=lambda name: "norm" in name).result()


def test_checkpoints_are_listed_from_the_folder_alone(tmp_path):
    training = job(tmp_path, 6, interval=2, preview=lambda: Image.new("RGB", (4, 4), "red"))
    list(itertools.islice(training, 5))
    found = Session(str(tmp_path)).checkpoints()  # while the job holds the folder
    assert found == training.checkpoints
    assert [(one.iteration, one.path.name, one.preview.name) for one in found] == [
        (2, "checkpoint-000002.safetensors", "preview-000002.png"),
        (4, "checkpoint-000004.safetensors", "preview-000004.png"),
    ]
    assert found[1].progress.fraction == 4 / 6
    assert found[1].progress.content > 0
    with Image.open(found[1].preview) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(SessionError, match="gives no filter: 'architecture'"):  # a toy has none
        found[1].filter()
    with pytest.raises(SessionError, match="holds no session: give the folder that a job was given"):
        Session(tmp_path / "nowhere").checkpoints()


def test_checkpoints_can_be_removed(tmp_path, unbroken):
    job(tmp_path, 6, interval=2, preview=lambda: Image.new("RGB", (4, 4))).result()
    kept = Session(tmp_path)
    for old in kept.checkpoints()[:-1]:
        old.remove()
        old.remove()  # twice is no error
    assert [one.iteration for one in kept.checkpoints()] == [6]
    assert [name for name in files(tmp_path) if "0000" in name] == ["checkpoint-000006.safetensors", "preview-000006.png"]
    kept.checkpoints()[0].remove()
    assert iterations(job(tmp_path)) == [1, 2, 3, 4, 5, 6]
    assert job(tmp_path).result() == unbroken


def test_the_oldest_go_when_a_session_grows_too_large(tmp_path, monkeypatch, unbroken):
    monkeypatch.setattr(session, "KEEP_BYTES", 0)
    training = job(tmp_path, 5, interval=1, preview=lambda: Image.new("RGB", (4, 4)))
    training.result()
    assert [one.iteration for one in Session(tmp_path).checkpoints()] == [4, 5]  # but never the last two
    assert len(training.checkpoints) == 5
    assert training.checkpoints[0].preview is None
    size = sum(path.stat().st_size for path in tmp_path.glob("*-00000[45].*"))
    monkeypatch.setattr(session, "KEEP_BYTES", 2 * size)
    job(tmp_path, 9, interval=1, preview=lambda: Image.new("RGB", (4, 4))).result()
    assert [one.iteration for one in Session(tmp_path).checkpoints()] == [6, 7, 8, 9]


# --------------------------------------------------------------------------------------------------- damage and mistakes


def flip(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def grow(path, draw):
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 64)))


def blank(path, draw):
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content) - 16)
    content[place : place + 16] = bytes(16) if any(content[place : place + 16]) else b"\xff" * 16
    path.write_bytes(content)


def older(path, draw):
    """The file of an earlier iteration under this one's name."""
    shutil.copyfile(point(path.parent, 2), path)


def foreign(path, draw):
    """The file of the same iteration of a session with other inputs."""
    shutil.copyfile(point(path.parent.parent / "foreign", 4), path)


def other_start(path, draw):
    """The file of the same iteration of a session with the same inputs that began with another network."""
    shutil.copyfile(point(path.parent.parent / "other start", 4), path)


def gone(path, draw):
    path.unlink()


MUTATIONS = [*[flip] * 60, *[cut] * 15, *[grow] * 5, *[blank] * 10, *[older] * 3, *[foreign] * 3, *[other_start] * 3, gone]


def test_of_a_hundred_damaged_checkpoints_none_is_used_and_always_the_one_before(tmp_path, unbroken):
    advance(job(tmp_path / "whole", interval=2), 5)
    advance(job(tmp_path / "foreign", interval=2, identity={**IDENTITY, "photos": "other"}), 5)
    advance(job(tmp_path / "other start", interval=2, net=(1.0, 0.25)), 5)
    assert len(MUTATIONS) == 100
    found = 0
    for seed, mutate in enumerate(MUTATIONS):
        shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
        mutate(point(tmp_path / "hurt", 4), random.Random(seed))
        hurt = Session(tmp_path / "hurt")
        found += [one.iteration for one in hurt.checkpoints()] == [2] and int(hurt.latest(9)["memory/iteration"]) == 2
        if seed % 10 == 0:
            resumed = job(tmp_path / "hurt", interval=2)
            assert iterations(resumed) == [3, 4, 5, 6]
            assert resumed.result() == unbroken
            assert [one.iteration for one in hurt.checkpoints()] == [2, 4, 6]  # it was written again
        shutil.rmtree(tmp_path / "hurt")
    assert found == 100


def test_when_every_checkpoint_is_damaged_it_starts_over_and_keeps_new_ones(tmp_path, unbroken):
    advance(job(tmp_path, interval=2), 5)
    for k in (2, 4):
        flip(point(tmp_path, k), random.Random(k))
    advance(job(tmp_path, interval=1), 3)  # the damaged checkpoint 4 must not push out 3
    resumed = job(tmp_path)
    assert iterations(resumed) == [4, 5, 6]
    assert resumed.result() == unbroken


def test_leftovers_of_killed_processes_are_cleaned_up_and_nothing_else(tmp_path, unbroken):
    advance(job(tmp_path, interval=2), 3)
    strange = [".notes.part", "notes.txt", "preview.png", "checkpoint-x.safetensors"]
    left = [".checkpoint-000004.safetensors.x1.part", ".session.json.a_.part", ".preview-000004.png.b.part", "preview-000009.png"]
    for name in [*strange, *left]:
        (tmp_path / name).write_bytes(b"half")
    assert job(tmp_path).result() == unbroken
    assert set(strange) <= set(files(tmp_path))
    assert not set(left) & set(files(tmp_path))


def test_a_damaged_start_is_mended_where_it_can_be(tmp_path, unbroken):
    advance(job(tmp_path, interval=2), 3)
    for damage, last in ((cut, 4), (gone, 6)):
        damage(tmp_path / "start.safetensors", random.Random(1))
        assert iterations(job(tmp_path, last)) == [last - 1, last]
    cut(tmp_path / "start.safetensors", random.Random(1))
    with pytest.raises(SessionError, match=r"start.safetensors is damaged: remove the session folder to start again"):
        job(tmp_path, net=(2.0, 2.0)).result()


def test_a_session_of_other_inputs_is_an_error(tmp_path):
    job(tmp_path).result()
    before = files(tmp_path)
    with pytest.raises(SessionError, match=f"the session {tmp_path} was begun with other photos, style, base or settings: give those"):
        job(tmp_path, identity={**IDENTITY, "photos": "other"}).result()
    assert files(tmp_path) == before
    reordered = dict(reversed(IDENTITY.items()))
    assert iterations(job(tmp_path, identity=reordered)) == []


@pytest.mark.parametrize("text", ["{", "[]", "\x80", "{}", '{"sha256": "0"}'])
def test_a_damaged_session_head_is_an_error(tmp_path, text):
    job(tmp_path).result()
    (tmp_path / "session.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SessionError, match=r"session.json is damaged: remove the session folder to start again"):
        job(tmp_path).result()


def test_every_letter_of_the_head_counts(tmp_path):
    job(tmp_path).result()
    head = json.loads((tmp_path / "session.json").read_text())
    for key, value in head.items():
        (tmp_path / "session.json").write_text(json.dumps({**head, key: f"{value}0"}))
        with pytest.raises(SessionError, match="another fedstyle wrote it" if key == "format" else "is damaged"):
            Session(tmp_path).checkpoints()


def test_a_session_of_another_fedstyle_is_an_error(tmp_path):
    job(tmp_path).result()
    (tmp_path / "session.json").write_text('{"format": "fedstyle-session-1", "inputs_sha256": "0"}')  # as 0.1 wrote it
    with pytest.raises(SessionError, match="is not of the format fedstyle-session-2: another fedstyle wrote it"):
        job(tmp_path).result()


def test_a_session_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*session.lock"):
        job(tmp_path / "file").result()


# -------------------------------------------------------------------------------------------------------------- the lock


def test_a_session_is_held_until_its_job_ends_or_is_closed(tmp_path, unbroken):
    holder = job(tmp_path)
    next(iter(holder))
    with pytest.raises(SessionError, match=f"the session {tmp_path} is in use by another job or process: wait for it"):
        job(tmp_path).result()
    holder.close()
    assert job(tmp_path).result() == unbroken


def test_a_killed_process_gives_back_its_session_and_loses_no_checkpoint(tmp_path, unbroken):
    code = f"from test_job import job; job({str(tmp_path)!r}, interval=1, slow=0.3).result()"
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": places}) as process:
        while not point(tmp_path, 2).exists():
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(SessionError, match="in use by another job or process"):
            job(tmp_path).result()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    resumed = job(tmp_path)
    done = iterations(resumed)
    assert done
    assert done[0] >= 3
    assert resumed.result() == unbroken


def test_a_checkpoint_is_a_value():
    one = Checkpoint(Path("kept/checkpoint-000010.safetensors"), Progress(10, 100, 0.5, 0.25, 3.0))
    assert one == Checkpoint(Path("kept/checkpoint-000010.safetensors"), Progress(10, 100, 0.5, 0.25, 3.0))
    assert (one.iteration, one.preview) == (10, None)
