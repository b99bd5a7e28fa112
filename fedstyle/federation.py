"""A federation over the network, as its operator runs it; `rehearsal` runs a whole one on this machine.

    federation = Federation.found(config, "federation", ["federation.example.org"])
    with federation.open("0.0.0.0", 8443):
        federation.enrol("from-a-device/key.pub", name="000")
        federation.run()               # again after any end: it goes on from the last checkpoint

The folder's authority.crt and operator.pub go to every device; `authority.key` belongs on a machine that serves nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedstyle.base import Base
from fedstyle.config import Config
from fedstyle.errors import FederationError, OutputError
from fedstyle.files import read_lines, write_bytes
from fedstyle.methods import check_match, make_method
from fedstyle.population import first_base
from fedstyle.privacy.settings import COHORT, check_mode

if TYPE_CHECKING:
    from fedstyle.flower.deployment import Link
    from fedstyle.flower.state import ServerState

PAUSE = 1.0
BEGIN = 900.0
"""Seconds that a run may take to begin, which is a process that imports; a busy machine needs minutes for it."""
LOOK = 60.0
"""Seconds between two questions to Flower whether a run that is silent still runs, each of which starts a process."""
Watch = Callable[[str], None]


@dataclass(frozen=True)
class Federation:
    """An operator's folder: see `flower.hosting` for what is in it."""

    folder: Path

    def __init__(self, folder: str | Path) -> None:
        object.__setattr__(self, "folder", Path(folder).absolute())

    @classmethod
    def found(cls, config: Config, folder: str | Path, hosts: Sequence[str], *, signed: bool = True) -> Federation:
        """Make a federation's folder: authority, the SuperLink's certificate for `hosts`, the operator's key, and the first base.

        Without `signed` there is no operator's key, and devices take the word of whoever holds the SuperLink's certificate. Raises
        OutputError for a folder that is not empty, ConfigError for a configuration that cannot be run.
        """
        from fedstyle.flower.credentials import Authority, make_operator_key  # they come with the extra
        from fedstyle.flower.hosting import Roll
        from fedstyle.flower.secure import LEAST, Plan, check_network
        from fedstyle.flower.wire import Contract

        made = cls(folder)
        if made.folder.exists() and (not made.folder.is_dir() or any(made.folder.iterdir())):
            raise OutputError(f"{made.folder} exists and is not empty: a federation is never overwritten; choose another folder")
        method = make_method(config.method)
        check_match(method, config.server.strategy)
        check_network(config.privacy)
        check_mode(config, config.server.cohort or COHORT)  # as yet nobody is enrolled: a run counts them
        Plan.of(config, config.server.cohort or LEAST, None)
        base = first_base(config)
        write_bytes(made.folder / "config.toml", config.toml().encode())
        made.certify(hosts, authority=Authority.create(made.folder / "authority"))
        if signed:
            make_operator_key(made.folder / "operator")
        base.save(made.folder / "base")
        shared = sorted(Contract.of(base, method.shares).shared)
        Roll(secrets.token_hex(16), tuple(shared), config.server.wire).save(made.folder)
        return made

    def pin(self) -> str:
        """The SHA-256 of the base as devices receive it, in the wire type: before round 1, what a device may name as `policy.base`."""
        from fedstyle.flower.hosting import Roll
        from fedstyle.flower.wire import received

        return received(Base.load(self.folder / "base"), Roll.load(self.folder).wire).sha256

    def certify(self, hosts: Sequence[str], *, authority: Any = None) -> None:
        """Give the SuperLink a new certificate, for a start or a rotation: devices trust the authority and notice nothing.

        It holds for `hosts` and for this machine itself; a SuperLink reads it when it is opened.
        """
        from fedstyle.flower.credentials import Authority

        (authority or Authority(self.folder / "authority")).issue(self.folder / "link", [*hosts, *({"localhost", "127.0.0.1"} - {*hosts})])

    @contextlib.contextmanager
    def open(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[Link]:
        """The SuperLink, for as long as the block lasts; port 0 takes a free one."""
        from fedstyle.flower.deployment import superlink

        with superlink(self.folder, host, port) as link:
            yield link

    def enrol(self, public: str | Path, name: str) -> None:
        """Register a device's public key with the open SuperLink, and write it in as the next number; the next run asks it, too.

        Where sums are secure, the authority's key has to be in its folder for this: see `vouch`. Raises FederationError for a key that is
        registered already, and for a name that is taken.
        """
        from fedstyle.flower.credentials import verification_key
        from fedstyle.flower.deployment import register
        from fedstyle.flower.hosting import Member, Roll

        roll = Roll.load(self.folder)
        if name in {member.name for member in roll.members}:
            raise FederationError(f"there is a device {name!r} already: choose another name")
        key = verification_key(Path(public)).hex() if self._secure() else ""
        member = Member(len(roll.members), name, register(self.folder, Path(public).absolute()), key)
        dataclasses.replace(roll, members=(*roll.members, member)).save(self.folder)
        self.vouch()

    def vouch(self) -> str:
        """Sign the register of devices that may be in a secure sum, which all of them get with the next round, with the authority's key.

        It says that each key belongs to a device of its own, whatever the SuperLink says. `enrol` and `dismiss` do this too. Gives the
        register's SHA-256, which members can compare and name as `policy.register`; nothing is done, and '' given, where sums are not
        secure. Raises FederationError where the authority's key is not in its folder.
        """
        from fedstyle.flower.credentials import Authority
        from fedstyle.flower.hosting import Roll
        from fedstyle.flower.vouching import Register

        if not self._secure():
            return ""
        roll, last = Roll.load(self.folder), Register.load(self.folder)
        keys = tuple(bytes.fromhex(member.key) for member in roll.members)
        if last is None or (last.federation, last.keys) != (roll.name, keys):
            last = Register(roll.name, last.edition + 1 if last else 1, keys).sign(Authority(self.folder / "authority"))
            last.save(self.folder)
        return last.sha256

    def _secure(self) -> bool:
        return Config.load(self.folder / "config.toml").privacy.secure

    def dismiss(self, name: str) -> None:
        """Take a device off: the open SuperLink does not know its key any more, and no run asks it; those after it move up a number.

        Raises FederationError for a name that is not enrolled.
        """
        from fedstyle.flower.deployment import unregister
        from fedstyle.flower.hosting import Roll

        roll = Roll.load(self.folder)
        found = [member for member in roll.members if member.name == name]
        if not found:
            raise FederationError(
                f"there is no device {name!r}: enrolled are {', '.join(member.name for member in roll.members) or 'none'}"
            )
        unregister(self.folder, found[0].node)
        kept = [member for member in roll.members if member is not found[0]]
        members = tuple(dataclasses.replace(member, number=number) for number, member in enumerate(kept))
        dataclasses.replace(roll, members=members).save(self.folder)
        self.vouch()

    def run(self, *, watch: Watch = lambda _: None) -> Base:
        """Run the rounds that are missing over the open SuperLink, send the last base to every device, and give it.

        `watch` gets a line a round. Raises FederationError, with the reason, for a run that failed or was stopped, or a SuperLink that is
        gone: start it again, and this goes on from the last round that ended.
        """
        from fedstyle.flower.deployment import is_open, run_status, start_run

        ends = [self.folder / name for name in ("deliveries.json", "failure.json")]
        for end in ends:
            end.unlink(missing_ok=True)
        told, run = len(self.history()), start_run(self.folder)
        started = looked = time.monotonic()
        while not any(end.exists() for end in ends):
            for row in self.history()[told:]:
                told += 1
                watch(_tell(row))
            if not is_open(self.folder):
                raise FederationError(f"the SuperLink is gone: open it, and run again to go on; see {self.folder}/link.log")
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                try:
                    status = run_status(self.folder, run)
                except FederationError:
                    if is_open(self.folder):
                        raise
                    continue  # it went while it was asked
                if status in ("pending", "starting") and looked - started > BEGIN:
                    raise FederationError(f"the run did not begin within {BEGIN:.0f} s: end the SuperLink, open it, and run again")
                if status.startswith("finished") and not any(end.exists() for end in ends):
                    raise FederationError(
                        f"the run ended as {status} and says no reason: its log is that of flwr log {run}; run again to go on"
                    )
            time.sleep(PAUSE)
        for row in self.history()[told:]:
            watch(_tell(row))
        if ends[1].exists():
            raise FederationError(f"the run failed: {json.loads(ends[1].read_text())['error']}")
        return Base.load(self.folder / "base")

    def history(self) -> list[dict[str, Any]]:
        """A line for each round that ended."""
        return read_lines(self.folder / "history.jsonl")

    def state(self) -> ServerState:
        """Where the last run left the federation: the round, its base, and what was charged for privacy."""
        from fedstyle.flower.hosting import load_state

        return load_state(self.folder)

    def deliveries(self) -> dict[str, str]:
        """By device, whether it keeps the last base, or the code of why it does not."""
        path = self.folder / "deliveries.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


def _tell(row: dict[str, Any]) -> str:
    """A line of history for a person."""
    failed = "".join(f", {name} {code}" for name, code in row["failures"].items())
    sizes = f"{row['bytes_down'] / 1e6:.2f} MB down, {row['bytes_up'] / 1e6:.2f} MB up"
    return f"round {row['round']}: {row['replied']} of {row['sampled']} replied{failed}; {sizes}; {row['seconds']:.1f} s"
