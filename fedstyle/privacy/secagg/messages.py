"""The messages of a secure sum, one value a kind; `wire` has their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from fedstyle.errors import WireError
from fedstyle.privacy.secagg import keys, shamir
from fedstyle.privacy.secagg.masks import Words
from fedstyle.privacy.secagg.terms import Terms
from fedstyle.privacy.secagg.wire import SERVER, pack, pack_ids, pack_table, unpack, unpack_ids, unpack_table

PAIR = 2 * shamir.WIDTH
"""Bytes of the two shares that a client gives another: of its mask secret, and of its seed."""
SEALED = PAIR + keys.SEAL


@dataclass(frozen=True)
class Message:
    """What all messages share: each kind says its number, how many fields it has, and how to read and write them."""

    kind: ClassVar[int]
    count: ClassVar[int]

    def fields(self) -> list[bytes]:
        """The fields' bytes."""
        raise NotImplementedError

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:
        """The message of these fields; raises WireError."""
        raise NotImplementedError

    def encode(self, terms: Terms, sender: int = SERVER, identity: keys.Identity | None = None) -> bytes:
        """The message's bytes; a client gives its id, and its identity where the terms ask for signatures."""
        return pack(self.kind, terms.digest, sender, self.fields(), identity)

    @classmethod
    def decode(cls, content: bytes, terms: Terms, roster: Mapping[int, bytes] | None = None) -> tuple[int, Self]:
        """The sender and the message of these bytes; raises WireError."""
        sender, fields = unpack(content, cls.kind, terms.digest, cls.count, roster)
        return sender, cls.parse(fields, terms)


@dataclass(frozen=True)
class Advert(Message):
    """Phase 0, client to server and on to all: two fresh public keys."""

    kind: ClassVar[int] = 1
    count: ClassVar[int] = 2
    share_key: bytes
    mask_key: bytes

    def fields(self) -> list[bytes]:
        """Both keys."""
        return [self.share_key, self.mask_key]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:  # noqa: ARG003
        """Two keys of 32 bytes."""
        if {len(key) for key in fields} != {32} or fields[0] == fields[1]:
            raise WireError("an advert's keys are not two different ones of 32 bytes")
        return cls(*fields)


@dataclass(frozen=True)
class Bundle(Message):
    """Server to all: messages of clients, passed on as they came, with their signatures."""

    messages: tuple[bytes, ...]

    count: ClassVar[int] = 2

    def fields(self) -> list[bytes]:
        """The size of a message, for all have one, and the messages in a row."""
        return [len(self.messages[0]).to_bytes(4, "little"), b"".join(self.messages)]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:
        """Messages of one size, at most as many as clients."""
        size = int.from_bytes(fields[0], "little")
        if len(fields[0]) != 4 or not size or len(fields[1]) % size or len(fields[1]) // size > len(terms.clients):
            raise WireError("a bundle of messages is cut, or has more than there are clients")
        return cls(tuple(fields[1][at : at + size] for at in range(0, len(fields[1]), size)))


@dataclass(frozen=True)
class Adverts(Bundle):
    """Phase 1, server to all: the adverts."""

    kind: ClassVar[int] = 2


@dataclass(frozen=True)
class Shares(Message):
    """Phase 1, client to server: sealed shares by receiver, and a commitment to the seed of the client's own mask."""

    kind: ClassVar[int] = 3
    count: ClassVar[int] = 3
    sealed: Mapping[int, bytes]
    commitment: bytes

    def fields(self) -> list[bytes]:
        """The sealed shares, and the commitment."""
        return [*pack_table(self.sealed), self.commitment]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:  # noqa: ARG003
        """A sealed pair of shares for each receiver."""
        if len(fields[2]) != 32:
            raise WireError("a commitment has not 32 bytes")
        return cls(unpack_table(fields[0], fields[1], SEALED), fields[2])


@dataclass(frozen=True)
class Delivery(Message):
    """Phase 2, server to a client: the shares that others sealed for it, by sender."""

    kind: ClassVar[int] = 4
    count: ClassVar[int] = 2
    sealed: Mapping[int, bytes]

    def fields(self) -> list[bytes]:
        """The sealed shares."""
        return pack_table(self.sealed)

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:  # noqa: ARG003
        """A sealed pair of shares from each sender."""
        return cls(unpack_table(fields[0], fields[1], SEALED))


@dataclass(frozen=True)
class Masked(Message):
    """Phase 2, client to server: the masked update."""

    kind: ClassVar[int] = 5
    count: ClassVar[int] = 1
    values: Words = field(repr=False)

    def fields(self) -> list[bytes]:
        """The numbers' bytes."""
        return [self.values.tobytes()]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:
        """As many numbers as the update has, read-only."""
        if len(fields[0]) != terms.length * terms.bits // 8:
            raise WireError("a masked update is not as long as the terms say")
        return cls(np.frombuffer(fields[0], np.dtype(f"<u{terms.bits // 8}")))


@dataclass(frozen=True)
class Survivors(Message):
    """Phase 3, server to all who are left: whose masked updates it has."""

    kind: ClassVar[int] = 6
    count: ClassVar[int] = 1
    clients: tuple[int, ...]

    def fields(self) -> list[bytes]:
        """The ids."""
        return [pack_ids(self.clients)]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:  # noqa: ARG003
        """Distinct ids in order."""
        return cls(unpack_ids(fields[0]))


@dataclass(frozen=True)
class Agreement(Message):
    """Phase 3, client to server and on to all: the list of survivors that this client saw, as a hash."""

    kind: ClassVar[int] = 7
    count: ClassVar[int] = 1
    survivors: bytes

    def fields(self) -> list[bytes]:
        """The hash."""
        return [self.survivors]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:  # noqa: ARG003
        """A SHA-256."""
        if len(fields[0]) != 32:
            raise WireError("an agreement has no hash of 32 bytes")
        return cls(fields[0])

    @classmethod
    def to(cls, survivors: tuple[int, ...]) -> Self:
        """The agreement to a list of survivors."""
        return cls(hashlib.sha256(b"fedstyle secagg survivors 1" + pack_ids(survivors)).digest())


@dataclass(frozen=True)
class Agreements(Bundle):
    """Phase 4, server to all who agreed: their agreements."""

    kind: ClassVar[int] = 8


@dataclass(frozen=True)
class Unmasking(Message):
    """Phase 4, client to server: of each client one share, of the seed if it stayed, of the mask secret if it dropped out."""

    kind: ClassVar[int] = 9
    count: ClassVar[int] = 4
    seeds: Mapping[int, bytes] = field(repr=False)
    secrets: Mapping[int, bytes] = field(repr=False)

    def fields(self) -> list[bytes]:
        """Shares by client, those of seeds first."""
        return [*pack_table(self.seeds), *pack_table(self.secrets)]

    @classmethod
    def parse(cls, fields: list[bytes], terms: Terms) -> Self:  # noqa: ARG003
        """Two tables of shares; a client in both is refused."""
        seeds = unpack_table(fields[0], fields[1], shamir.WIDTH)
        secrets = unpack_table(fields[2], fields[3], shamir.WIDTH)
        if seeds.keys() & secrets.keys():
            raise WireError("a message has shares of both secrets of a client: that would unmask its update")
        return cls(seeds, secrets)
