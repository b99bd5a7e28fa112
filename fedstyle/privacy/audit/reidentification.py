"""Whose style is it? The attacker learns from users that it simulates on public pictures, some for each style, and names the likeliest.

It knows the base, the method, its settings and the styles, and holds no picture of the user. Of three forms of an update and five penalties
it takes what names its own users best. A sum it learns from sums that it makes of its users, and noise it knows the size of.
Trials share the base and the shadows: an interval is for users of this base against this attacker.
A better attacker may find more; one that finds nothing has proved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedstyle.privacy.audit.learned import FORMS, Floats, Grams, Ridge, mixtures, noises

SUMS = 4
"""Sums that the attacker makes for each of its users."""


def answers(styles: Sequence[int], count: int) -> Floats:
    """A row a user with a 1 at its style."""
    return np.eye(count)[list(styles)]


def _right(wanted: Floats) -> object:
    return lambda left: float((left.argmax(1) == wanted.argmax(1)).mean()) - 1e-3 * float(np.square(left - wanted).mean())


def name_clear(moments: Sequence[Grams], parts: Sequence[NDArray[np.bool_]], styles: Sequence[int], count: int) -> NDArray[np.int64]:
    """The styles named for users whose changes over these tensors are seen in all moments; `styles` are the shadows'."""
    wanted = answers(styles, count)
    best: tuple[float, NDArray[np.int64]] | None = None
    for form in FORMS:
        pairs = [grams.pair(form, parts) for grams in moments]
        seen, own = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
        ridge = Ridge.fit(np.asarray(own), wanted, _right(wanted))  # type: ignore[arg-type]
        if best is None or ridge.score > best[0]:
            best = (ridge.score, ridge.predict(np.asarray(seen)).argmax(1))
    assert best is not None
    return best[1]


def name_noised(
    moments: Sequence[Grams], tensors: NDArray[np.bool_], styles: Sequence[int], count: int, *, clip: float, noise: float, draws: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:  # fmt: skip
    """The styles named (draws, users) from each user's clipped change with all of a sum's noise, drawn so many times in every moment."""
    wanted, std = answers(styles, count), noise * clip
    pairs = [grams.clipped(tensors, clip) for grams in moments]
    seen, own = np.asarray(sum(pair[0] for pair in pairs)), np.asarray(sum(pair[1] for pair in pairs))
    ridge = Ridge.fit(own, wanted, _right(wanted), noise=std)  # type: ignore[arg-type]
    return np.stack([ridge.predict(seen + noises(own, std, rng, len(seen))).argmax(1) for _ in range(draws)])


def name_summed(
    moments: Sequence[Grams], tensors: NDArray[np.bool_], styles: Sequence[int], count: int, cohorts: Sequence[Sequence[int]], *,
    clip: float, rng: np.random.Generator,
) -> NDArray[np.int64]:  # fmt: skip
    """The style named of every member of a cohort by the sum of its clipped changes; users in no cohort get -1."""
    pairs = [grams.clipped(tensors, clip) for grams in moments]
    seen, own = np.asarray(sum(pair[0] for pair in pairs)), np.asarray(sum(pair[1] for pair in pairs))
    mixed = mixtures(len(own), max(map(len, cohorts)), SUMS, rng)
    wanted = np.repeat(answers(styles, count), SUMS, axis=0)
    ridge = Ridge.fit(mixed @ own @ mixed.T, wanted, _right(wanted), group=SUMS)  # type: ignore[arg-type]
    named = np.full(len(seen), -1)
    for members in cohorts:
        named[list(members)] = ridge.predict(seen[list(members)].sum(0, keepdims=True) @ mixed.T).argmax()
    return named
