"""What makes an order the operator's: a proof beside it, that a device can check and nobody can use twice.

A proof names the federation and a number used once, and is signed with the operator's key (Ed25519, RFC 8032) over all that the order says:
kind, federation, round, FedProx's factor, architecture, and the base's SHA-256. Without a key the signature is empty; a device that pins no
key then takes the SuperLink's word, whose certificate it has checked.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any, Literal, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

from fedstyle.errors import WireError
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


def prove(kind: Kind, order: Order, federation: str, key: Ed25519PrivateKey | None) -> ConfigRecord:
    """A fresh proof for an order, as the record that goes beside it."""
    nonce = secrets.token_bytes(NONCE)
    signature = key.sign(_statement(kind, order, federation, nonce)) if key else b""
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


def check_proof(kind: Kind, order: Order, proof: Proof, operator: Ed25519PublicKey) -> None:
    """Raise WireError unless the operator signed this very order."""
    try:
        operator.verify(proof.signature, _statement(kind, order, proof.federation, proof.nonce))
    except InvalidSignature:
        raise WireError("the order is not signed by the operator whose key this device knows") from None


def _statement(kind: Kind, order: Order, federation: str, nonce: bytes) -> bytes:
    """What is signed: one form for one order."""
    base = order.base
    said = {
        "format": "fedstyle-order-1",
        "kind": kind,
        "federation": federation,
        "nonce": nonce.hex(),
        "round": order.round,
        "proximal": order.proximal.hex(),
        "architecture": base.arch,
        "padding": base.padding,
        "base_sha256": base.sha256,
    }
    return json.dumps(said, sort_keys=True).encode()
