"""The device's side of a run: a Flower ClientApp that trains the client it holds, and lets nothing out but a delta or a code.

Where sums are secure, the delta leaves under masks: see `secure`.

What goes wrong on a device is written to `errors.log` in the client's own home; the server gets a code of `wire.Failure`, never a text.
`ledger.jsonl` there gets a line for everything that leaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedstyle.base import Base
from fedstyle.errors import ConfigError, FederationError, FedstyleError, OutputError, ParamsError, PhotoError, StyleError, WireError
from fedstyle.files import append_json, unsynced
from fedstyle.flower.notes import note_error
from fedstyle.flower.secure import STEPS, Step
from fedstyle.flower.wire import HELLO, CodedError, Contract, Failure, Order, write_failure

PARTITION = "partition-id"
"""Where Flower keeps the number of a node's partition in its node_config."""
HELLO_BYTES = 8
"""The partition's number crosses as a 64-bit integer."""


class Delta(Protocol):
    """What a client gives after a round: `fedstyle.client.Update`."""

    @property
    def delta(self) -> Mapping[str, torch.Tensor]:
        """The change of the shared parameters, by name, in fp32."""


class Trainee(Protocol):
    """What trains on a device: `fedstyle.client.Client`."""

    def fit(self, base: Base, *, round: int, proximal: float) -> Delta:
        """Train for a round and give the update."""


class Clients(Protocol):
    """The clients of a run by partition, as their own side reaches them: `fedstyle.population.Clients`.

    It is called once a message, from several threads, and may keep what it made. The ray engine pickles it.
    """

    def home(self, partition: int) -> Path:
        """The client's folder, also for one that cannot be made."""

    def __call__(self, partition: int) -> Trainee:
        """The client; any exception it raises becomes a code."""


def client_app(find: Callable[[Context], tuple[Contract, Clients]], *, simulated: bool = False) -> ClientApp:
    """The Flower app of a device; `find` gives its contract, and the clients of the run that the context belongs to.

    A `simulated` device does not wait for the disk: see `files.unsynced`.
    """
    app = ClientApp()
    hurry = unsynced if simulated else contextlib.nullcontext

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        """Say which partition this node holds."""
        partition = context.node_config.get(PARTITION)
        if not isinstance(partition, int):
            return Message(write_failure(Failure.SETUP), reply_to=message)
        with contextlib.suppress(Exception), hurry():  # what is wrong here is found, and told by a code, in the first round
            append_json(find(context)[1].home(partition) / "ledger.jsonl", {"round": 0, "kind": "hello", "bytes": HELLO_BYTES})
        content = RecordDict({HELLO: ConfigRecord({"partition": partition})})
        return Message(content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """Train for a round."""
        with hurry():
            return Message(answer(find, message.content, context), reply_to=message)

    return app


@dataclass
class _Work:
    """Where the work on a message stands, for what is said when it fails."""

    home: Path | None = None
    number: int = 0
    stage: Failure = Failure.SETUP


def answer(find: Callable[[Context], tuple[Contract, Clients]], content: RecordDict, context: Context) -> RecordDict:
    """The content of the reply to a training message: a delta, a step of a secure sum, or a failure, whatever happens."""
    torch.set_num_threads(1)  # on every engine, so that the same seed gives the same bits; workers fill the cores
    work = _Work()
    try:
        contract, clients = find(context)
        partition = int(context.node_config[PARTITION])
        work.home = home = clients.home(partition)
        work.stage = Failure.BASE
        reply, line = (_step if contract.secure else _update)(contract, clients, partition, content, work)
        append_json(home / "ledger.jsonl", {"round": work.number, **line})
        return reply
    except (Exception, SystemExit) as error:  # noqa: BLE001  the text of any exception may hold a path or a name
        code = classify(error, work.stage)
        if work.home is not None:
            _note(work.home, work.number, code, error)
        return write_failure(code)


def _update(contract: Contract, clients: Clients, partition: int, content: RecordDict, work: _Work) -> tuple[RecordDict, dict[str, Any]]:
    """Train, and give the reply with the delta, and its line for the ledger."""
    order = contract.read_order(content)
    reply = contract.write_delta(_train(clients, partition, order, work).delta)
    arrays = contract.bytes_up()
    return reply, {"kind": "update", "arrays": arrays, "bytes": sum(arrays.values())}


def _step(contract: Contract, clients: Clients, partition: int, content: RecordDict, work: _Work) -> tuple[RecordDict, dict[str, Any]]:
    """Take a step of a secure sum, and give the reply and its line for the ledger."""
    from fedstyle.flower import masking  # it needs the cryptography package

    step, home = Step.read(content), clients.home(partition)
    work.number = step.round
    if step.name != STEPS[0]:
        work.stage = Failure.ALTERED
        return masking.go_on(contract, home, content)
    order, terms = masking.accept(contract, home, partition, content)
    update = _train(clients, partition, order, work, secure=True)
    return masking.begin(contract, home, partition, terms, update.delta)


def _train(clients: Clients, partition: int, order: Order, work: _Work, *, secure: bool = False) -> Delta:
    work.number, work.stage = order.round, Failure.UNKNOWN
    trainee = clients(partition)
    if getattr(getattr(trainee, "privacy", None), "secure", False) and not secure:
        raise ConfigError("privacy.secure = true, and this federation does not sum securely: no update leaves this device")
    update = trainee.fit(order.base, round=order.round, proximal=order.proximal)
    work.stage = Failure.UPDATE
    return update


def classify(error: BaseException, stage: Failure) -> Failure:
    """The code for an error; where its class says nothing, the stage of the work decides."""
    if isinstance(error, CodedError):
        return error.code
    kinds: Mapping[type[BaseException], Failure] = {
        ConfigError: Failure.SETUP,
        PhotoError: Failure.PHOTOS,
        StyleError: Failure.STYLE,
        WireError: stage,
        ParamsError: Failure.BASE,
        OutputError: Failure.DISK,
        FederationError: Failure.FEW,
        FedstyleError: Failure.TRAINING if stage is Failure.UNKNOWN else stage,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), stage)


def _note(home: Path, number: int, code: Failure, error: BaseException) -> None:
    """Keep the whole story at home; a disk that takes no more is no reason to say more to the server."""
    with contextlib.suppress(OutputError):
        append_json(home / "ledger.jsonl", {"round": number, "kind": "failure", "code": code.value, "bytes": len(code.value)})
    note_error(home, f"round {number}: {code}", error)
