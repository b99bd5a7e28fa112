"""How a job is driven: by a loop, in slices, by a thread of its own and from asyncio. What its session keeps is in test_session.py."""

import asyncio
import concurrent.futures
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toys import Coins, Two, square, toy_task

from fedstyle.errors import Cancelled, FedstyleError, SessionError
from fedstyle.job import Job, Work
from fedstyle.session import Checkpoint, SessionParameters
from fedstyle.training import Progress, descend, everything

IDENTITY = {"photos": "abc", "training": {"seed": 1}}


def job(
    folder=None,
    iterations=6,
    interval=2,
    identity=IDENTITY,
    *,
    slow=0.0,
    objective=square,
    preview=None,
    report=5,
    net=(1.0, 0.5),
    trains=everything,
    watch=lambda: None,
):
    """A job on the toy network; its result is the two parameters and the number of iterations."""

    def begin():
        two, memory = Two(*net), {}

        def steps():
            task = toy_task(Coins(), objective=objective)
            for progress in descend(two, task, memory, iterations=iterations, rate=0.1, norm_rate=0.2, trains=trains):
                time.sleep(slow)
                watch()
                yield progress

        return Work(two, memory, steps, lambda now: (*two.values, now.iteration), preview, identity)

    session = SessionParameters(folder and Path(folder), report_interval=report, checkpoint_interval=interval)
    return Job(begin, iterations=iterations, session=session)


def advance(job, until):
    """Train up to an iteration, and drop the job there as a killed process would."""
    for progress in job:
        if progress.iteration == until:
            job.close()
            return


def iterations(job):
    return [progress.iteration for progress in job]


def names(events):
    """Events in short: 5 for a report of iteration 5, "c5" for its checkpoint."""
    return [f"c{event.iteration}" if isinstance(event, Checkpoint) else event.iteration for event in events]


def broken(y, content):
    raise FedstyleError("broken")


@pytest.fixture(scope="module")
def unbroken():
    return job().result()


# ------------------------------------------------------------------------------------------------------------- plain code


def test_nothing_happens_until_it_is_asked_for(tmp_path):
    waiting = job(tmp_path / "session")
    assert waiting.progress.iteration == 0
    assert waiting.progress.iterations == 6
    assert waiting.checkpoints == ()
    assert not waiting.done
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
    assert mixed.done


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


def test_an_error_ends_the_job_and_comes_out_each_time(tmp_path):
    failing = job(tmp_path, objective=broken)
    for ask in (failing.result, failing.run, lambda: next(failing), failing.result):
        with pytest.raises(FedstyleError, match=r"^broken$"):
            ask()
    assert failing.done
    assert job(tmp_path).result() == job().result()  # and gave its folder back


def test_a_result_that_takes_too_long_is_a_timeout_and_the_job_goes_on(unbroken):
    slow = job(slow=0.02)
    with pytest.raises(TimeoutError, match=r"no result after 0.03 s: iteration \d of 6"):
        slow.result(timeout=0.03)
    assert 1 <= slow.progress.iteration < 6
    assert slow.result(timeout=600) == unbroken


def test_a_keyboard_interrupt_ends_the_job():
    def interrupt():
        raise KeyboardInterrupt

    stopped = job(watch=interrupt)
    with pytest.raises(KeyboardInterrupt):
        stopped.result()
    with pytest.raises(Cancelled, match="interrupted after iteration 0"):
        stopped.result()


# ----------------------------------------------------------------------------------------------------------------- events


def test_a_stream_has_reports_and_checkpoints_at_their_intervals_and_at_the_end(tmp_path, unbroken):
    training = job(tmp_path, 7, interval=3, report=2)
    events = list(training.stream())
    assert names(events) == [2, "c3", 4, 6, "c6", 7, "c7"]
    assert [event for event in events if isinstance(event, Checkpoint)] == list(training.checkpoints)
    assert isinstance(events[0], Progress)
    assert training.progress == events[-2]
    assert list(training.stream()) == []  # from now on, and nothing comes any more
    assert names(job(tmp_path, 9, interval=3, report=2).stream()) == [8, 9, "c9"]
    assert names(job(None, 6).stream()) == [5, 6]  # no folder, no checkpoint


