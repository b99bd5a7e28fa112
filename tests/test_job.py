import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import Coins, Two, square, toy_task

from fedstyle import params
from fedstyle.errors import Cancelled, FedstyleError, OutputError, SessionError
from fedstyle.job import Job, Session
from fedstyle.training import descend

IDENTITY = {"photos": "abc", "training": {"seed": 1}}


def job(folder=None, iterations=6, interval=2, identity=IDENTITY, slow=0.0, objective=square, preview=None):
    """A job on the toy network; its result is the two parameters and the number of iterations."""
    net, memory = Two(), {}

    def steps():
        for progress in descend(net, toy_task(Coins(), objective=objective), memory, iterations=iterations, rate=0.1, norm_rate=0.2):
            time.sleep(slow)
            yield progress

    session = Session(Path(folder), identity, interval) if folder else None
    return Job(net, memory, steps, lambda now: (*net.values, now.iteration), iterations=iterations, session=session, preview=preview)


def advance(job, until):
    """Train up to an iteration, and drop the job there as a killed process would."""
    for progress in job:
        if progress.iteration == until:
            job.close()
            return


def iterations(job):
    return [progress.iteration for progress in job]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def unbroken():
    return job().result()


# ------------------------------------------------------------------------------------------------------ without a session


def test_nothing_happens_until_it_is_asked_for(tmp_path):
    waiting = job(tmp_path / "session")
    assert waiting.progress.iteration == 0
    assert waiting.progress.iterations == 6
    assert waiting.checkpoints == ()
    assert not (tmp_path / "session").exists()


def test_it_can_be_iterated_run_in_slices_and_asked_for_its_result(unbroken):
    mixed = job()
    assert next(iter(mixed)).iteration == 1
    for progress in mixed:
        if progress.iteration == 3:
            break
    assert mixed.progress.iteration == 3
    assert mixed.run(seconds=0) is False  # one iteration at least
    assert mixed.progress.iteration == 4
    assert mixed.result() == unbroken
    assert mixed.result() == unbroken
    assert mixed.run(seconds=0) is True
    assert iterations(mixed) == []
    assert mixed.progress.fraction == 1.0


def test_run_keeps_to_its_time(unbroken):
    slices = job(iterations=6, slow=0.02)
    count = 0
    while not slices.run(seconds=0.03):
        count += 1
        assert count < 10
    assert 2 <= count <= 6
    assert slices.result() == unbroken
    whole = job()
    assert whole.run() is True
    assert whole.result() == unbroken


def test_no_iterations_give_what_was_there():
    assert job(iterations=0).result() == (1.0, 0.5, 0)


def test_a_failure_is_raised_once_and_then_the_job_is_over():
    def broken(y, content):
        raise FedstyleError("broken")

    failing = job(objective=broken)
    with pytest.raises(FedstyleError, match=r"^broken$"):
        failing.result()
    with pytest.raises(Cancelled, match="was cancelled or failed before: make a new one"):
        failing.result()


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


def test_fewer_iterations_than_a_session_has_start_over_and_leave_the_longer_run(tmp_path):
    whole = job(tmp_path, 6).result()
    shorter = job(tmp_path, 3)
    advance(shorter, 2)
    resumed = job(tmp_path, 3)
    assert iterations(resumed) == [3]
    assert resumed.result() == job(None, 3).result()
    again = job(tmp_path, 6)
    assert iterations(again) == []
    assert again.result() == whole


def test_two_checkpoints_are_kept_and_listed(tmp_path):
    training = job(tmp_path, 6, interval=2)
    list(itertools.islice(training, 5))
    assert [(point.iteration, point.path.name) for point in training.checkpoints] == [
        (2, "checkpoint-000002.safetensors"),
        (4, "checkpoint-000004.safetensors"),
    ]
    assert training.checkpoints[1].progress.iteration == 4
    training.result()
    kept = [f"checkpoint-00000{k}.{kind}" for k in (4, 6) for kind in ("json", "safetensors")]
    assert files(tmp_path) == [*kept, "session.json", "session.lock"]
    assert "abc" not in (tmp_path / "session.json").read_text()  # the inputs lie there hashed


def test_a_preview_is_written_with_each_checkpoint(tmp_path):
    training = job(tmp_path, 4, interval=2, preview=lambda: Image.new("RGB", (4, 4), "red"))
    training.result()
    assert [point.preview.name for point in training.checkpoints] == ["preview-000002.png", "preview-000004.png"]
    with Image.open(training.checkpoints[-1].preview) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


# --------------------------------------------------------------------------------------------------- damage and mistakes


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, unbroken, kind, damage):
    advance(job(tmp_path, interval=2), 5)
    damage(tmp_path / f"checkpoint-000004.{kind}")
    resumed = job(tmp_path, interval=2)
    assert iterations(resumed) == [3, 4, 5, 6]
    assert resumed.result() == unbroken
    assert iterations(job(tmp_path)) == []


