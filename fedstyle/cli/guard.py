"""The last stop of every error: one line for a person and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from fedstyle.errors import FedstyleError

MISTAKE, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: a user's mistake, a check that failed, and Ctrl-C (128 + SIGINT)."""


class CheckError(Exception):
    """A check that failed: exit code 1."""


class StoppedError(Exception):
    """The user stopped the command; the message says what to do to go on."""


class Commands(click.Group):
    """A group whose commands end with an exit code and at most one line on standard error, whatever happens."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """The commands in the order of a user's work, not of the alphabet."""
        return list(self.commands)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command line and exit."""
        extra["standalone_mode"] = False
        with _notices():
            code = self._run(*args, **extra)
        sys.exit(code)

    def _run(self, *args: Any, **extra: Any) -> int:
        try:
            code = super().main(*args, **extra)
        except click.UsageError as error:
            return _usage(error)
        except BaseException as error:
            if isinstance(error, (SystemExit, GeneratorExit)):
                raise
            if os.environ.get("FEDSTYLE_DEBUG"):
                traceback.print_exception(error)
            message, code = judge(error)
            return _line(message, code)
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C is turned around here, for click would answer it with an empty line."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError):
            raise StoppedError("interrupted: nothing is left half-written; give the same command to start again") from None


def judge(error: BaseException) -> tuple[str, int]:
    """The line and the exit code for an error."""
    if isinstance(error, StoppedError):
        return str(error), INTERRUPTED
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, CheckError):
        return str(error), FAILED
    if isinstance(error, FedstyleError):
        return str(error), MISTAKE
    if isinstance(error, click.ClickException):
        return error.format_message(), MISTAKE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = f" to write {error.filename}" if error.filename else ""
        return f"no space left{place}: free some disk space and run again", MISTAKE
    lines = str(error).strip().splitlines()
    text = f" ({lines[0][:200]})" if lines else ""
    return f"unexpected {type(error).__name__}{text}: this is a fault in fedstyle; FEDSTYLE_DEBUG=1 shows the traceback to report", FAILED


def _usage(error: click.UsageError) -> int:
    message = " ".join(error.format_message().split()).rstrip(".")
    known = error.ctx.command_path if error.ctx else "fedstyle"
    return _line(f"{message[:1].lower()}{message[1:]}: see '{known} --help'", MISTAKE)


def _line(message: str, code: int) -> int:
    click.echo("fedstyle: " + " ".join(message.splitlines()), err=True)
    return code


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Show fedstyle's own warnings as one line each, and drop those of the libraries below it."""
    if os.environ.get("FEDSTYLE_DEBUG"):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"fedstyle(\.|$)")
        warnings.showwarning = lambda message, *_args, **_more: click.echo(f"fedstyle: notice: {message}", err=True)
        yield
