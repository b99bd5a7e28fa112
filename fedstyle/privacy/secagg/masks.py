"""Masks: the key stream of AES-256 in counter mode, added to arrays of 32 or 64-bit numbers without a copy of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstyle.privacy.secagg import keys

Words = NDArray[Any]
"""Unsigned whole numbers of 32 or 64 bits, little endian; sums of them wrap, as is meant."""

CHUNK = 1 << 17
"""Bytes of key stream made at once: they stay in a core's cache."""
_ZEROS = bytes(CHUNK)


def zeros(length: int, bits: int) -> Words:
    """An array of zeros of this width."""
    return np.zeros(length, np.dtype(f"<u{bits // 8}"))


def add_mask(total: Words, key: bytes, *, negative: bool = False) -> None:
    """Add the mask of a key of 32 bytes to an array in place, or subtract it.

    The counter starts at 0, so a key must serve one mask only; `derive` makes it from the terms of one sum.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    buffer = np.empty(CHUNK, np.uint8)
    words, per = buffer.view(total.dtype), CHUNK // total.dtype.itemsize
    change = np.subtract if negative else np.add
    for start in range(0, len(total), per):
        part = total[start : start + per]
        stream.update_into(_ZEROS, buffer.data)
        change(part, words[: len(part)], out=part)


def self_mask(seed: bytes, digest: bytes, client: int) -> bytes:
    """The key of a client's own mask, from its seed."""
    return keys.derive(seed, digest, b"self mask", _id(client))


def commitment(seed: bytes, digest: bytes, client: int) -> bytes:
    """What binds a client to its seed and tells nothing about it, for the seed is 32 random bytes."""
    return keys.derive(seed, digest, b"commitment", _id(client))


def pair_mask(secret: bytes, public: bytes, digest: bytes, client: int, other: int) -> bytes:
    """The key of the mask that two clients share, from one's secret and the other's public key; the lower id adds it."""
    low, high = sorted((client, other))
    return keys.derive(keys.agree(secret, public), digest, b"pair mask", _id(low), _id(high))


def share_key(secret: bytes, public: bytes, digest: bytes, sender: int, receiver: int) -> bytes:
    """The key that seals the shares from one client to another, from either's secret and the other's public key."""
    return keys.derive(keys.agree(secret, public), digest, b"shares", _id(sender), _id(receiver))


def _id(client: int) -> bytes:
    return client.to_bytes(8, "little")
