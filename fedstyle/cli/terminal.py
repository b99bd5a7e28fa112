"""What commands write: JSON or readable lines to standard output, progress to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedstyle.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from fedstyle.config import Loss

T = TypeVar("T", bound=Callable[..., Any])
FEATURES = click.Choice(["tiny", "vgg16", "vgg19"])
FOLDER_OR_FILE = click.Path(path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else, to standard output.")


def example(text: str) -> str:
    """The end of a command's help."""
    return f"\b\nExample:\n  {text}"


def feature_options(default: str | None) -> Callable[[T], T]:
    """The options that choose the feature network, for commands that measure or train."""
    shown = "" if default else "  [default: the filter's own]"

    def add(command: T) -> T:
        weights = click.option(
            "--weights",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The feature network's weights (vgg16, vgg19); torchvision's cache without it.",
        )
        features = click.option(
            "--features", type=FEATURES, default=default, show_default=bool(default), help=f"The feature network that judges.{shown}"
        )
        return features(weights(command))

    return add


def check_features(loss: Loss) -> None:
    """Load the feature network, and name the command line's option where the library names the configuration's key."""
    from fedstyle.perceptual import load_features

    try:
        load_features(loss.features, loss.weights)
    except ConfigError as error:
        raise ConfigError(str(error).replace("loss.weights", "--weights")) from error


def plain(path: str | os.PathLike[str]) -> str:
    """A path that any terminal and JSON can hold: what cannot be printed appears as an escape."""
    from fedstyle.picture import show

    return show(path)


def say(text: str) -> None:
    """A line for a person, on standard output."""
    click.echo(text)


def say_json(value: Any) -> None:
    """A result as JSON on standard output; ASCII, so that no terminal's encoding can break it."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def say_facts(facts: Mapping[str, Any], indent: int = 0) -> None:
    """Nested facts as aligned lines."""
    width = max((len(str(key)) for key in facts), default=0)
    for key, value in facts.items():
        head = f"{'  ' * indent}{key!s:<{width}}"
        if isinstance(value, Mapping) and value:
            say(head.rstrip())
            say_facts(value, indent + 1)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            say(head.rstrip())
            for item in value:
                parts = [f"{name} {_text(part)}" for name, part in item.items() if part not in (None, "") and not isinstance(part, Mapping)]
                say(f"{'  ' * (indent + 1)}- " + ", ".join(parts))
        else:
            say(f"{head}  {_text(value)}".rstrip())


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items()) or "none"
    return str(value)


@contextlib.contextmanager
def clean_output() -> Iterator[None]:
    """Send what libraries print to standard error, so that standard output holds the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


Advance = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@contextlib.contextmanager
def progress_bar() -> Iterator[Advance]:
    """Progress bars on standard error, one for each thing that is named; silent when standard error is no terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            name = what.partition(":")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(what, total=total)
            bars.update(tasks[name], completed=done, total=total, description=what)

        yield advance


def check_free(out: Path, what: str = "--out") -> None:
    """Raise OutputError at once when `out` exists or its folder cannot be made or written, before any work is done."""
    if os.path.lexists(out):
        raise OutputError(f"{plain(out)} exists already, and nothing is overwritten: give {what} another place, or remove it first")
    check_writable(out.parent, what)


def check_writable(folder: Path, what: str = "--out") -> None:
    """Raise OutputError when files cannot be made in `folder` or in the nearest folder above it that exists."""
    place = nearest(folder)
    if not place.is_dir():
        raise OutputError(f"{plain(place)} is no folder, so nothing can be written below it: give {what} another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{plain(place)} cannot be written to: give {what} a folder that you may write to")


def nearest(folder: Path) -> Path:
    """The folder itself, or the first one above it that exists."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place
