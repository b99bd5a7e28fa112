"""`fedstyle simulate`: a federation on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fedstyle.cli.guard import CheckError, StoppedError
from fedstyle.cli.terminal import (
    FOLDER_OR_FILE,
    as_json,
    check_free,
    check_writable,
    clean_output,
    example,
    plain,
    progress_bar,
    say,
    say_json,
)
from fedstyle.errors import FederationError


@click.command(epilog=example("fedstyle simulate simulation/quickstart/quickstart.toml --out runs/quickstart --set server.rounds=20"))
@click.argument("config", metavar="CONFIG.toml", type=FOLDER_OR_FILE, required=False)
@click.option("--out", type=FOLDER_OR_FILE, metavar="RUN", help="The run's folder, a new one; with --dry-run a page, FILE.html.")
@click.option(
    "--resume", type=FOLDER_OR_FILE, metavar="RUN", help="Go on with a run that was stopped, killed or failed; without CONFIG.toml."
)
@click.option("--tensorboard", is_flag=True, help="Write RUN/tensorboard as it goes, for TensorBoard.")
@click.option("--set", "overrides", multiple=True, metavar="table.key=value", help="Override a value of the configuration; repeatable.")
@click.option("--dry-run", is_flag=True, help="Check everything, show who would train on what, and train nothing.")
@as_json
def simulate(
    config: Path | None, out: Path | None, resume: Path | None, tensorboard: bool, overrides: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Run a federation as CONFIG.toml describes it.

    Rounds, personal filters, verified exports and a report: every client has photos and a style image of its own. They learn a
    base together, then each makes its own filter from it.
    RUN holds config.toml, history.jsonl, summary.json, report.html, base/ and clients/. A run that was killed goes on with --resume
    RUN, to the same base and the same filters.
    """
    if resume:
        if config or out or dry_run:
            raise click.UsageError("--resume RUN takes all from the run itself: leave CONFIG.toml, --out and --dry-run out")
        config, out = resume / "config.toml", resume
        from fedstyle.record import check_folder, is_finished

        check_folder(resume, resume=True)
        if is_finished(resume) and not as_json:
            say(f"{plain(resume)} is finished: nothing is left to do")
    elif not config:
        raise click.UsageError("Missing argument 'CONFIG.toml'")
    elif not (out or dry_run):
        raise click.UsageError("Missing option '--out': give the folder for the run, or --dry-run to see the plan")
    elif out and out.is_dir() and not any(out.iterdir()):
        check_writable(out)
    elif out:
        check_free(out)
    from fedstyle.config import Config

    settings = Config.load(config, overrides)
    if dry_run:
        from fedstyle.cli.plan import show_plan

        show_plan(settings, out if out and out.suffix == ".html" else None, as_json)
        return
    assert out is not None  # checked above
    from fedstyle.simulate import simulate as run

    try:
        with progress_bar() as advance, clean_output():
            history = run(settings, out, resume=bool(resume), tensorboard=tensorboard, watch=advance)
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted: fedstyle simulate --resume {plain(out)} goes on where it stood") from None
    except FederationError as error:
        raise FederationError(f"{error}. Then fedstyle simulate --resume {plain(out)} goes on") from error
    summary, tell = history.summary, (lambda _: None) if as_json else say
    if as_json:
        say_json(summary)
    clients = summary["clients"]
    faithful = sum(1 for row in clients if row["parity"] and row["parity"]["faithful"])
    gains = [row["improvement"] for row in clients if row["improvement"] is not None]
    tell(f"{summary['rounds']} rounds with {len(clients)} clients in {summary['seconds']:.0f} s, base {summary['base_sha256'][:12]}")
    if gains:
        tell(f"{len(gains)} personal filters, their loss {min(gains):.0%} to {max(gains):.0%} below the base's")
    if settings.export.clients:
        tell(f"{faithful} of {len(clients)} exports verified")
    tell(f"look at {plain(out / 'report.html')}")
    if without := [row["id"] for row in clients if row["error"]]:
        raise CheckError(f"{len(without)} of {len(clients)} clients failed, {without[0]} first: see {plain(out / 'summary.json')}")
    if settings.export.clients and faithful < len(clients):
        raise CheckError(f"{len(clients) - faithful} of {len(clients)} exports are not faithful: see {plain(out / 'summary.json')}")


COMMANDS = (simulate,)
