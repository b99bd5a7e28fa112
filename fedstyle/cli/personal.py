"""`fedstyle personalize`: one filter, trained on this device."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedstyle.cli.guard import StoppedError
from fedstyle.cli.terminal import (
    FOLDER_OR_FILE,
    as_json,
    check_features,
    check_free,
    check_writable,
    clean_output,
    example,
    feature_options,
    plain,
    progress_bar,
    say,
    say_json,
)
from fedstyle.errors import BaseError, Cancelled, ConfigError

if TYPE_CHECKING:
    from fedstyle.base import Base
    from fedstyle.filter import Filter
    from fedstyle.job import Job

MODES = {"quick": 25, "standard": 100, "best": 500}
WORDS = {"shipped": "from the base that fedstyle carries", "none": "from nothing"}
"""What --base may say besides a folder."""


@click.command(epilog=example("fedstyle personalize --photos ~/Pictures --style starry_night.jpg --out my_filter --mode quick"))
@click.option(
    "--photos", type=FOLDER_OR_FILE, required=True, metavar="DIR", help="Your photos; what cannot be used is skipped and counted."
)
@click.option("--style", type=FOLDER_OR_FILE, required=True, metavar="IMG", help="The image whose style the filter takes on.")
@click.option("--out", type=FOLDER_OR_FILE, required=True, metavar="FILTER", help="The filter's folder, a new one.")
@click.option(
    "--base",
    default="shipped",
    metavar="BASE|shipped|none",
    show_default=True,
    help="The base to start from: a folder, the one that fedstyle carries for --net, or none to train everything from nothing.",
)
@click.option("--net", type=click.Choice(["cnn", "cnnLite"]), help="The architecture.  [default: cnnLite; that of BASE]")
@click.option(
    "--mode", type=click.Choice(list(MODES)), default="standard", show_default=True, help="How long to train: 25, 100 or 500 iterations."
)
@click.option("--iterations", type=click.IntRange(1), metavar="N", help="Iterations, instead of the mode's.")
@click.option("--full", is_flag=True, help="Train every parameter, not the private norms alone; from nothing that is always so.")
@click.option("--strength", type=click.IntRange(1, 10), metavar="1..10", help="How strong the style is.  [default: chosen, from 3 to 7]")
@click.option(
    "--density",
    type=click.IntRange(64, 1024),
    default=256,
    metavar="64..1024",
    show_default=True,
    help="Size of strokes in pixels, in steps of 4.",
)
@click.option(
    "--processing",
    type=click.Choice(["scale-fill", "centre-crop", "scale-fit"]),
    default="scale-fill",
    show_default=True,
    help="What of a photo the training sees: a random square, the middle, or all of it.",
)
@click.option(
    "--validation",
    type=FOLDER_OR_FILE,
    metavar="IMG",
    help="A photo to judge by; with --session a preview of it lies beside each checkpoint.",
)
@click.option(
    "--session", type=FOLDER_OR_FILE, metavar="DIR", help="Keep checkpoints here: the same command goes on after an interruption."
)
@click.option("--report", type=click.IntRange(1), metavar="N", help="Say where the training stands every N iterations, a line each.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="N", show_default=True, help="The same inputs and seed give the same filter."
)
@feature_options("tiny")
@as_json
def personalize(photos: Path, style: Path, out: Path, base: str, net: str | None, **wishes: Any) -> None:
    """Train a filter of your own on this device.

    It learns from your photos and a style image. FILTER holds filter.safetensors and filter.json: no photo, no path, no time.
    It starts from a base that many devices learned together, and trains only the private parameters (the instance norms' scale and
    shift, where a style lives) unless --full is given. With --base none everything is trained from nothing, which takes a longer mode
    for a good picture.
    """
    session: Path | None = wishes["session"]
    check_free(out)
    if session:
        check_writable(session, "--session")
        if out.absolute() == session.absolute() or out.absolute() in session.absolute().parents:
            raise ConfigError(f"--session {plain(session)} lies in --out {plain(out)}, which must not exist yet: choose a folder beside it")
    try:
        _personalize(photos, style, out, base, net, wishes, session)
    except KeyboardInterrupt:
        if not session:
            raise StoppedError("interrupted: no filter was written; with --session DIR the same command could go on later") from None
        raise StoppedError(f"interrupted: the same command goes on with the session {plain(session)}") from None


def _personalize(photos: Path, style: Path, out: Path, base: str, net: str | None, wishes: dict[str, Any], session: Path | None) -> None:
    with clean_output():
        from fedstyle.client import Client
        from fedstyle.config import Loss, Training
        from fedstyle.photos import Photos
        from fedstyle.session import SessionParameters
        from fedstyle.style import Style

        started = time.monotonic()
        start = _base(base, net, wishes["seed"])
        full = wishes["full"] or base == "none"
        look = Style(style, strength=wishes["strength"], density=wishes["density"])
        judge: Path | None = wishes["validation"]
        loss = Loss(wishes["features"], str(wishes["weights"] or ""), strength=look.strength or 5, density=look.density)
        check_features(loss)
        library = Photos.open(photos)
        iterations = wishes["iterations"] or MODES[wishes["mode"]]
        training = Training.for_base(start.record, seed=wishes["seed"], iterations=iterations, processing=wishes["processing"])
        client = Client(None, library, look, loss=loss, training=training)
        parameters = SessionParameters(session, report_interval=wishes["report"] or iterations, iterations=iterations)
        job = client.personalize(
            start, iterations=iterations, full=full, session=parameters, facts={"seed": training.seed}, validation=judge
        )
        _drive(job, session, bool(wishes["report"]))
        made = job.result()
        facts: dict[str, Any] = {"losses": _numbers(job.progress.as_dict())}
        if judge:
            facts["validation"] = client.evaluate(made, Photos((judge,)))
        made = dataclasses.replace(made, facts={**made.facts, **facts})
        made.save(out)
    report = {
        "filter": plain(out),
        "filter_sha256": made.sha256,
        "architecture": made.arch,
        "base": base if base in WORDS else start.sha256,
        "trained": "all" if full else "private",
        "iterations": training.iterations,
        "strength": made.facts["strength"],
        "density": look.density,
        **facts,
        "photos": library.usable,
        "skipped": dict(library.skipped),
        "seconds": round(time.monotonic() - started, 2),
    }
    if wishes["as_json"]:
        say_json(report)
        return
    for left in library.report():
        say(f"skipped: {left.count} {left.reason}. {left.advice}")
    what = "everything" if full else "the private norms"
    whence = WORDS.get(base, f"from the base {plain(base)}")
    say(f"trained {what} for {training.iterations} iterations on {library.usable} photos in {report['seconds']:.0f} s, {whence}")
    if job.began:
        say(f"the first {job.began} of them stood in the session {plain(wishes['session'])}")
    if look.strength is None:
        say(f"strength {report['strength']}, chosen for this style and these photos; --strength sets another")
    for name, values in facts.items():
        say(f"{name}: content {values['content']:.4f}, style {values['style']:.4f}, total {values['total']:.4f}")
    say(f"wrote {plain(out)}; try: fedstyle stylize {plain(out)} PHOTO --out stylized.png")


def _base(base: str, net: str | None, seed: int) -> Base:
    from fedstyle.base import Base

    if base == "none":
        return Base.new(net or "cnnLite", seed=seed)
    if base == "shipped":
        try:
            return Base.shipped(net or "cnnLite")
        except BaseError as error:
            raise BaseError(str(error).replace("start from nothing", "train from nothing with --base none")) from None
    found = Base.load(base)
    if net and net != found.arch:
        raise BaseError(f"the base {plain(base)} is a {found.arch}, --net asks for a {net}: leave --net out, or give a {net} base")
    return found


def _drive(job: Job[Filter], session: Path | None, lines: bool) -> None:
    """Train with a progress bar, or with a line for each report.

    With a session Ctrl-C and SIGTERM end it after the iteration at hand, whose checkpoint is kept.
    """
    with _gentle(job) if session else contextlib.nullcontext():
        try:
            if lines:
                _report(job)
                return
            with progress_bar() as advance:
                advance("training", 0, job.progress.iterations)
                for now in job:
                    advance(f"training: loss {now.total:.3f}", now.iteration, now.iterations)
        except Cancelled:
            raise StoppedError(f"interrupted after iteration {job.progress.iteration}: the same command goes on from there") from None


def _report(job: Job[Filter]) -> None:
    from fedstyle.training import Progress

    for now in job.stream():
        if isinstance(now, Progress):
            losses = f"content {now.content:.4f}, style {now.style:.4f}, total {now.total:.4f}"
            click.echo(f"iteration {now.iteration} of {now.iterations}, {now.fraction:.0%}: {losses}", err=True)


@contextlib.contextmanager
def _gentle(job: Job[Filter]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a cancellation; the second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        signal.signal(number, before[number])
        job.cancel()

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _numbers(progress: dict[str, float]) -> dict[str, float]:
    return {key: progress[key] for key in ("content", "style", "total")}


COMMANDS = (personalize,)
