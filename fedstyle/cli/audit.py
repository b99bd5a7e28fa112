"""`fedstyle audit`: what leaves a device, attacked; and what guards it, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedstyle.cli.guard import CheckError
from fedstyle.cli.terminal import FOLDER_OR_FILE, as_json, check_free, clean_output, example, plain, progress_bar, say, say_json


@click.command(epilog=example("fedstyle audit simulation/privacy/audit.toml --out runs/audit"))
@click.argument("config", metavar="CONFIG.toml", type=FOLDER_OR_FILE)
@click.option("--out", type=FOLDER_OR_FILE, metavar="FOLDER", help="A new folder for audit.json and the page audit.html.")
@click.option("--set", "overrides", multiple=True, metavar="table.key=value", help="Override a value of the configuration; repeatable.")
@click.option("--trials", type=int, default=400, show_default=True, help="Users whose style is looked for.")
@click.option("--filters", type=int, default=32, show_default=True, help="Of these, users whose exported filter is attacked too.")
@click.option("--members", type=int, default=400, show_default=True, help="Photos that were trained on, to be found out.")
@click.option("--others", type=int, default=1000, show_default=True, help="Photos that were not, to be taken for them.")
@click.option("--photos", type=int, default=40, show_default=True, help="Photos to rebuild, of users with no other.")
@click.option("--canaries", type=int, default=300, show_default=True, help="Canaries in the audit of the aggregator.")
@click.option("--unseen", type=int, default=8, show_default=True, help="Users whom no round asked, to judge the base by; 0 leaves it out.")
@as_json
def audit(config: Path, out: Path | None, overrides: tuple[str, ...], as_json: bool, **scale: int) -> None:
    """Attack what rounds release, and check the aggregator.

    CONFIG.toml is a run's own: its network, training, method, rounds and cohort are audited, with users simulated on its photos and
    styles. Photos are rebuilt, membership is inferred, styles are named, and canaries look for a lower bound on epsilon, for seven
    releases from nothing to the exported filter. Limits that figures are too wide to settle are called unresolved. Exit code 1 means
    that the aggregator fails a check.
    """
    if out:
        check_free(out)
    with clean_output():
        from fedstyle.config import Config
        from fedstyle.privacy.audit.mechanism import faults_found, unseen_faults
        from fedstyle.privacy.audit.study import Scale
        from fedstyle.privacy.audit.study import audit as run

        settings, amount = Config.load(config, overrides), Scale(**scale)
        with progress_bar() as advance:
            result = run(settings, amount, advance)
        if out:
            _write(result, out)
    say_json(result) if as_json else _show(result, out)
    if failed := faults_found(result["mechanism"]):
        raise CheckError(f"the aggregator fails {len(failed)} of its checks, {failed[0]} first: its epsilon does not hold")
    if missed := unseen_faults(result["mechanism"]):
        raise CheckError(f"{len(missed)} seeded faults were missed, {missed[0]} first: on these settings the checks prove little")


def _write(result: dict[str, Any], out: Path) -> None:
    from fedstyle.files import staged, write_bytes, write_json
    from fedstyle.privacy.audit.page import body, headline
    from fedstyle.report import document

    with staged(out) as folder:
        write_json(folder / "audit.json", result)
        write_bytes(folder / "audit.html", document(headline(result), body(result)).encode())


def _show(result: dict[str, Any], out: Path | None) -> None:
    say(f"privacy.mode = {result['mode']!r}")
    say(f"{'what is seen':<20}{'rounds':>6}  {'style named':<27}{'membership AUC':<29}{'photo rebuilt, dB':<29}".rstrip())
    for row in result["releases"]:
        named, auc, gain = row["reidentification"], row["membership"]["auc"], row["reconstruction"]
        cells = [f"{100 * named['value']:.0f} % {named['verdict']}", f"{auc['value']:.2f} {auc['verdict']}"]
        cells.append(f"{gain['value']:+.1f} {gain['verdict']}" if gain else "-")
        say(f"{row['release']:<20}{row['rounds']:>6}  {cells[0]:<27}{cells[1]:<29}{cells[2]:<29}".rstrip())
    goal, mechanism = result["targets"], result["mechanism"]
    say(
        f"limits: style {goal['reidentification']:.0%} (chance {goal['chance']:.0%}), AUC {goal['membership']}, {goal['reconstruction']} dB"
    )
    void = [name for name, control in result["controls"].items() if not control["holds"]]
    say(f"controls: {', '.join(void)} void" if void else "controls: all attacks work where they must")
    for row in result["frontier"]["utility"]:
        setting = row["setting"] or f"noise {row['noise']:.3g}, clip {row['clip']:.3g}"
        say(f"unseen users' loss, {setting}: {100 * row['worse']['value']:+.0f} % {row['worse']['verdict']}")
    say(f"aggregator: {sum(one['passed'] for one in mechanism['checks'])} of {len(mechanism['checks'])} checks passed, "
        f"{sum(one['caught'] for one in mechanism['faults'])} of {len(mechanism['faults'])} seeded faults caught")  # fmt: skip
    for one in mechanism["canaries"]:
        say(f"canaries, {one['about']}: epsilon at least {one['low']:.2f}, accounted {one['claimed']:.2f}")
    if out:
        say(f"look at {plain(out / 'audit.html')}")


COMMANDS = (audit,)
