"""The server's half of a federation over the network: base, strategy, rounds, checkpoints, history. It knows no path of a device.

A federation's folder holds what this half needs, and what it leaves:

    config.toml       the run, of which [data], [loss] and [training] are the devices' matter and not looked at here
    federation.json   the federation's name, what devices share, and its devices: number, name, Flower's id of the node
    operator          the operator's key, which signs every order; without it orders are not signed
    register.json     where sums are secure, the devices' keys, signed by the authority: see `vouching`
    base/             the base after the last round;  state.safetensors: the checkpoint from which a run goes on
    history.jsonl     a line a round;  deliveries.json: which devices keep the last base;  failure.json: why the last run failed

Nothing here can open a photo: no module that it imports reaches photos, style images, clients or training.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedstyle.base import Base
from fedstyle.config import Config, Wire
from fedstyle.errors import FederationError, FedstyleError
from fedstyle.files import append_json, read_lines, write_bytes, write_json
from fedstyle.flower.credentials import read_operator_key
from fedstyle.flower.orders import PROOF, Kind, prove
from fedstyle.flower.private import Promise
from fedstyle.flower.secure import SUM, Plan, Step
from fedstyle.flower.server import Round, cohort_size, serve
from fedstyle.flower.state import ServerState
from fedstyle.flower.vouching import REGISTER, Register
from fedstyle.flower.wire import HELLO, Contract, Failure, Order, read_failure
from fedstyle.privacy.settings import COHORT
from fedstyle.tables import need

FEDERATION = "FEDSTYLE_FEDERATION"
"""The environment's name for the folder of the federation that a SuperLink serves."""
FORMAT = "fedstyle-federation-1"
PAUSE = 0.5
"""Seconds between two looks for replies, each of which is a request to the SuperLink."""


@dataclass(frozen=True)
class Member:
    """A device as the operator knows it: its number, from which cohorts are drawn, a name, and Flower's id of its node."""

    number: int
    name: str
    node: int
    key: str = ""
    """Where sums are secure, the key that checks what it signs, in hexadecimal."""


