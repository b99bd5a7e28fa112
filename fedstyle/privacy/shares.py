"""Noise in shares: each client of a secure sum adds a part, so that even the server sees the sum only with all of the noise.

The distributed discrete Gaussian mechanism (Kairouz, Liu, Steinke 2021). Sums of independent discrete Gaussians of a standard deviation of
4 steps and more each are so close to one discrete Gaussian that their theorem's correction, 10 sum_k exp(-2 pi^2 s^2 k / (k + 1)) over the
summands, is below 1e-60 for a million of them. So the sum satisfies the Gaussian's bound, a Renyi divergence of order / (2 z^2), and is
charged to a `Ledger` as any other round, with the multiplier that `multiplier` gives.

How the accounting is honest:

- Rounding to the grid counts: noise is measured against clip / step + sqrt(d) / 2 steps (`grid.sensitivity`).
- Dropouts and colluders count: only `threshold - colluders` clients are relied on, the fewest honest ones that a finished sum can have.
  When all stay, there is more noise than accounted, by the root of clients / (threshold - colluders).
- Against the server there is no amplification by sampling, for it knows whom it asked: charge `Poisson(population, 1.0)` for each round
  in which a user took part. The sampler's own rate holds only against those who see bases and not cohorts.
- Sums wrap modulo 2^32 or 2^64; that is post-processing, and costs accuracy with a chance below 1e-80 a number, never privacy.
- A client that leaves its noise out is a colluder: count it in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedstyle.privacy.gaussian import noise_std
from fedstyle.privacy.grid import LEVELS, Grid, sensitivity
from fedstyle.privacy.secagg.terms import Terms, threshold_for
from fedstyle.tables import need

LEAST = 4.0
"""Steps of standard deviation that a share must have at least."""


def private_terms(
    run: str,
    round: int,
    clients: Iterable[int],
    length: int,
    *,
    clip: float,
    noise: float,
    colluders: int | None = None,
    levels: int = LEVELS,
    signed: bool = False,
) -> Terms:
    """Terms of a secure sum whose every outcome carries noise of this multiplier, whoever drops out.

    Clients must clip their update to the joint L2 norm `clip` before (`gaussian.shorten` on its vector); the grid's limit is `clip`, so
    that no number of a clipped update is cut. Raises ConfigError when the grid is too coarse for noise so small.
    """
    ids = tuple(sorted(clients))
    assumed = max(0, (len(ids) - 1) // 3) if colluders is None else colluders
    threshold, grid = threshold_for(len(ids), assumed), Grid(clip, levels)
    share = noise_std(noise, grid, clip, length) / math.sqrt(threshold - assumed)
    need(share >= LEAST, "a client's share of the noise, in steps,", share, "use more levels or more noise, for 4 steps at least")
    return Terms(run, round, ids, threshold, assumed, length, grid, share, signed)


def multiplier(terms: Terms, clip: float) -> float:
    """The noise multiplier that a sum of these terms has at least, as a ledger is charged it, if clients clip to `clip`."""
    need(terms.noise >= LEAST, "a client's share of the noise, in steps,", terms.noise, "the terms give no promise")
    return terms.noise * math.sqrt(terms.threshold - terms.colluders) / sensitivity(terms.grid, clip, terms.length)
