"""The device's half of a secure sum: train, and let the update out under masks that only a sum takes off.

Between two messages the state lies in the home, `sum.state`, for its owner alone: the device's process may end in between. It holds the
secrets of this round, and the update until it is masked. It moves on before a reply leaves, so that no step is taken twice; an error in a
step drops it, and the device sits the round out. After the round it holds the round's number and no secret. A device that falls out of a
round keeps what it has until the next one asks it: shares of others' secrets, of which no one device has enough, and secrets of its own
that cover nothing that left. What a file system keeps of a file that was replaced is beyond it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict

from fedstyle import params
from fedstyle.errors import ConfigError, FedstyleError, WireError
from fedstyle.files import locked, write_bytes
from fedstyle.flower.secure import AGREEMENT, SIGNED, STEPS, SUM, Plan, Step
from fedstyle.flower.wire import CodedError, Contract, Failure, Order
from fedstyle.privacy.gaussian import Draw, seeded, shorten
from fedstyle.privacy.noise import flatten
from fedstyle.privacy.secagg import client, wire
from fedstyle.privacy.secagg.client import State
from fedstyle.privacy.secagg.terms import Terms

FILE = "sum.state"
KIND = 101
"""The kind of the file: no message's."""
NUMBERS = np.dtype("<f4")
DUE = dict(zip(("advertised", "shared", "masked"), STEPS[1:], strict=True))
"""The step that comes next, by the phase of the state."""
DUE_SIGNED = dict(zip(("advertised", "shared", "masked", "agreed"), SIGNED[1:], strict=True))


@dataclass(frozen=True)
class Kept:
    """What a device keeps of a secure sum between two messages."""

    state: State
    update: bytes = b""
    """The update's numbers, until they are masked."""

    def save(self, home: Path) -> None:
        """Write the file, as a whole, in the place of an older one."""
        content = wire.pack(KIND, bytes(32), self.state.me, [self.state.encode(), self.update])
        write_bytes(home / FILE, content, private=True)

    @classmethod
    def load(cls, home: Path) -> Kept | None:
        """Read the file, or None where there is none; raises FedstyleError for one that is damaged or cannot be read."""
        try:
            content = (home / FILE).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FedstyleError(f"cannot read {home / FILE}: {error.strerror or error}: check its permissions and its disk") from error
        try:
            _, (state, update) = wire.unpack(content, KIND, bytes(32), 2)
            return cls(State.decode(state), update)
        except WireError:
            raise FedstyleError(f"{home / FILE} is damaged: remove it, and this device takes part again as if it were new") from None

    def close(self, home: Path) -> None:
        """Drop all secrets, and keep which round this was."""
        Kept(State("done", self.state.terms, self.state.me)).save(home)


def accept(contract: Contract, home: Path, me: int, content: RecordDict) -> tuple[Order, Terms]:
    """The order and the terms with which a round begins; from now on no other round of this number does.

    Raises CodedError unless the terms are those of this device's own configuration, for a round after the last one of that run, and
    WireError for an order that the contract does not take.
    """
    step, plan = Step.read(content), _plan(contract)
    order = contract.read_order(RecordDict({name: record for name, record in content.items() if name != SUM}))
    try:
        terms = Terms.decode(step.body)
        same = terms == plan.terms(terms.run, order.round, terms.clients, contract.length)
    except (WireError, ConfigError) as error:
        raise CodedError(Failure.TERMS, str(error)) from None
    known = plan.register is None or set(terms.clients) <= plan.register.by_number.keys()
    if not same or not known or step.round != order.round or me not in terms.clients:
        raise CodedError(Failure.TERMS, "the server's terms of the secure sum are not those that follow from this device's configuration")
    with _alone(home):
        kept = Kept.load(home)
        if kept and _family(kept.state.terms) == _family(terms) and kept.state.terms.round >= terms.round:
            raise CodedError(
                Failure.REPLAY, f"the server asks for round {terms.round}, and round {kept.state.terms.round} had begun before"
            )
        Kept(State("done", terms, me)).save(home)
    return order, terms


