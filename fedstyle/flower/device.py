"""A device of a federation over the network: a home folder with an ordinary TOML, `device.toml`, and what answers a SuperLink's messages.

    [device]      name, photos, heldout, style, wire
    [federation]  address, authority, key, operator
    [policy]      see `policy.Policy`
    [net] [loss] [training] [method] [privacy] [export]   as in a run's TOML: the device's own choice, which no server can name

Paths are relative to the home. Only this side opens photos. What may go wrong is answered with a code; the story stays at home.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedstyle import tables
from fedstyle.base import Base
from fedstyle.client import Client
from fedstyle.companions import outfit
from fedstyle.config import Config, Wire
from fedstyle.errors import ConfigError, FederationError, FedstyleError
from fedstyle.files import append_json
from fedstyle.flower.client import PARTITION, answer, classify
from fedstyle.flower.credentials import read_operator, signing_secret
from fedstyle.flower.notes import note_error
from fedstyle.flower.policy import Policy, RefusedError, admit, count_reply, note_refusal
from fedstyle.flower.secure import Plan, check_network, device_noise
from fedstyle.flower.steps import admit_step
from fedstyle.flower.wire import Contract, Failure, write_failure
from fedstyle.methods import make_method
from fedstyle.photos import Photos
from fedstyle.style import Style
from fedstyle.tables import need

HOME = "FEDSTYLE_DEVICE"
"""The environment's name for the home that a SuperNode answers for."""
KEPT = "kept"
"""The record of the answer to a final order; it holds the round's number."""
KINDS = {"train": "train", "evaluate": "final"}
"""Flower's types of messages, and what they ask here."""


@dataclass(frozen=True)
class Own:
    """What belongs to the person: the `[device]` table."""

    photos: str = "photos"
    style: str = "style.png"
    heldout: str = ""
    """A folder of photos to judge the filter with, which training does not see; empty judges with those it trained on."""
    name: str = ""
    """The filter's name; empty takes the style image's."""
    wire: Wire = "fp16"
    """The type of the numbers that cross; the federation has one for all."""


@dataclass(frozen=True)
class Place:
    """Where the federation is, and what it is known by: the `[federation]` table."""

    address: str
    """The SuperLink's host and port."""
    authority: str = "authority.crt"
    key: str = "key"
    operator: str = ""
    """The operator's public key, which then has to sign every order; empty pins none."""

    def __post_init__(self) -> None:
        """Check the address."""
        host, colon, port = self.address.rpartition(":")
        need(bool(host and colon) and port.isdigit(), "federation.address", self.address, "give host:port")


@dataclass(frozen=True)
class Device:
    """A device's home and what its TOML says."""

    home: Path
    own: Own
    federation: Place
    policy: Policy = field(default_factory=Policy)
    config: Config = field(default_factory=Config)

    @classmethod
    def load(cls, home: str | Path) -> Self:
        """Read `home`/device.toml; raises ConfigError, naming the file, for what cannot be used."""
        home = Path(home).absolute()
        path = home / "device.toml"
        found = tables.load(path)
        try:
            own = tables.read(Own, _table(found, "device"), "device")
            federation = _table(found, "federation")
            need("address" in federation, "federation.address", "", "give the SuperLink's host:port")
            policy = tables.read(Policy, _table(found, "policy"), "policy")
            for name in ("data", "server"):
                if name in found:
                    raise ConfigError(f"unknown table [{name}]: it belongs to a run's TOML, and this is a device's")
            config = Config._from_tables(found, home)
            check_network(config.privacy)
            return cls(home, own, tables.read(Place, federation, "federation"), policy, config)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @property
    def name(self) -> str:
        """The filter's name."""
        return self.own.name or Path(self.own.style).stem

    def path(self, name: str) -> Path:
        """A path of the TOML, from the home."""
        return self.home / Path(name).expanduser()

    def client(self) -> Client:
        """What trains here; raises PhotoError or StyleError for photos or a style image that cannot be used."""
        config = self.config
        style = Style(self.path(self.own.style), strength=config.loss.strength, density=config.loss.density)
        method = make_method(config.method)
        choice = {"method": method, "privacy": config.privacy, "loss": config.loss, "training": config.training}
        return Client(self.home, self.path(self.own.photos), style, **choice)  # type: ignore[arg-type]

    def judged(self) -> Photos:
        """The photos that judge the filter."""
        return Photos.open(self.path(self.own.heldout or self.own.photos))

    def contract(self) -> Contract:
        """What this device lets cross, from its own network, method and privacy."""
        wishes = self.config.privacy
        plan = Plan(wishes.clip, device_noise(wishes, self.policy.last_round)) if wishes.secure else None
        return replace(Contract.of(self._like(), make_method(self.config.method).shares, self.own.wire), secure=plan)

    def _like(self) -> Base:
        """A base of the shapes that this device takes; its values do not matter."""
        net, method = self.config.net, make_method(self.config.method)
        if net.base:
            return outfit(Base.shipped(net.arch) if net.base == "shipped" else Base.load(net.base), method)
        if getattr(method, "variants", 0):
            raise ConfigError(
                f"method.name = {self.config.method['name']!r} trains a predictor of norms: name a base that has one in net.base"
            )
        return outfit(Base.new(net.arch, net.padding, width=net.width or None), method)


