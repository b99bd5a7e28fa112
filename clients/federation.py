"""A federation over the network, on public names of fedstyle only: the operator's commands, a device's commands, and a rehearsal of both.

    python clients/federation.py rehearse CONFIG.toml --out RUN     # everything on this machine, over TLS, with authenticated devices

    python clients/federation.py found CONFIG.toml --folder F --host federation.example.org       # the operator, once
    python clients/federation.py open --folder F --listen 0.0.0.0 --port 8443                     # serves until Ctrl-C
    python clients/federation.py enrol KEY.pub --folder F --name anna                             # for each device
    python clients/federation.py run --folder F                                                   # again after any end: it goes on
    python clients/federation.py dismiss --folder F --name anna                                   # takes a device off
    python clients/federation.py vouch --folder F                                                 # secure sums: signs who may be in them
    python clients/federation.py certify --folder F --host federation.example.org                 # a new certificate, then open again

    python clients/federation.py create --home H --photos DIR --style IMAGE --address federation.example.org:8443 \\
        --authority authority.crt --operator operator.pub --config CONFIG.toml                    # a device, once
    python clients/federation.py join --home H                                                    # until its filter is there
    python clients/federation.py pause|resume|leave|forget --home H

OPERATORS.md explains them. Exit codes: 0 done, 1 a run or a device that failed, 2 a mistake in what was given, 3 stopped before the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedstyle import Config, Federation, Membership, rehearse
from fedstyle.errors import FederationError, FedstyleError


def say(line: str) -> None:
    """Show a line at once."""
    print(line, flush=True)


def run_rehearsal(options: argparse.Namespace) -> None:
    """Bring a whole federation up and down on this machine."""
    rehearse(Config.load(options.config, options.set), options.out, watch=say)
    say(f"{options.out} is the run's folder: report.html, and each device's home in clients/")


def found(options: argparse.Namespace) -> None:
    """Make a federation's folder."""
    made = Federation.found(Config.load(options.config, options.set), options.folder, options.host)
    say(f"give every device {made.folder}/authority/authority.crt and {made.folder}/operator.pub")
    say(f"who wants to pin the first base, writes it under [policy] of the device's TOML: base = '{made.pin()}'")
    say(f"take {made.folder}/authority/authority.key off this machine, and back it up: it is only needed for certify")


def open_link(options: argparse.Namespace) -> None:
    """Serve until the process is stopped."""
    with Federation(options.folder).open(options.listen, options.port) as link:
        say(f"a SuperLink listens on {link.address}; Ctrl-C ends it")
        while link.process.poll() is None:
            time.sleep(0.5)
    raise FederationError(f"the SuperLink ended: see {options.folder}/link.log")


def enrol(options: argparse.Namespace) -> None:
    """Register a device."""
    Federation(options.folder).enrol(options.key, options.name)
    say(f"{options.name} is enrolled, and the next run asks it")


def vouch(options: argparse.Namespace) -> None:
    """Sign the register of devices that may be in secure sums."""
    register = Federation(options.folder).vouch()
    say(f"the register is {register}" if register else "sums are not secure in this federation, so that it has no register")


def dismiss(options: argparse.Namespace) -> None:
    """Take a device off."""
    Federation(options.folder).dismiss(options.name)
    say(f"{options.name} is not asked any more, and its key not let in")


def run(options: argparse.Namespace) -> None:
    """Do the rounds that are missing."""
    federation = Federation(options.folder)
    base = federation.run(watch=say)
    say(f"the last base is {base.sha256[:12]}, in {federation.folder}/base")
    for name, answer in federation.deliveries().items():
        say(f"{name}: {answer}")


def certify(options: argparse.Namespace) -> None:
    """Give the SuperLink a new certificate."""
    Federation(options.folder).certify(options.host)
    say("open the SuperLink anew, and it has the new certificate")


def create(options: argparse.Namespace) -> None:
    """Make a device's home."""
    config = Config.load(options.config) if options.config else Config()
    made = Membership.create(
        options.home,
        address=options.address,
        photos=options.photos.absolute(),
        style=options.style.absolute(),
        authority=options.authority.absolute(),
        operator=options.operator.absolute() if options.operator else "",
        config=config,
        wire=config.server.wire,
        policy={"last_round": config.server.rounds} if config.privacy.target_epsilon else None,
    )
    say(f"send the operator {made.home}/key.pub, and nothing else; what this device allows stands in {made.home}/device.toml")


def join(options: argparse.Namespace) -> None:
    """Take part, then make the filter."""
    made = Membership(options.home).join(watch=say)
    if made is None:
        say("this device has left")
    else:
        say(
            f"{options.home}/{made['filter']} is your filter"
            + (f", {options.home}/{made['package']} its export" if made["package"] else "")
        )


def call(name: str) -> Callable[[argparse.Namespace], None]:
    """One of a membership's calls that need nothing else."""

    def run(options: argparse.Namespace) -> None:
        getattr(Membership(options.home), name)()
        say(CALLS[name])

    return run


CALLS = {
    "pause": "every order is refused from now on; resume takes part again",
    "resume": "orders are answered again, while join runs",
    "leave": "the key is destroyed, and nothing is sent any more; what was sent stays in the base: ask the operator for dismiss",
    "forget": "all that training left here is deleted; photos, style image, filter, export and ledger are yours and stay",
}


def commands() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="federation.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], None], *required: str, **options: object) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=run.__doc__ if name in SHOWN else None)
        one.set_defaults(run=run)
        for option in required:
            one.add_argument(f"--{option}", type=Path, required=True)
        for option, default in options.items():
            one.add_argument(f"--{option}", type=type(default), default=default)
        return one

    for name, do, place in (("rehearse", run_rehearsal, "out"), ("found", found, "folder")):
        one = verb(name, do, place)
        one.add_argument("config", type=Path)
        one.add_argument("--set", action="append", default=[], metavar="table.key=value")
        if name == "found":
            one.add_argument("--host", action="append", required=True, help="a name or address by which devices reach the SuperLink")
    verb("open", open_link, "folder", listen="127.0.0.1", port=8443)
    one = verb("enrol", enrol, "folder")
    one.add_argument("key", type=Path)
    one.add_argument("--name", required=True)
    verb("dismiss", dismiss, "folder").add_argument("--name", required=True)
    verb("vouch", vouch, "folder")
    verb("run", run, "folder")
    verb("certify", certify, "folder").add_argument("--host", action="append", required=True)
    one = verb("create", create, "home", "photos", "style", "authority")
    one.add_argument("--address", required=True)
    one.add_argument("--operator", type=Path)
    one.add_argument("--config", type=Path)
    verb("join", join, "home")
    for name in CALLS:
        verb(name, call(name), "home")
    return parser


SHOWN = ("rehearse", "found", "open", "enrol", "dismiss", "vouch", "run", "certify", "create", "join")


def _stop(*_: object) -> None:
    raise KeyboardInterrupt  # so that SIGTERM takes everything down as Ctrl-C does


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    options = commands().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 3
    except FederationError as error:
        print(error, file=sys.stderr)
        return 1
    except FedstyleError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
