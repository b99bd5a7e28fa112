"""The device decides: what it answers, how often, and when. Whatever an order asks beyond that is refused, with a code.

The reason stays at home, in `refusals.jsonl`, and so does `standing.json`, what the device has answered by now. A server's clock plays no
part.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import RecordDict

from fedstyle.errors import FedstyleError, OutputError, WireError
from fedstyle.files import append_json, write_json
from fedstyle.flower.orders import Kind, Proof, check_proof, take_proof
from fedstyle.flower.secure import Step, weight
from fedstyle.flower.wire import Contract, Failure, Order, sizes
from fedstyle.tables import need

DAY = 86400.0
KINDS = ("train", "final")
CONDITIONS = ("idle", "charging", "unmetered")
"""What an app can tell of its device in `conditions.json`."""


@dataclass(frozen=True)
class Policy:
    """What a device allows: the `[policy]` table of its TOML."""

    kinds: tuple[str, ...] = KINDS
    """The orders that it answers: `train` a round, and keep the `final` base."""
    needs: tuple[str, ...] = ()
    """Of idle, charging and unmetered, those that the app must have said hold: see `set_conditions`."""
    rounds_a_day: int = 100
    """Orders that it answers within 24 hours."""
    bytes_a_day: int = 500_000_000
    """Bytes of arrays, both ways, within 24 hours."""
    last_round: int = 10_000
    """The largest number of a round."""
    proximal: float = 1.0
    """The largest factor of FedProx."""
    base: str = ""
    """The SHA-256 of the base that round 1 must start from, as it crosses (`Federation.pin`); empty takes any of the right architecture."""

    register: str = ""
    """The SHA-256 of the register of devices that may be in a secure sum; empty takes any that the authority signed."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name, known in (("kinds", KINDS), ("needs", CONDITIONS)):
            for word in getattr(self, name):
                need(word in known, f"policy.{name}", word, f"choose of {', '.join(known)}")
        for name in ("rounds_a_day", "bytes_a_day", "last_round"):
            need(getattr(self, name) >= 0, f"policy.{name}", getattr(self, name), "give 0 or more")
        need(self.proximal >= 0, "policy.proximal", self.proximal, "give 0 or more")
        for name in ("base", "register"):
            need(
                len(getattr(self, name)) in (0, 64),
                f"policy.{name}",
                getattr(self, name),
                "give a SHA-256 in hexadecimal, or leave it empty",
            )


class RefusedError(FedstyleError):
    """An order that the device does not answer; `code` is what the server is told."""

    def __init__(self, code: Failure, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Standing:
    """What a device has answered: in the last 24 hours, and the last round of each federation with the numbers used in it."""

    answered: list[tuple[float, int]] = field(default_factory=list)
    federations: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path) -> Standing:
        """Read a home's standing; one that is damaged raises FedstyleError, for without it every replay would look new."""
        path = home / "standing.json"
        try:
            facts = json.loads(path.read_text())
            answered = [(float(when), int(size)) for when, size in facts["answered"]]
            return cls(answered, {name: (int(last), list(map(str, used))) for name, (last, used) in facts["federations"].items()})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise FedstyleError(f"{path} is damaged: remove it, and the device takes part again as if it were new") from None

    def save(self, home: Path) -> None:
        """Write it, as a whole or not at all."""
        write_json(home / "standing.json", {"answered": self.answered, "federations": self.federations})

    def spend(self, now: float, size: int) -> None:
        """Count an answer; what is older than a day is forgotten.

        A time that lies ahead, after the clock was put back, counts as now: that frees nothing, and blocks no more than a day.
        """
        kept = [(min(when, now), spent) for when, spent in self.answered if now - when < DAY]
        self.answered = [*kept, (now, size)]

    def add(self, now: float, size: int) -> None:
        """Count further bytes of the order that was answered last."""
        if self.answered:
            when, spent = self.answered.pop()
            self.answered.append((min(when, now), spent + size))


