"""Rebuild a photo by what the attacker learned: ridge regression from an update to pixels, trained on single photos of its own.

The user is the worst case: one with a single photo, of a style that the attacker knows and simulates its users with. What is found counts
as a *gain*: PSNR over the best of what knows nothing of the user, which is the mean of public pictures, that mean smoothed, their mean
colour, and the same regression on a random update. It is a linear attack and finds light and colour, not faces; it counts if it gains
as much as the limit from the plain gradient of the audited network, batch 1, one step: then that it gains nothing elsewhere is news.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstyle.privacy.audit.inversion import smoothed
from fedstyle.privacy.audit.learned import FORMS, Floats, Grams, Ridge, mixtures, noises

Masks = Sequence[NDArray[np.bool_]]


def rows(pixels: Tensor) -> Floats:
    """Pictures uint8 (n, 3, S, S) as rows of numbers in [0, 1]."""
    return pixels.double().numpy().reshape(len(pixels), -1) / 255


def psnrs(found: Floats, wanted: Floats) -> Floats:
    """PSNR in dB by row, at most 99."""
    return np.asarray(-10 * np.log10(np.maximum(np.square(np.clip(found, 0, 1) - wanted).mean(1), 1e-10)))


def blind(public: Tensor, wanted: Floats) -> Floats:
    """The best PSNR of what knows nothing, by photo: the mean picture, smoothed, and the mean colour."""
    mean = rows(public).mean(0)
    smooth = smoothed(torch.from_numpy(mean).reshape(1, *public.shape[1:])).numpy().reshape(-1)
    colour = mean.reshape(3, -1).mean(1).repeat(mean.size // 3)
    return np.asarray(np.max([psnrs(np.tile(one, (len(wanted), 1)), wanted) for one in (mean, smooth, colour)], axis=0))


def learn_clear(moments: Sequence[Grams], parts: Masks, shadows: Floats) -> tuple[Floats, Ridge]:
    """Pictures rebuilt of users whose changes over these tensors are seen, and what was learned; `shadows` are the attacker's pictures."""
    best: tuple[Floats, Ridge] | None = None
    for form in FORMS:
        pairs = [grams.pair(form, parts) for grams in moments]
        seen, own = np.asarray(sum(pair[0] for pair in pairs)), np.asarray(sum(pair[1] for pair in pairs))
        ridge = Ridge.fit(own, shadows, lambda left: float(psnrs(left, shadows).mean()))
        if best is None or ridge.score > best[1].score:
            best = (ridge.predict(seen), ridge)
    assert best is not None
    return best


def learn_hidden(
    moments: Sequence[Grams], tensors: NDArray[np.bool_], shadows: Floats, *, clip: float, noise: float, rng: np.random.Generator
) -> tuple[Floats, Ridge]:
    """The same of clipped changes with noise of this multiplier."""
    pairs = [grams.clipped(tensors, clip) for grams in moments]
    seen, own = np.asarray(sum(pair[0] for pair in pairs)), np.asarray(sum(pair[1] for pair in pairs))
    ridge = Ridge.fit(own, shadows, lambda left: float(psnrs(left, shadows).mean()), noise=noise * clip)
    return ridge.predict(seen + noises(own, noise * clip, rng, len(seen))), ridge


def gain(found: Floats, ridge: Ridge, wanted: Floats, known: Floats, rng: np.random.Generator) -> Floats:
    """By photo, dB over the best that knows nothing: `known`, and the same regression on an update of another size's noise."""
    size = float(np.sqrt(np.trace(ridge.own) / len(ridge.own)))
    random = psnrs(ridge.predict(noises(ridge.own, 1e-3 * size, rng, len(wanted))), wanted)
    return psnrs(found, wanted) - np.maximum(known, random)


def learn_summed(
    moments: Sequence[Grams], tensors: NDArray[np.bool_], shadows: Floats, *, clip: float, cohort: int, rng: np.random.Generator
) -> tuple[Floats, Ridge]:
    """Pictures rebuilt of users of whom the sum with others of their kind is seen, of clipped changes."""
    pairs = [grams.clipped(tensors, clip) for grams in moments]
    seen, own = np.asarray(sum(pair[0] for pair in pairs)), np.asarray(sum(pair[1] for pair in pairs))
    mixed, crowd = mixtures(len(own), cohort, 2, rng), mixtures(len(seen), cohort, 1, rng)
    wanted = np.repeat(shadows, 2, axis=0)
    ridge = Ridge.fit(mixed @ own @ mixed.T, wanted, lambda left: float(psnrs(left, wanted).mean()), group=2)
    return ridge.predict(crowd @ seen @ mixed.T), ridge
