"""What there is: `fedstyle inspect`, `fedstyle methods` and `fedstyle compare`."""

from __future__ import annotations

from pathlib import Path

import click

from fedstyle.cli.terminal import FOLDER_OR_FILE, as_json, check_free, clean_output, example, plain, say, say_facts, say_json


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


@click.command(epilog=example("fedstyle compare runs/fedavg runs/fedbn --out comparison.html"))
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=FOLDER_OR_FILE)
@click.option("--out", type=FOLDER_OR_FILE, metavar="FILE", help="Write the table too: .md, .csv, or .html with plots by round and bytes.")
@as_json
def compare(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Compare finished runs: losses, who is worse off, bytes, time.

    The loss is that of each client's filter on the photos that judge it: mean and spread over clients, and the mean of the worst
    tenth. Worse off is the share of clients whose filter is worse than the shared base.
    """
    if out:
        check_free(out)
    with clean_output():
        from fedstyle.files import write_bytes
        from fedstyle.report.comparison import COLUMNS, as_file, cells, unlike
        from fedstyle.report.comparison import compare as rows_of

        rows = rows_of(runs)
        if out:
            write_bytes(out, as_file(out, runs, rows).encode())
    if as_json:
        say_json(rows)
        return
    lines = [[head for head, _ in COLUMNS.values()], *([plain(cell) for cell in cells(row)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [f"{cell:{'<' if k < 3 else '>'}{width}}" for k, (cell, width) in enumerate(zip(line, widths, strict=True))]
        say("  ".join(padded).rstrip())
    if differs := unlike(rows):
        say(f"these runs differ in {' and '.join(differs)}: their losses do not compare")


COMMANDS = (inspect, methods, compare)
