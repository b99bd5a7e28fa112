"""What makes an order the operator's: a proof beside it, that a device can check and nobody can use twice.

A proof names the federation and a number used once, and is signed with the operator's key (Ed25519, RFC 8032) over all that the order says:
kind, federation, round, FedProx's factor, architecture, and the SHA-256 of the base as it crosses, widened from the wire type: an order is
read from its message before it is signed. Without a key the signature is empty; a device that pins no key then takes the SuperLink's word,
whose certificate it has checked.

In a secure sum each step's message has a proof of its own, also over the step's name, round and bytes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any, Literal, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

from fedstyle.errors import WireError
from fedstyle.flower.secure import Step
from fedstyle.flower.wire import Order

PROOF = "proof"
"""The name of the record that stands beside an order's own."""
Kind = Literal["train", "final"]
"""Train a round from this base, or keep it: it is the last."""
NONCE = 16
"""Bytes of the number used once."""


@dataclass(frozen=True)
class Proof:
    """Whose order it is: the federation's name, a number used once, and the operator's signature, empty where there is no key."""

    federation: str
    nonce: bytes
    signature: bytes = b""


def prove(kind: Kind, order: Order | None, federation: str, key: Ed25519PrivateKey | None, step: Step | None = None) -> ConfigRecord:
    """A fresh proof for an order, a step of a secure sum, or an order that begins one, as the record that goes beside it."""
    nonce = secrets.token_bytes(NONCE)
    signature = key.sign(_statement(kind, order, federation, nonce, step)) if key else b""
    return ConfigRecord({"federation": federation, "nonce": nonce, "signature": signature})


def take_proof(content: RecordDict) -> tuple[RecordDict, Proof]:
    """A message's content without its proof, and the proof; raises WireError where there is none or it has another form."""
    facts: dict[str, Any] = dict(content.config_records.get(PROOF, ConfigRecord()))
    kinds = {"federation": str, "nonce": bytes, "signature": bytes}
    if facts.keys() != kinds.keys() or not all(type(facts[name]) is kind for name, kind in kinds.items()):
        raise WireError("the order has no proof of the form that this version of fedstyle knows")
    proof = Proof(**facts)
    if len(proof.nonce) != NONCE or not 0 < len(proof.federation) <= 64 or len(proof.signature) not in (0, 64):
        raise WireError("the order's proof has parts of another length than this version of fedstyle knows")
    rest = RecordDict()
    for name, record in content.items():
        if name != PROOF:
            rest[name] = cast(Any, record)
    return rest, proof


def check_proof(kind: Kind, order: Order | None, proof: Proof, operator: Ed25519PublicKey, step: Step | None = None) -> None:
    """Raise WireError unless the operator signed this very order, and this very step."""
    try:
        operator.verify(proof.signature, _statement(kind, order, proof.federation, proof.nonce, step))
    except InvalidSignature:
        raise WireError("the order is not signed by the operator whose key this device knows") from None


def _statement(kind: Kind, order: Order | None, federation: str, nonce: bytes, step: Step | None) -> bytes:
    """What is signed: one form for one order or step."""
    said: dict[str, Any] = {"format": "fedstyle-order-1", "kind": kind, "federation": federation, "nonce": nonce.hex()}
    if order:
        base = order.base
        said |= {"round": order.round, "proximal": order.proximal.hex()}
        said |= {"architecture": base.arch, "padding": base.padding, "base_sha256": base.sha256}
    if step:
        said["step"] = [step.name, step.round, hashlib.sha256(step.body).hexdigest()]
    return json.dumps(said, sort_keys=True).encode()
