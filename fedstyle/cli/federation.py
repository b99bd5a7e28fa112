"""`fedstyle simulate`: a federation on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedstyle.cli.guard import CheckError, StoppedError
from fedstyle.cli.terminal import FOLDER_OR_FILE, check_free, check_writable, clean_output, example, plain, progress_bar, say

if TYPE_CHECKING:
    from fedstyle.population import Population


@click.command(epilog=example("fedstyle simulate simulation/quickstart/quickstart.toml --out runs/quickstart --set server.rounds=20"))
@click.argument("config", metavar="CONFIG.toml", type=FOLDER_OR_FILE)
@click.option("--out", type=FOLDER_OR_FILE, metavar="RUN", help="The run's folder, a new one; needed unless --dry-run.")
@click.option("--set", "overrides", multiple=True, metavar="table.key=value", help="Override a value of the configuration; repeatable.")
@click.option("--dry-run", is_flag=True, help="Check everything, show who would train on what, and write nothing.")
def simulate(config: Path, out: Path | None, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Run a federation as CONFIG.toml describes it.

    Rounds, personal filters, verified exports and a report: every client has photos and a style image of its own. They learn a
    base together, then each makes its own filter from it.
    RUN holds config.toml, history.jsonl, summary.json, report.html, base/ and clients/.
    """
    if not (out or dry_run):
        raise click.UsageError("Missing option '--out': give the folder for the run, or --dry-run to see the plan")
    if out and out.is_dir() and not any(out.iterdir()):
        check_writable(out)
    elif out:
        check_free(out)
    from fedstyle.config import Config

    settings = Config.load(config, overrides)
    if dry_run:
        from fedstyle.simulate import check

        with clean_output():
            population = check(settings)
        show_plan(population)
        return
    assert out is not None  # checked above
    from fedstyle.simulate import simulate as run

    try:
        with progress_bar() as advance, clean_output():
            history = run(settings, out, watch=advance)
    except KeyboardInterrupt:
        raise StoppedError(
            f"interrupted: {plain(out)} holds what was done so far; remove it, or give another --out, to run again"
        ) from None
    summary = history.summary
    clients = summary["clients"]
    faithful = sum(1 for row in clients if row["parity"] and row["parity"]["faithful"])
    gains = [row["improvement"] for row in clients if row["improvement"] is not None]
    say(f"{summary['rounds']} rounds with {len(clients)} clients in {summary['seconds']:.0f} s, base {summary['base_sha256'][:12]}")
    if gains:
        say(f"{len(gains)} personal filters, their loss {min(gains):.0%} to {max(gains):.0%} below the base's")
    if settings.export.clients:
        say(f"{faithful} of {len(clients)} exports verified")
    say(f"look at {plain(out / 'report.html')}")
    if without := [row["id"] for row in clients if row["error"]]:
        raise CheckError(f"{len(without)} of {len(clients)} clients failed, {without[0]} first: see {plain(out / 'summary.json')}")
    if settings.export.clients and faithful < len(clients):
        raise CheckError(f"{len(clients) - faithful} of {len(clients)} exports are not faithful: see {plain(out / 'summary.json')}")


def show_plan(population: Population) -> None:
    """Print who would train on what, as a table."""
    rows = [("client", "style", "photos", "held out")]
    rows += [(one.id, plain(one.style_name), str(len(one.photos)), str(len(one.heldout))) for one in population.devices]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        say(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}")
    if population.skipped:
        say("skipped: " + ", ".join(f"{count} {reason}" for reason, count in population.skipped.items()))


COMMANDS = (simulate,)
