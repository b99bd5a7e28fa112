"""Keys, sealing and signatures, all from the `cryptography` package: X25519, HKDF-SHA256, ChaCha20-Poly1305, Ed25519."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedstyle.errors import FedstyleError, WireError
from fedstyle.privacy.gaussian import Draw

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise FedstyleError("secure aggregation needs the cryptography package: pip install 'fedstyle[secure]'") from error

NONCE = 12
SEAL = NONCE + 16
"""Bytes that sealing adds."""


def public_key(secret: bytes) -> bytes:
    """The X25519 public key of a secret of 32 bytes."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes) -> bytes:
    """The 32 bytes that two key pairs share; raises WireError for a public key of low order, which no honest client sends."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise WireError("a client's public key is none: its message was altered, or it does not keep the protocol") from None


def derive(material: bytes, salt: bytes, *info: bytes) -> bytes:
    """A key of 32 bytes by HKDF-SHA256 (RFC 5869); each part of `info` stands with its length, so that no two lists are alike."""
    label = b"".join(len(part).to_bytes(2, "little") + part for part in (b"fedstyle secagg 1", *info))
    return HKDF(hashes.SHA256(), 32, salt, label).derive(material)


def seal(key: bytes, plain: bytes, bound: bytes, draw: Draw) -> bytes:
    """Encrypt and authenticate; `bound` is not sent, and opening needs the same."""
    nonce = draw(NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Decrypt; raises WireError for anything that `seal` did not make with this key and `bound`."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:NONCE], sealed[NONCE:], bound)
    except (InvalidTag, ValueError):
        raise WireError("a sealed share does not open: it was altered on its way, or is from another round or client") from None


@dataclass(frozen=True)
class Identity:
    """A device's signing key, and the verification keys of its federation, which must come from another source than the server."""

    secret: bytes = field(repr=False)
    """The Ed25519 secret, 32 bytes, kept by the device across rounds."""
    roster: Mapping[int, bytes]
    """Verification keys of 32 bytes by client id."""

    @property
    def public(self) -> bytes:
        """The verification key."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(message)


def verify(roster: Mapping[int, bytes], client: int, signature: bytes, message: bytes) -> None:
    """Raise WireError unless the client, by its key in the roster, signed the message."""
    if client not in roster:
        raise WireError("a message is from a client that is not on the roster: add its key, or leave it out of the cohort")
    try:
        Ed25519PublicKey.from_public_bytes(roster[client]).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise WireError("a signature is wrong: the message was altered, or another party wrote it") from None
