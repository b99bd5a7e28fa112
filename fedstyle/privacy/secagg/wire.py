"""The bytes of a message, whatever its kind.

A message is: "fsa1", its kind (1 byte), the digest of the terms (32), its sender (8), the number of its fields (4), each field with its
length before it (4 and n), the SHA-256 of all that (32), and the sender's Ed25519 signature over the hash if the terms ask for it (64).
Whole numbers are little endian. Nothing else is accepted, so that one message has one form.

The hash finds accidents; only a signature, or TLS under it, finds attackers. The server signs nothing: whatever clients must believe
of what it sends is signed by other clients, or sealed by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

from fedstyle.errors import WireError
from fedstyle.privacy.secagg import keys

MAGIC = b"fsa1"
HEAD = len(MAGIC) + 1 + 32 + 8 + 4
HASH = 32
SIGNATURE = 64
SERVER = (1 << 64) - 1
"""The sender of what the server sends."""


def pack(kind: int, digest: bytes, sender: int, fields: Sequence[bytes], identity: keys.Identity | None = None) -> bytes:
    """A message's bytes, signed if an identity is given."""
    body = b"".join(
        [
            MAGIC,
            bytes([kind]),
            digest,
            sender.to_bytes(8, "little"),
            len(fields).to_bytes(4, "little"),
            *(part for one in fields for part in (len(one).to_bytes(4, "little"), one)),
        ]
    )
    check = hashlib.sha256(body).digest()
    return b"".join([body, check, identity.sign(_signed(check)) if identity else b""])


def unpack(content: bytes, kind: int, digest: bytes, count: int, roster: Mapping[int, bytes] | None = None) -> tuple[int, list[bytes]]:
    """The sender and the fields of a message, after all its checks; with a roster, its signature too.

    Raises WireError, without naming any client, for a message that is cut, altered, of another kind, of other terms, or wrongly signed.
    """
    tail = HASH + (SIGNATURE if roster is not None else 0)
    if not isinstance(content, bytes) or len(content) < HEAD + tail or not content.startswith(MAGIC):
        raise WireError("this is no message of a secure sum, or a cut one")
    end = len(content) - tail
    check = content[end : end + HASH]
    if hashlib.sha256(memoryview(content)[:end]).digest() != check:
        raise WireError("a message was altered on its way, or has a signature too many or too few: its hash is not that of its content")
    if content[4] != kind:
        raise WireError(f"a message of kind {content[4]} came where one of kind {kind} is due: the phases are out of step")
    if content[5:37] != digest:
        raise WireError("a message is from another run, round or cohort: it was replayed, or came late")
    sender = int.from_bytes(content[37:45], "little")
    if roster is not None:
        keys.verify(roster, sender, content[end + HASH :], _signed(check))
    fields, at = [], HEAD
    if int.from_bytes(content[45:49], "little") == count:
        for _ in range(count):
            size = int.from_bytes(content[at : at + 4], "little")
            fields.append(content[at + 4 : at + 4 + size])
            at += 4 + size
    if len(fields) != count or at != end:
        raise WireError("a message's fields are not those of its kind: another version of fedstyle may have sent it")
    return sender, fields


def _signed(check: bytes) -> bytes:
    return b"fedstyle secagg signature 1" + check


def pack_ids(ids: Sequence[int]) -> bytes:
    """Ids of 8 bytes each."""
    return b"".join(one.to_bytes(8, "little") for one in ids)


def unpack_ids(content: bytes) -> tuple[int, ...]:
    """Ids, which must be distinct and in order; raises WireError."""
    ids = tuple(int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content), 8))
    if len(content) % 8 or any(a >= b for a, b in pairwise(ids)):
        raise WireError("a message names clients twice or out of order")
    return ids


def pack_table(table: Mapping[int, bytes]) -> list[bytes]:
    """Two fields, ids and values of one size, from values by id."""
    return [pack_ids(sorted(table)), b"".join(table[one] for one in sorted(table))]


def unpack_table(ids: bytes, values: bytes, size: int) -> dict[int, bytes]:
    """Values of `size` bytes by id; raises WireError."""
    names = unpack_ids(ids)
    if len(values) != size * len(names):
        raise WireError("a message's values are not as many as the clients that it names")
    return {name: values[place * size : (place + 1) * size] for place, name in enumerate(names)}
