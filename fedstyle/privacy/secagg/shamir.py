"""Shamir's sharing of a secret of 32 bytes (Shamir 1979): any `threshold` shares give it back, fewer tell nothing about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedstyle.errors import FederationError, WireError
from fedstyle.privacy.gaussian import Draw

PRIME = (1 << 256) + 297
"""The least prime above 2^256, so that every string of 32 bytes is an element of the field."""
WIDTH = 33
"""Bytes of a share."""


def evaluate(coefficients: Sequence[int], x: int, prime: int = PRIME) -> int:
    """The value at x of the polynomial whose constant term comes first, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % prime
    return value


def weights(points: Sequence[int], prime: int = PRIME) -> list[int]:
    """Lagrange's weights: the value at 0 of a polynomial is the sum of weight x value over as many distinct points as it has terms."""
    made = []
    for i, x in enumerate(points):
        over = under = 1
        for j, other in enumerate(points):
            if i != j:
                over = over * other % prime
                under = under * (other - x) % prime
        made.append(over * pow(under, -1, prime) % prime)
    return made


def element(draw: Draw) -> int:
    """A field element, each with the same chance."""
    while True:
        value = int.from_bytes(draw(WIDTH), "little") & ((1 << 257) - 1)
        if value < PRIME:
            return value


def split(secret: bytes, points: Sequence[int], threshold: int, draw: Draw) -> list[bytes]:
    """Shares of a secret of 32 bytes, one a point; points are distinct and over 0, and at least `threshold` of them."""
    if len(secret) != 32 or not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise FederationError("a secret of 32 bytes is shared among distinct points over 0, at least as many as the threshold")
    coefficients = [int.from_bytes(secret, "little"), *(element(draw) for _ in range(threshold - 1))]
    return [evaluate(coefficients, x).to_bytes(WIDTH, "little") for x in points]


def join(shares: Mapping[int, bytes], factors: Mapping[int, int]) -> bytes:
    """The secret behind shares by their points, with Lagrange's weights by their points.

    Raises WireError when a share is no field element, or what they give is no secret: then a share was wrong. Wrong shares may also give
    another secret, so hold the outcome against something known.
    """
    value = 0
    for point, share in shares.items():
        number = int.from_bytes(share, "little")
        if len(share) != WIDTH or number >= PRIME:
            raise WireError("a share is no element of the field: it was altered")
        value = (value + number * factors[point]) % PRIME
    if value >= 1 << 256:
        raise WireError("the shares give no secret: at least one was altered")
    return value.to_bytes(32, "little")