@dataclass(frozen=True)
class Roll:
    """What `federation.json` holds; `shared` are the names that go up, and `wire` the type in which all crosses."""

    name: str
    shared: tuple[str, ...]
    wire: Wire = "fp16"
    members: tuple[Member, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a federation's folder; raises FederationError where there is none."""
        try:
            facts = json.loads((folder / "federation.json").read_text())
            members = tuple(Member(one["number"], one["name"], one["node"], one.get("key", "")) for one in facts["members"])
            if facts["format"] != FORMAT or facts["wire"] not in get_args(Wire):
                raise ValueError("another format")
            return cls(facts["name"], tuple(facts["shared"]), facts["wire"], members)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FederationError(f"{folder}/federation.json cannot be read ({error}): found a federation in that folder first") from None

    def save(self, folder: Path) -> None:
        """Write it, as a whole or not at all."""
        write_json(folder / "federation.json", {"format": FORMAT, **asdict(self)})


@dataclass
class Hosted(Grid):
    """Flower's grid with the roll's devices alone, in which every order carries its proof.

    A node's number is that of the roll, not what it says of itself, so a hello is answered here and crosses nothing.
    """

    grid: Grid
    roll: Roll
    contract: Contract
    key: Ed25519PrivateKey | None
    hellos: dict[str, Message] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        """All devices of the roll, those that are away as well: they answer late, or a code says that they are lost."""
        return [member.node for member in self.roll.members]

    def online(self) -> int:
        """How many of them are there now."""
        return len(set(self.get_node_ids()) & set(self.grid.get_node_ids()))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; the orders among them get their proof."""
        numbers, below, names = {member.node: member.number for member in self.roll.members}, [], []
        for message in messages:
            if message.metadata.message_type != MessageType.QUERY:
                below.append(message)
                continue
            name = f"hello-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = name  # as Flower's own grids do
            content = RecordDict({HELLO: ConfigRecord({"partition": numbers[message.metadata.dst_node_id]})})
            self.hellos[name] = Message(content, reply_to=message)
            names.append(name)
        if below:
            contents = {id(message.content): message.content for message in below}  # one may be many messages'
            ready = {key: self._prove(content) for key, content in contents.items()}
            for message in below:
                message.content = ready[id(message.content)]
            names += self.grid.push_messages(below)
        return names

    def _prove(self, content: RecordDict) -> RecordDict:
        """The content with its proof, and where it begins a secure sum, with the register."""
        step = Step.read(content) if SUM in content else None
        order = RecordDict({name: record for name, record in content.items() if name != SUM})
        read = self.contract.read_order(order) if order else None
        whole = RecordDict({**content, PROOF: prove("train", read, self.roll.name, self.key, step)})
        if step and read:
            assert self.contract.secure is not None and self.contract.secure.register is not None  # noqa: PT018  as the run was set up
            whole[REGISTER] = ConfigRecord({"content": self.contract.secure.register.encode()})
        return whole

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there."""
        asked = list(message_ids)
        replies = [self.hellos.pop(name) for name in asked if name in self.hellos]
        below = [name for name in asked if not name.startswith("hello-")]
        return [*replies, *(self.grid.pull_messages(below) if below else ())]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not used: `Cohort` pushes and pulls."""
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Not used: messages are made by their class."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """As the grid below."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the grid below."""
        return self.grid.run


def host(grid: Grid, _: Mapping[str, Any]) -> None:
    """What the ServerApp does: the rounds that are missing, then the last base to every device.

    It goes on from the last checkpoint, so that a run which ended in any way is simply started again. Raises FederationError for a round
    that cannot go on; what it says then stands in `failure.json`, too, for Flower shows its operators no more than that a run failed.
    """
    folder = Path(os.environ.get(FEDERATION, ""))
    if not folder.is_absolute():
        raise FederationError(f"{FEDERATION} = '{folder}': give the SuperLink the absolute path of the federation's folder")
    (folder / "failure.json").unlink(missing_ok=True)
    try:
        _host(grid, folder)
    except Exception as error:
        said = str(error) if isinstance(error, FedstyleError) else f"{type(error).__name__}: {error}"
        write_json(folder / "failure.json", {"error": said})
        raise


def _host(grid: Grid, folder: Path) -> None:
    roll, config = Roll.load(folder), Config.load(folder / "config.toml")
    first = Base.load(folder / "base")
    contract = replace(Contract.of(first, set(roll.shared).__contains__, roll.wire), secure=_plan(config, roll, folder))
    key = read_operator_key(folder / "operator") if (folder / "operator").exists() else None
    hosted = Hosted(grid, roll, contract, key)
    state = load_state(folder)
    names, last = {member.number: member.name for member in roll.members}, [state.round]
    _forget_lines(folder / "history.jsonl", state.round)

    def on_round(now: Round) -> None:
        append_json(folder / "history.jsonl", line(now, names))
        now.base.save(folder / "base")
        now.state.save(folder / "state.safetensors", {})  # last: from here on the round is done

    def on_charge(charged: ServerState) -> None:
        charged.save(folder / "state.safetensors", {})  # before the round is released: a crash does not take the charge back
        last.append(charged.round)

    _wait(hosted, config)
    calls: dict[str, Any] = {"on_round": on_round, "on_charge": on_charge, "after": state, "pause": PAUSE}
    base = serve(hosted, config, state.base, contract, len(roll.members), **calls)
    answers = deliver(hosted, base, max(int(base.record.get("round", 0)), *last), config.server.timeout)
    write_json(folder / "deliveries.json", {names[number]: answer for number, answer in sorted(answers.items())})


def load_state(folder: Path) -> ServerState:
    """The checkpoint of a federation's folder, or before the first round its base; raises FederationError for a damaged one."""
    path = folder / "state.safetensors"
    return ServerState.load(path)[0] if path.exists() else ServerState(0, Base.load(folder / "base"))


def _plan(config: Config, roll: Roll, folder: Path) -> Plan | None:
    """How this run sums securely, if it does; raises FederationError unless the authority vouched for just these devices."""
    count, register = len(roll.members), Register.load(folder)
    size = cohort_size(config.server, count)
    if config.privacy.mode == "private":
        need(size >= COHORT, "server.cohort", size, f"the private mode sums over {COHORT} devices a round or more: enrol more")
    plan = Plan.of(config, size, Promise.of(config, count))
    if plan is None:
        return None
    if register is None or (register.federation, [key.hex() for key in register.keys]) != (roll.name, [one.key for one in roll.members]):
        raise FederationError(f"{folder}/register.json is not that of the devices which are enrolled: vouch for them first")
    return replace(plan, register=register)


def _wait(hosted: Hosted, config: Config) -> None:
    """Wait for every device, and when the time of a round is over for those that the rounds need."""
    late, members = time.monotonic() + config.server.timeout, len(hosted.roll.members)
    while (there := hosted.online()) < members and time.monotonic() < late:
        time.sleep(PAUSE)
    if not there or there < config.server.min_replies * members:
        raise FederationError(
            f"only {there} of {members} devices are there after {config.server.timeout:.0f} s: start them, or lower server.min_replies"
        )


def deliver(hosted: Hosted, base: Base, round: int, seconds: float) -> dict[int, str]:
    """Send the last base to every device; gives by number `kept`, or the code of why it is not."""
    order = Order(base, round + 1, 0.0)
    kind: Kind = "final"
    content = hosted.contract.whole.write_order(order)
    content[PROOF] = prove(kind, order, hosted.roll.name, hosted.key)
    messages = {member.number: Message(content, member.node, MessageType.EVALUATE) for member in hosted.roll.members}
    taken = set(hosted.grid.push_messages(list(messages.values())))
    waiting = {message.metadata.message_id: number for number, message in messages.items() if message.metadata.message_id in taken}
    answers = {number: Failure.LATE.value if number in waiting.values() else Failure.LOST.value for number in messages}
    late = time.monotonic() + seconds
    while waiting and time.monotonic() < late:
        for reply in hosted.grid.pull_messages(list(waiting)):
            number = waiting.pop(reply.metadata.reply_to_message_id, None)
            if number is not None:
                answers[number] = _answer(reply)
        if waiting:
            time.sleep(PAUSE)
    return answers


def _answer(reply: Message) -> str:
    if reply.has_error():
        return Failure.LOST.value
    return "kept" if "kept" in reply.content else (read_failure(reply.content) or Failure.INVALID).value


def line(now: Round, names: Mapping[int, str]) -> dict[str, Any]:
    """A round as a line of history, by the devices' names; no loss leaves a device."""
    return {
        "round": now.number,
        "sampled": len(now.cohort),
        "replied": len(now.replied),
        "cohort": [names[number] for number in now.cohort],
        "failures": {names[number]: code for number, code in now.failures.items()},
        "bytes_up": now.bytes_up,
        "bytes_down": now.bytes_down,
        "seconds": round(now.seconds, 3),
        "base_sha256": now.base.sha256,
        "loss": None,
    }


def _forget_lines(path: Path, last: int) -> None:
    """Drop the line of a round that a crash kept from its checkpoint: it will be done again."""
    lines = read_lines(path)
    kept = [one for one in lines if one["round"] <= last]
    if len(kept) < len(lines):
        write_bytes(path, "".join(json.dumps(one) + "\n" for one in kept).encode())
    with contextlib.suppress(FileNotFoundError):
        (path.parent / "deliveries.json").unlink()