def begin(contract: Contract, home: Path, me: int, terms: Terms, delta: params.Params) -> tuple[RecordDict, dict[str, Any]]:
    """Keep the update, and give the first step's reply and its line for the ledger.

    Raises WireError for an update that may not leave, CodedError where another round began while this one trained.
    """
    contract.check_delta(delta)
    state, body = client.advertise(terms, me, _plan(contract).identity)
    with _alone(home):
        kept = Kept.load(home)
        if not kept or kept.state != State("done", terms, me):
            raise CodedError(Failure.PHASE, f"another round began while round {terms.round} trained")
        Kept(state, flatten(delta).astype(NUMBERS).tobytes()).save(home)
    return _reply("advert", terms, body)


def go_on(contract: Contract, home: Path, content: RecordDict) -> tuple[RecordDict, dict[str, Any]]:
    """Take the next step, and give the reply and its line for the ledger.

    Raises CodedError for a step that is not due: that one is not taken, and changes nothing. Any error in a step ends the round here:
    WireError for a message that was altered or breaks the protocol, FederationError when too few clients are left.
    """
    with _alone(home):
        return _go_on(contract, home, content)


def _go_on(contract: Contract, home: Path, content: RecordDict) -> tuple[RecordDict, dict[str, Any]]:
    step, plan, kept = Step.read(content), _plan(contract), Kept.load(home)
    due = kept and ((DUE_SIGNED if kept.state.terms.signed else DUE).get(kept.state.phase), kept.state.terms.round)
    if not kept or due != (step.name, step.round) or set(content) != {SUM}:
        raise CodedError(Failure.PHASE, f"the server asks for {step.name} of round {step.round}, which is not due: repeated, late or lost")
    terms, identity = kept.state.terms, plan.identity
    if plan.register and not terms.run.endswith(plan.register.sha256):
        raise CodedError(Failure.PHASE, "the register of devices has changed since the round began")
    try:
        if step.name == "shares":
            state, body = client.share(kept.state, step.body, identity)
            after = Kept(state, kept.update)
        elif step.name == "masked":
            vector = np.frombuffer(kept.update, NUMBERS).astype(np.float64)
            draw = _noise(plan, terms.round, kept.state.me)
            state, body = client.mask(kept.state, step.body, shorten(vector, plan.clip), identity, draw=draw)
            after = Kept(state)
        elif step.name == AGREEMENT:
            state, body = client.consent(kept.state, step.body, identity)
            after = Kept(state)
        else:
            state, body = client.unmask(kept.state, step.body, identity) if identity else client.reveal(kept.state, step.body)
            after = Kept(state)
        after.save(home)
    except BaseException:
        kept.close(home)
        raise
    reply, line = _reply(step.name, terms, body)
    if step.name == "masked":
        arrays = {name: contract.size(name) * terms.bits // 8 for name in sorted(contract.shared)}
        line = {**line, "kind": "update", "arrays": arrays, "masked": True}
    return reply, line


def drop(home: Path) -> None:
    """Forget the secrets of a round that this device fell out of, and keep its number; where another message is being answered, later."""
    with contextlib.suppress(CodedError), _alone(home):
        kept = Kept.load(home)
        if kept and kept.state.phase != "done":
            kept.close(home)


def _family(terms: Terms) -> str:
    """What rounds are counted in: a simulation's run, or a federation, whose register may change from round to round."""
    return terms.run.partition(" ")[0]


def _alone(home: Path) -> AbstractContextManager[None]:
    """No two processes of a device take a step at once: each could answer from the same state."""
    return locked(home / "sum.lock", CodedError(Failure.PHASE, "another message of a secure sum is being answered"))


def _plan(contract: Contract) -> Plan:
    if contract.secure is None:
        raise WireError("the server asks for a secure sum, and this device is not configured for one")
    return contract.secure


def _reply(name: str, terms: Terms, body: bytes) -> tuple[RecordDict, dict[str, Any]]:
    return Step(name, terms.round, body).write(), {"kind": name, "bytes": len(body)}


def _noise(plan: Plan, round: int, me: int) -> Draw:
    """Where the noise comes from; all that masks hang on comes from the operating system, whatever the plan."""
    if plan.seed is None:
        return os.urandom
    return seeded(int.from_bytes(hashlib.sha256(f"{plan.seed}\0{round}\0share\0{me}".encode()).digest()[:8]))