def test_every_byte_of_a_checkpoint_counts(tmp_path):
    advance(job(tmp_path, interval=1), 2)
    path = tmp_path / "checkpoint-000002.safetensors"
    content = path.read_bytes()
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert int(Session(tmp_path, IDENTITY).latest(9)["memory/iteration"]) == 1


def test_when_every_checkpoint_is_damaged_it_starts_over_and_keeps_new_ones(tmp_path, unbroken):
    advance(job(tmp_path, interval=2), 5)
    for k in (2, 4):
        flip(tmp_path / f"checkpoint-00000{k}.safetensors")
    advance(job(tmp_path, interval=1), 3)  # the damaged checkpoint 4 must not push out 3
    resumed = job(tmp_path)
    assert iterations(resumed) == [4, 5, 6]
    assert resumed.result() == unbroken


def test_a_checkpoint_that_a_crash_left_half_written_does_not_count(tmp_path, unbroken):
    advance(job(tmp_path, interval=2), 3)
    (tmp_path / "checkpoint-000004.safetensors").write_bytes(b"half")  # its JSON comes last, so it is not there
    (tmp_path / ".checkpoint-000004.json.x.part").write_bytes(b"{")
    assert job(tmp_path).result() == unbroken


def test_a_session_of_other_inputs_is_an_error(tmp_path):
    job(tmp_path).result()
    before = files(tmp_path)
    with pytest.raises(SessionError, match=f"the session {tmp_path} was begun with other photos, style, base or settings: give those"):
        job(tmp_path, identity={**IDENTITY, "photos": "other"}).result()
    assert files(tmp_path) == before
    reordered = dict(reversed(IDENTITY.items()))
    assert iterations(job(tmp_path, identity=reordered)) == []


@pytest.mark.parametrize("text", ["{", "[]", "\x80"])
def test_a_damaged_session_head_is_an_error(tmp_path, text):
    job(tmp_path).result()
    (tmp_path / "session.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SessionError, match=r"session.json is damaged: remove the session folder to start again"):
        job(tmp_path).result()


def test_a_session_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*session.lock"):
        job(tmp_path / "file").result()


# ----------------------------------------------------------------------------------------------------------------- cancel


def test_cancel_from_another_thread_stops_after_the_iteration_at_hand(tmp_path, unbroken):
    training = job(tmp_path, interval=10, slow=0.02)
    reached = threading.Event()

    def watch():
        while training.progress.iteration < 2:
            time.sleep(0.001)
        training.cancel()
        reached.set()

    thread = threading.Thread(target=watch)
    thread.start()
    with pytest.raises(Cancelled, match=r"cancelled after iteration \d: run again to go on"):
        training.result()
    thread.join()
    assert reached.is_set()
    stopped = training.progress.iteration
    assert 2 <= stopped < 6
    with pytest.raises(Cancelled, match="was cancelled or failed before"):
        training.result()
    resumed = job(tmp_path)  # the lock is free again
    assert iterations(resumed) == list(range(stopped + 1, 7))
    assert resumed.result() == unbroken


def test_cancel_between_slices_keeps_the_work(tmp_path, unbroken):
    training = job(tmp_path, interval=100)
    list(itertools.islice(training, 3))
    training.cancel()
    with pytest.raises(Cancelled, match="cancelled after iteration 3: run again to go on"):
        training.result()
    assert iterations(job(tmp_path)) == [4, 5, 6]
    assert job(tmp_path).result() == unbroken


def test_cancel_without_a_session_keeps_nothing():
    training = job()
    list(itertools.islice(training, 3))
    training.cancel()
    with pytest.raises(Cancelled, match=r"^cancelled after iteration 3$"):
        training.run()
    assert training.run() is False


def test_a_job_that_has_its_result_cannot_be_cancelled_any_more(unbroken):
    training = job()
    training.result()
    training.cancel()
    assert training.result() == unbroken


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
        while not (tmp_path / "checkpoint-000002.json").exists():
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


def test_checkpoints_are_safetensors_with_all_of_the_state(tmp_path):
    advance(job(tmp_path, interval=1), 1)
    head = json.loads((tmp_path / "checkpoint-000001.json").read_text())
    state = params.load(tmp_path / "checkpoint-000001.safetensors", sha256=head["sha256"])
    assert head["iteration"] == int(state["memory/iteration"]) == 1
    names = ["layer.conv.weight", "layer.norm.weight"]
    moments = [f"memory/adam/{key}/{name}" for key in ("exp_avg", "exp_avg_sq") for name in names]
    assert sorted(state) == sorted([*(f"net/{name}" for name in names), *moments, "memory/adam/step", "memory/iteration", "losses"])
    assert state["losses"].dtype == torch.float64
