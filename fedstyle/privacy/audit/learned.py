"""What the attacker learns from users that it simulates: ridge regression from what a release shows to what it wants to know.

All is said in inner products of what is seen with what the simulated users, its shadows, would have sent: the best linear guess lies in
their span, and numbers of users are small where numbers of parameters are not. Inner products are kept tensor by tensor, so that every
release, form and clipping norm is made of the same ones. Gaussian noise on a release is Gaussian noise on its products with n shadows, of
covariance std^2 times theirs with each other: so it is drawn in n dimensions in place of half a million, as often as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
FORMS = ("whole", "layers", "signs")
"""What is compared in the clear: norms and the rest each at length 1, every tensor at length 1, or signs alone, as in Adam's steps."""
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Of the ridge, in mean squared lengths of a shadow; the one that does best on shadows left out is taken."""


@dataclass(frozen=True)
class Grams:
    """Inner products of a moment, one table a tensor: users with shadows (t, users, n), and shadows with each other (t, n, n)."""

    seen: Floats
    own: Floats
    signs_seen: Floats
    signs_own: Floats
    squares: Floats
    """The users' own squared lengths, (t, users)."""

    @classmethod
    def of(cls, users: Floats, shadows: Floats, cuts: Sequence[int]) -> Grams:
        """Of changes (users, d) and (n, d), whose tensors end at `cuts`."""
        tables: list[list[Floats]] = [[], [], [], [], []]
        for start, end in zip([0, *cuts], cuts, strict=False):
            a, b = users[:, start:end].astype(np.float32), shadows[:, start:end].astype(np.float32)
            tables[4].append(np.square(a, dtype=np.float64).sum(1))
            tables[0].append(a @ b.T)
            tables[1].append(b @ b.T)
            a, b = np.sign(a), np.sign(b)
            tables[2].append(a @ b.T)
            tables[3].append(b @ b.T)
        return cls(*(np.stack(table).astype(np.float64) for table in tables))

    def pair(self, form: str, parts: Sequence[NDArray[np.bool_]]) -> tuple[Floats, Floats]:
        """Inner products (users, n) and (n, n) in one of FORMS over the tensors of these parts, which norms and the rest are."""
        tensors = np.any(parts, axis=0)
        if form == "signs":
            return self.signs_seen[tensors].sum(0), self.signs_own[tensors].sum(0)
        groups = (
            [np.eye(len(tensors), dtype=bool)[t] for t in np.flatnonzero(tensors)] if form == "layers" else [p for p in parts if p.any()]
        )
        seen, own = np.zeros(self.seen.shape[1:]), np.zeros(self.own.shape[1:])
        for group in groups:
            theirs, mine = self.lengths(group)
            seen += self.seen[group].sum(0) / np.outer(theirs, mine)
            own += self.own[group].sum(0) / np.outer(mine, mine)
        return seen, own

    def clipped(self, tensors: NDArray[np.bool_], clip: float) -> tuple[Floats, Floats]:
        """Inner products over these tensors of changes that are clipped to this joint norm."""
        theirs, mine = (np.minimum(1.0, clip / lengths) for lengths in self.lengths(tensors))
        return self.seen[tensors].sum(0) * np.outer(theirs, mine), self.own[tensors].sum(0) * np.outer(mine, mine)

    def lengths(self, tensors: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """The lengths over these tensors of the users' changes and of the shadows'."""
        mine = np.sqrt(np.einsum("tnn->n", self.own[tensors]))
        return np.maximum(np.sqrt(self.squares[tensors].sum(0)), 1e-12), np.maximum(mine, 1e-12)


@dataclass(frozen=True)
class Ridge:
    """What was learned: coefficients (n, answers) on centred inner products with n shadows."""

    own: Floats
    coefficients: Floats
    middle: Floats
    score: float
    """How it does on shadows that are left out, by the measure that it was fitted with."""

    @classmethod
    def fit(cls, own: Floats, answers: Floats, measure: Callable[[Floats], float], *, noise: float = 0.0, group: int = 1) -> Ridge:
        """Learn answers (n, k) from inner products (n, n); shadows are left out `group` neighbours at a time.

        `noise` is the standard deviation of what releases carry per number, which acts as n noise^2 more of penalty. `measure` is of
        answers (n, k) predicted for shadows left out, the larger the better.
        """
        count, middle = len(own), answers.mean(0)
        centred = own - own.mean(0) - own.mean(1)[:, None] + own.mean()
        best: tuple[float, Floats] | None = None
        for penalty in PENALTIES:
            inverse = np.linalg.inv(centred + (penalty * max(np.trace(centred) / count, 1e-12) + count * noise**2) * np.eye(count))
            found = inverse @ (answers - middle)
            left = answers.astype(np.float64).copy()
            for start in range(0, count, group):
                rows = slice(start, start + group)
                left[rows] -= np.linalg.solve(inverse[rows, rows], found[rows])
            score = measure(left)
            if best is None or score > best[0]:
                best = (score, found)
        assert best is not None
        return cls(own, best[1], middle, best[0])

    def predict(self, seen: Floats) -> Floats:
        """Answers (m, k) for inner products (m, n)."""
        centred = seen - seen.mean(1)[:, None] - self.own.mean(0) + self.own.mean()
        return np.asarray(self.middle + centred @ self.coefficients)


def noises(own: Floats, std: float, rng: np.random.Generator, count: int) -> Floats:
    """Inner products (count, n) of so many draws of noise, of this standard deviation in each number, with shadows whose own are (n, n)."""
    values, vectors = np.linalg.eigh(own)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(std * rng.normal(size=(count, len(own))) @ root.T)


def mixtures(users: int, cohort: int, each: int, rng: np.random.Generator) -> Floats:
    """Cohorts as rows (users x each, users) of how often each user is in the sum: row k holds user k // each and others at random."""
    mixed = np.repeat(np.eye(users), each, axis=0)
    for row in mixed:
        np.add.at(row, rng.choice(users, cohort - 1), 1)
    return mixed