@dataclass(frozen=True)
class _Alone:
    """The one client of a device, as `flower.client` asks for clients."""

    device: Device

    def home(self, partition: int) -> Path:  # noqa: ARG002  there is one
        return self.device.home

    def __call__(self, partition: int) -> Client:  # noqa: ARG002
        return self.device.client()


def device_app() -> ClientApp:
    """The Flower app of the device that the environment names; see `respond`."""
    app = ClientApp()
    app.train()(respond)
    app.evaluate()(respond)
    app.query()(respond)
    return app


def respond(message: Message, context: Context) -> Message:
    """The reply to any message: an update, that the last base is kept, or a code, whatever happens."""
    kind = KINDS.get(message.metadata.message_type, message.metadata.message_type)
    home = os.environ.get(HOME, "")
    if not home:
        return Message(write_failure(Failure.SETUP), reply_to=message)
    return Message(reply(Path(home), kind, message.content if message.has_content() else RecordDict(), context), reply_to=message)


def reply(home: Path, kind: str, content: RecordDict, context: Context) -> RecordDict:
    """The content of the reply to an order of this kind."""
    torch.set_num_threads(1)
    try:
        device = Device.load(home)
        contract = device.contract()
        operator = read_operator(device.path(device.federation.operator)) if device.federation.operator else None
        if contract.secure and kind == "train":
            plan, rest = admit_step(content, home, device.policy, contract, operator, device.path(device.federation.authority))
            plan = replace(plan, secret=signing_secret(device.path(device.federation.key)))
            contract, context.node_config[PARTITION] = replace(contract, secure=plan), plan.number()
        else:
            order, rest = admit(kind, content, home, device.policy, contract, operator)
            if kind == "final":
                return _keep(home, order.base, order.round - 1)
            context.node_config[PARTITION] = 0  # there is one client here
        up = answer(lambda _: (contract, _Alone(device)), rest, context)
        count_reply(home, up)
        return up
    except RefusedError as refused:
        note_refusal(home, kind, refused)
        return write_failure(refused.code)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the text of any exception may hold a path or a name
        note_error(home, f"an order of the kind {kind[:40]!r}", error)
        if isinstance(error, FederationError):
            return write_failure(Failure.SETUP)  # a key that is not there
        return write_failure(classify(error, Failure.SETUP) if isinstance(error, FedstyleError) else Failure.UNKNOWN)


def _keep(home: Path, base: Base, round: int) -> RecordDict:
    """Put the federation's last base into the home, from which the device makes its filter in its own time."""
    base.save(home / "base")
    if (home / "sum.state").exists():
        from fedstyle.flower.masking import drop

        drop(home)  # of a round that this device fell out of
    append_json(home / "ledger.jsonl", {"round": round, "kind": KEPT, "bytes": 8})
    return RecordDict({KEPT: ConfigRecord({"round": round})})


def _table(found: Mapping[str, object], name: str) -> dict[str, object]:
    """Take a table out of a parsed TOML; an absent one is empty."""
    assert isinstance(found, dict)
    table = found.pop(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} = {table!r}: it is a table; write [{name}] and its keys below it")
    return table


def last_base(home: Path) -> Base | None:
    """The last base that the federation sent, or None while it has not; raises FederationError when it is damaged."""
    if not (home / "base" / "base.json").exists():
        return None
    try:
        return Base.load(home / "base")
    except FedstyleError as error:
        raise FederationError(f"{error}; the operator can send it again") from None
