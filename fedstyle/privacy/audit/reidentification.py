"""Whose style is it? The attacker computes candidate updates from public pictures, one for each style, and matches by cosine.

It knows the base, the method, its settings and the styles, and holds no picture of the user. What all candidates have in common is
taken out of them, so that it is the difference between styles that is matched; norms and all else are matched apart, for their rates
differ, and their cosines added. Trials share the base and the candidates: an interval is for
users of this base against this attacker. A better attacker may find more; one that finds nothing has proved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstyle.privacy.audit.statistics import Estimate, proportion

Floats = NDArray[Any]


def templates(changes: Floats) -> Floats:
    """A unit vector for each style, (styles, n), from simulated changes (styles, draws, n), each turned to length 1 and averaged.

    The mean over styles is subtracted and its direction projected out. A style that nothing tells from the mean has a vector of zeros.
    """
    centres = _unit(changes.astype(np.float64)).mean(1)
    common = _unit(centres.mean(0))
    apart = centres - centres.mean(0)
    return _unit(apart - np.outer(apart @ common, common))


def scores(seen: Floats, styles: Floats) -> Floats:
    """The cosine of what was seen (n) with each style's vector (styles, n); zeros when nothing was seen."""
    return np.asarray(styles @ _unit(seen.astype(np.float64)))


def guess(rounds: Sequence[Floats], rng: np.random.Generator) -> int:
    """The style of the largest sum of scores over the rounds; of equal ones any, by `rng`."""
    total = np.sum(rounds, axis=0)
    return int(rng.choice(np.flatnonzero(total == total.max())))


def accuracy(guesses: Sequence[int], truths: Sequence[int]) -> Estimate:
    """How often the guess was right, with its exact interval."""
    return proportion(sum(one == other for one, other in zip(guesses, truths, strict=True)), len(guesses))


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 1e-12, lengths, np.inf)
