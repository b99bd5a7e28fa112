"""Who may be in a secure sum over the network: devices' verification keys, which the authority vouches for, and no server can make up.

In a sum each device signs what it sends with an Ed25519 key of its own, and takes from others only what the register's keys signed. The
register is signed with the authority's key, which serves nothing and can lie on another machine than the SuperLink's; a device checks it
with the certificate that it was given when it joined. So whoever has the SuperLink, and the operator's key too, can add no device. Whoever
has the authority's key can: it says that each key belongs to a device of its own, and nothing here can check that.

A device takes no register that is older than the last one that it saw, nor another of the same edition. The register names nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from fedstyle.errors import FedstyleError, WireError
from fedstyle.files import write_bytes
from fedstyle.flower.credentials import Authority, checks
from fedstyle.flower.wire import CodedError, Failure

REGISTER = "register"
"""The record that brings it to a device."""
FILE = "register.json"
MOST = 1 << 23
"""Bytes of a register, at most: room for 65,536 devices."""
_LABEL = b"fedstyle register 1\0"


@dataclass(frozen=True)
class Register:
    """The devices of a federation that may be in a secure sum: their verification keys, by number."""

    federation: str
    edition: int
    """Counts up with every change."""
    keys: tuple[bytes, ...]
    """Ed25519, 32 bytes each, all different."""
    signature: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Raise WireError for what is no register."""
        sound = 0 < len(self.federation) <= 64 and " " not in self.federation and self.edition > 0
        if not sound or {len(key) for key in self.keys} - {32} or len(set(self.keys)) != len(self.keys):
            raise WireError("a register has a federation's name, an edition from 1 on, and a key of its own for each device")

    @property
    def by_number(self) -> Mapping[int, bytes]:
        """The keys as a secure sum asks for them."""
        return dict(enumerate(self.keys))

    @property
    def sha256(self) -> str:
        """What members can compare among themselves: that of all but the signature."""
        return hashlib.sha256(self._facts()).hexdigest()

    def _facts(self) -> bytes:
        said = {"format": 1, "federation": self.federation, "edition": self.edition, "keys": [key.hex() for key in self.keys]}
        return json.dumps(said, sort_keys=True).encode()

    def encode(self) -> bytes:
        """The register and its signature as JSON."""
        return json.dumps({**json.loads(self._facts()), "signature": self.signature.hex()}, sort_keys=True).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Read what `encode` wrote, strictly, and not whether its signature holds; raises WireError."""
        try:
            said: dict[str, Any] = json.loads(content) if len(content) <= MOST else {}
            made = cls(said["federation"], said["edition"], tuple(map(bytes.fromhex, said["keys"])), bytes.fromhex(said["signature"]))
            same = type(made.edition) is int and type(made.federation) is str and made.encode() == content
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            same = False
        if not same:
            raise WireError("what should be a register of devices is none")
        return made

    def sign(self, authority: Authority) -> Self:
        """The same with the authority's signature; raises FederationError where its key is not there."""
        return replace(self, signature=authority.sign(_LABEL + self._facts()))

    def check(self, certificate: Path) -> None:
        """Raise WireError unless the authority of this certificate signed it, and FederationError for a file that holds no certificate."""
        if not checks(certificate, self.signature, _LABEL + self._facts()):
            raise WireError("the register of devices is not signed by the authority whose certificate this device has")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The register in a folder, or None where there is none; raises FedstyleError for one that is damaged."""
        path = folder / FILE
        try:
            return cls.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, WireError):
            raise FedstyleError(f"{path} is damaged: remove it, and the next one that comes is taken") from None

    def save(self, folder: Path) -> None:
        """Write it, as a whole or not at all."""
        write_bytes(folder / FILE, self.encode())


def read_register(content: bytes, certificate: Path, pin: str = "") -> Register:
    """The register that came with an order; raises CodedError for one that the authority did not sign, or that is not the pinned one."""
    try:
        register = Register.decode(content)
        register.check(certificate)
    except WireError as error:
        raise CodedError(Failure.IDENTITY, str(error)) from None
    if pin and register.sha256 != pin:
        raise CodedError(Failure.IDENTITY, f"the register of devices is {register.sha256[:12]}, and the policy names {pin[:12]}")
    return register


def keep_register(home: Path, register: Register) -> None:
    """Keep it, so that no older one is taken any more.

    Raises CodedError: REPLAY for an older edition than the one that is kept, IDENTITY for another of the same edition.
    """
    kept = Register.load(home)
    if kept and kept.federation == register.federation and kept.sha256 != register.sha256:
        if register.edition < kept.edition:
            raise CodedError(Failure.REPLAY, f"edition {register.edition} of the register of devices, after edition {kept.edition}")
        if register.edition == kept.edition:
            raise CodedError(Failure.IDENTITY, f"two registers of devices are both edition {kept.edition}: the authority vouched for both")
    if kept != register:
        register.save(home)
