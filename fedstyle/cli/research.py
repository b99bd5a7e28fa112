"""What there is: `fedstyle inspect` and `fedstyle methods`."""

from __future__ import annotations

from pathlib import Path

import click

from fedstyle.cli.terminal import FOLDER_OR_FILE, as_json, clean_output, example, say, say_facts, say_json


@click.command(epilog=example("fedstyle inspect my_filter"))
@click.argument("path", metavar="PATH", type=FOLDER_OR_FILE)
@as_json
def inspect(path: Path, as_json: bool) -> None:
    """Show what is in a base, filter, update, run or model.

    Of a model it is what Xcode's panel shows: size, inputs, outputs, availability, metadata, operations. Of the others also what
    would leave this device, and what has left it.
    """
    with clean_output():
        from fedstyle.inspection import inspect as facts_of

        facts = facts_of(path)
    (say_json if as_json else say_facts)(facts)


@click.command(epilog=example("fedstyle methods --json"))
@as_json
def methods(as_json: bool) -> None:
    """List the personalisation methods and their settings.

    For each its paper, what it shares with the server, and the keys of [method] with their defaults.
    """
    with clean_output():
        from fedstyle.inspection import describe_methods

        rows = describe_methods()
    if as_json:
        say_json(rows)
        return
    for row in rows:
        say(f"{row['name']}: {row['about']}")
        if row["paper"]:
            say(f"  paper   {row['paper']}")
        shared, private = row["shared_parameters"], row["private_parameters"]
        say(f"  shares  {row['shares']} ({shared:,} of {shared + private:,} in cnnLite)")
        say("  fields  " + ", ".join(f"{key} = {value}" for key, value in row["fields"].items()))


COMMANDS = (inspect, methods)
