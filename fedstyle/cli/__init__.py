"""The command line: thin over the library, quick to start, one line for every error."""

from __future__ import annotations

import contextlib
import io
import sys

import click

import fedstyle
import fedstyle.flower  # sets the switches of flwr and Ray, and imports neither
from fedstyle.cli import audit, federation, filters, models, personal, research
from fedstyle.cli.guard import MISTAKE, Commands
from fedstyle.cli.terminal import example


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("fedstyle personalize --photos ~/Pictures --style starry_night.jpg --out my_filter"),
)
@click.version_option(fedstyle.__version__, prog_name="fedstyle", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train photo filters of your own on your own photos, alone or together, and export them as Core ML models.

    Exit codes: 0 done, 1 a check failed, 2 a mistake in what was given, 130 stopped with Ctrl-C.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(MISTAKE)


for module in (personal, filters, models, federation, research, audit):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """The program `fedstyle`."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(io.UnsupportedOperation, AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name must not end the program
    cli.main(prog_name="fedstyle")