def test_a_stream_may_be_left_and_taken_up_again(tmp_path, unbroken):
    training = job(tmp_path, report=1)
    assert names(itertools.islice(training.stream(), 2)) == [1, 2]
    assert next(training).iteration == 3
    assert names(training.stream()) == [4, "c4", 5, 6, "c6"]
    assert training.result() == unbroken


def test_a_stream_ends_with_the_error_that_ends_the_job(tmp_path):
    training = job(tmp_path, interval=100, report=1)
    seen = []

    def follow():
        for event in training.stream():
            seen.append(event)
            if event.iteration == 2:
                training.cancel()

    with pytest.raises(Cancelled, match="cancelled after iteration 2"):
        follow()
    assert names(seen) == [1, 2, "c2"]
    with pytest.raises(Cancelled, match="cancelled after iteration 2"):
        list(training.stream())


# ----------------------------------------------------------------------------------------------------------------- cancel


def test_cancel_from_another_thread_stops_after_the_iteration_at_hand(tmp_path, unbroken):
    reached, cancelled = threading.Event(), threading.Event()

    def hold():
        if training.progress.iteration == 2:  # the third is at hand
            reached.set()
            cancelled.wait(600)

    def watch():
        reached.wait(600)
        training.cancel()
        cancelled.set()

    training = job(tmp_path, interval=10, watch=hold)
    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(2):
        with pytest.raises(Cancelled, match="cancelled after iteration 3: run again to go on"):
            training.result()
    thread.join()
    resumed = job(tmp_path)  # the lock is free again
    assert iterations(resumed) == [4, 5, 6]
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


def test_cancel_before_the_first_iteration_trains_nothing(tmp_path):
    training = job(tmp_path)
    training.cancel()
    with pytest.raises(Cancelled, match="cancelled before the first iteration"):
        training.result()
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_has_its_result_cannot_be_cancelled_any_more(unbroken):
    training = job()
    training.result()
    training.cancel()
    assert training.result() == unbroken


def test_a_closed_job_says_so(tmp_path):
    training = job(tmp_path)
    next(training)
    training.close()
    training.close()
    with pytest.raises(Cancelled, match="closed: make a new job with the same session folder to go on"):
        training.result()


# ------------------------------------------------------------------------------------------------------ a thread of its own


def test_start_trains_in_the_background_and_blocks_nobody(tmp_path, unbroken):
    gate = threading.Event()
    training = job(tmp_path, watch=lambda: gate.wait(600)).start()  # returns, although no iteration can end
    assert training.start() is training
    with pytest.raises(TimeoutError):
        training.result(timeout=0.01)
    assert training.progress.iteration == 0
    assert not training.done
    gate.set()
    assert training.result(timeout=600) == unbroken
    assert training.progress.fraction == 1.0
    assert names(training.checkpoints) == ["c2", "c4", "c6"]


def test_errors_of_the_background_come_out_of_the_result():
    failing = job(objective=broken).start()
    with pytest.raises(FedstyleError, match=r"^broken$"):
        failing.result(timeout=600)


def test_cancel_and_close_stop_the_background(tmp_path, unbroken):
    training = job(tmp_path, 1000, interval=100, slow=0.01).start()
    while training.progress.iteration < 2:
        time.sleep(0.001)
    training.close()  # waits for the iteration at hand
    with pytest.raises(Cancelled):
        training.result(timeout=0)
    assert job(tmp_path).result() == unbroken


def test_a_started_job_is_trained_by_nobody_else(tmp_path, unbroken):
    gate = threading.Event()
    training = job(tmp_path, watch=lambda: gate.wait(600)).start()
    for ask in (training.run, lambda: next(training), lambda: list(training)):
        with pytest.raises(SessionError, match="this job is being trained by another thread: wait with result"):
            ask()
    gate.set()
    assert training.result() == unbroken
    assert training.run() is True  # there is nothing left to do


def test_a_job_in_a_slice_cannot_be_started_but_waited_for(unbroken):
    entered, gate = threading.Event(), threading.Event()
    training = job(watch=lambda: entered.set() or gate.wait(600))
    slice = threading.Thread(target=training.run, args=(0,))
    slice.start()
    assert entered.wait(600)
    with pytest.raises(SessionError, match="let it end its slice before"):
        training.start()
    gate.set()
    assert training.result(timeout=600) == unbroken  # goes on itself when the slice is over
    slice.join()