def admit(
    kind: str,
    content: RecordDict,
    home: Path,
    policy: Policy,
    contract: Contract,
    operator: Ed25519PublicKey | None = None,
    *,
    begins: tuple[Step, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> tuple[Order, RecordDict]:
    """The order in a message and its content without the proof, if the device allows it; it is counted then, before anything is done.

    `begins` is the step of a secure sum that came beside the order, and the federation whose sum it has to be. Raises RefusedError for what
    the policy does not allow, FedstyleError where the standing cannot be read, OutputError where it cannot be written: an order that cannot
    be counted is not answered.
    """
    check_allowed(kind, home, policy)
    size, most = sum(sizes(content).values()), _most(contract)
    if size > most or len(content) > 3 or len(list(content.array_records)) > 1:
        raise RefusedError(Failure.SIZE, f"{size} bytes of arrays in {len(content)} records; an order has at most {most} in 3")
    try:
        rest, proof = take_proof(content)
        order = (contract.whole if kind == "final" else contract).read_order(rest)
    except WireError as error:
        raise RefusedError(Failure.BASE, str(error)) from None
    _check_identity(kind, order, proof, policy, operator, begins)
    standing, now = Standing.load(home), clock()
    _check_replay(kind, order, proof, standing)
    if order.round - (kind == "final") > policy.last_round:
        raise RefusedError(Failure.BOUNDS, f"round {order.round}; the policy ends with {policy.last_round}")
    if order.proximal > policy.proximal:
        raise RefusedError(Failure.BOUNDS, f"FedProx's factor {order.proximal}; the policy allows {policy.proximal}")
    standing.spend(now, size)
    if len(standing.answered) > policy.rounds_a_day:
        raise RefusedError(Failure.LIMIT, f"more than {policy.rounds_a_day} orders in 24 hours")
    check_bytes(standing, policy)
    last, used = standing.federations.get(proof.federation, (0, []))
    standing.federations[proof.federation] = (order.round, [*(used if order.round == last else []), proof.nonce.hex()])
    standing.save(home)
    return order, rest


def count_reply(home: Path, content: RecordDict, *, clock: Callable[[], float] = time.time) -> None:
    """Add what goes up to the bytes of the order that was admitted last."""
    standing = Standing.load(home)
    standing.add(clock(), weight(content))
    standing.save(home)


def note_refusal(home: Path, kind: str, refused: RefusedError) -> None:
    """Keep the reason at home; a disk that takes no more is no second error."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OutputError):
        append_json(home / "refusals.jsonl", {"time": now, "kind": kind[:40], "code": refused.code.value, "reason": str(refused)})
        append_json(home / "ledger.jsonl", {"round": 0, "kind": "refusal", "code": refused.code.value, "bytes": len(refused.code.value)})


def set_conditions(home: Path, **said: bool) -> None:
    """What the app knows of its device now: `idle`, `charging`, `unmetered`; what it does not say does not hold.

    Raises ConfigError for another word.
    """
    for name in said:
        need(name in CONDITIONS, "condition", name, f"choose of {', '.join(CONDITIONS)}")
    write_json(home / "conditions.json", said)


def conditions(home: Path) -> dict[str, Any]:
    """What the app said last; nothing where it said nothing or the file is damaged."""
    try:
        said = json.loads((home / "conditions.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: True for name in CONDITIONS if said.get(name) is True} if isinstance(said, dict) else {}


def check_allowed(kind: str, home: Path, policy: Policy) -> None:
    """Raise RefusedError unless the owner lets messages of this kind in now."""
    if (home / "paused").exists():
        raise RefusedError(Failure.AWAY, "the device is paused")
    if kind not in policy.kinds:
        raise RefusedError(Failure.KIND, f"a message of the kind {kind[:40]!r}, and the policy allows {', '.join(policy.kinds) or 'none'}")
    if missing := [name for name in policy.needs if not conditions(home).get(name)]:
        raise RefusedError(Failure.AWAY, f"the device is not {', not '.join(missing)}")


def check_bytes(standing: Standing, policy: Policy) -> None:
    """Raise RefusedError when the day's bytes are used up."""
    if (spent := sum(size for _, size in standing.answered)) > policy.bytes_a_day:
        raise RefusedError(Failure.LIMIT, f"{spent} bytes in 24 hours; the policy allows {policy.bytes_a_day}")


def check_signed(kind: Kind, order: Order | None, proof: Proof, operator: Ed25519PublicKey, step: Step | None) -> None:
    """Raise RefusedError unless the operator signed it."""
    try:
        check_proof(kind, order, proof, operator, step)
    except WireError as error:
        raise RefusedError(Failure.IDENTITY, str(error)) from None


def _check_identity(
    kind: str, order: Order, proof: Proof, policy: Policy, operator: Ed25519PublicKey | None, begins: tuple[Step, str] | None
) -> None:
    if operator is not None:
        check_signed("final" if kind == "final" else "train", order, proof, operator, begins[0] if begins else None)
    if begins and begins[1] != proof.federation:
        raise RefusedError(Failure.IDENTITY, "the order is of another federation than the register of devices")
    if policy.base and order.round == 1 and order.base.sha256 != policy.base:
        raise RefusedError(Failure.IDENTITY, f"round 1 starts from base {order.base.sha256[:12]}, and the policy names {policy.base[:12]}")


def _check_replay(kind: str, order: Order, proof: Proof, standing: Standing) -> None:
    """A round may be asked for again, with a new number: a server that lost the answer does so. Earlier rounds may not."""
    last, used = standing.federations.get(proof.federation, (0, []))
    if order.round < last:
        raise RefusedError(Failure.REPLAY, f"a {kind} order of round {order.round}, after one of round {last}")
    if order.round == last and proof.nonce.hex() in used:
        raise RefusedError(Failure.REPLAY, f"the same {kind} order of round {order.round} a second time")


def _most(contract: Contract) -> int:
    """The most bytes of arrays that an order may have: every parameter in fp32, and a header of at most 256 bytes for each."""
    return sum(256 + 4 * math.prod(shape) for shape in contract.shapes.values())