def test_many_threads_may_wait_for_one_result(unbroken):
    training = job(slow=0.01)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [one.result() for one in [pool.submit(training.result) for _ in range(4)]] == [unbroken] * 4


def test_a_stream_follows_the_background(tmp_path, unbroken):
    training = job(tmp_path, slow=0.02, report=1)
    stream = iter(training.stream())
    first = next(stream)  # trained here
    training.start()
    assert names([first, *stream]) == [1, 2, "c2", 3, 4, "c4", 5, 6, "c6"]


def test_the_background_does_not_hold_up_the_end_of_the_process(tmp_path, unbroken):
    code = f"from test_job import job; it = job({str(tmp_path)!r}, 10**6, slow=0.001, interval=1).start()"
    code += "\nimport time\nwhile it.progress.iteration < 9: time.sleep(0.01)"
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {places!r}\n" + code
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert job(tmp_path, 6).result() == unbroken


# ---------------------------------------------------------------------------------------------------------------- asyncio


def test_a_job_can_be_awaited_and_the_loop_goes_on_meanwhile(tmp_path, unbroken):
    gate = threading.Event()

    async def main():
        training = job(tmp_path, watch=lambda: gate.wait(600))
        waiting = asyncio.create_task(asyncio.wait_for(training, 600))
        for _ in range(20):  # the loop runs, although no iteration can end
            await asyncio.sleep(0.001)
        assert training.progress.iteration == 0
        gate.set()
        made = await waiting
        assert await training == made  # again, at once
        return made

    assert asyncio.run(main()) == unbroken


def test_events_can_be_followed_from_asyncio(tmp_path, unbroken):
    async def main():
        training = job(tmp_path, report=3)
        events = [event async for event in training.stream()]
        return names(events), await training, [event async for event in training.stream()]

    assert asyncio.run(main()) == (["c2", 3, "c4", 6, "c6"], unbroken, [])


def test_two_jobs_at_once_and_two_watchers_of_one(tmp_path, unbroken):
    async def watch(training):
        return names([event async for event in training.stream()])

    async def main():
        one, two = job(tmp_path / "one", report=3), job(tmp_path / "two", report=3)
        return await asyncio.gather(watch(one), watch(one), one, two)

    first, second, *made = asyncio.run(main())
    assert first == second == ["c2", 3, "c4", 6, "c6"]
    assert made == [unbroken, unbroken]


@pytest.mark.parametrize("way", ["await", "stream", "body"])
def test_to_cancel_the_task_cancels_the_job(tmp_path, unbroken, way):
    training = job(tmp_path, 1000, interval=100, slow=0.01, report=1)

    async def follow():
        if way == "await":
            await training
        async for _ in training.stream():
            if way == "body":
                await asyncio.sleep(100)

    async def main():
        task = asyncio.create_task(follow())
        while training.progress.iteration < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if way != "body":
            assert training.done  # and so the folder is free
        with pytest.raises(Cancelled, match=r"cancelled after iteration \d+: run again to go on"):
            await training

    asyncio.run(main())
    assert job(tmp_path, 6).result() == unbroken


def test_a_timeout_of_asyncio_cancels_the_job(tmp_path):
    async def main():
        async with asyncio.timeout(0.05):
            await job(tmp_path, 1000, slow=0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_errors_come_out_of_await_and_stream():
    async def follow(training):
        return [event async for event in training.stream()]

    async def main(ask):
        with pytest.raises(FedstyleError, match=r"^broken$"):
            await ask(job(objective=broken))

    asyncio.run(main(lambda training: training))
    asyncio.run(main(follow))


def test_to_await_a_job_that_is_in_a_slice_is_an_error():
    entered, gate = threading.Event(), threading.Event()
    training = job(watch=lambda: entered.set() or gate.wait(600))
    slice = threading.Thread(target=training.run)
    slice.start()
    assert entered.wait(600)

    async def main():
        await training

    with pytest.raises(SessionError, match="let it end its slice before start"):
        asyncio.run(main())
    gate.set()
    slice.join()
    assert training.done


def test_a_stream_that_is_left_does_not_stop_the_background(unbroken):
    async def main():
        training = job(slow=0.01, report=1)
        async for _ in training.stream():
            break
        return await training

    assert asyncio.run(main()) == unbroken
