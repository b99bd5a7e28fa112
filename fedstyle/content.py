"""What photos are of, cheaply and without a network: colours and edges of each, and photos that are alike in these grouped by k-means."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedstyle.errors import ConfigError, PhotoError
from fedstyle.photos import Photos

SIDE = 48
"""Side in pixels of the centre square that a photo is seen as."""
STARTS, ROUNDS = 8, 100
"""Times that k-means begins anew, and the most rounds that it then takes."""

Array = np.ndarray[Any, np.dtype[np.float64]]


def cluster(photos: Photos, clusters: int, seed: int) -> list[int]:
    """Each photo's cluster, 0 for the largest one; photos in one cluster are alike in colour, contrast and edges.

    Takes as long as decoding every photo at a small size. The same on every machine with the same decoders and numpy: the descriptor is
    rounded, so the last bits of a sum do not matter. Raises ConfigError for fewer photos than clusters, PhotoError for a photo that
    changed since it was opened.
    """
    if len(photos) < clusters:
        raise ConfigError(f"data.photo_split.clusters = {clusters}: there are only {len(photos)} photos to cluster; give fewer clusters")
    views = photos.views(SIDE)
    if len(views) < len(photos):
        raise PhotoError(f"{len(photos) - len(views)} photos cannot be read any more: run it again")
    return kmeans(describe(views), clusters, np.random.default_rng(seed))


def describe(views: Tensor) -> Array:
    """Photos uint8 (n, 3, side, side) as (n, 24) numbers of mean 0 and deviation 1 over the photos.

    Of each quarter: mean brightness, mean of the two opponent colours (red - green, and yellow - blue), contrast, and the mean step from
    one pixel to the next across and down.
    """
    red, green, blue = views.double().unbind(1)
    light = (red + green + blue) / 3
    across = F.pad(light.diff(dim=2).abs(), (0, 1))
    down = F.pad(light.diff(dim=1).abs(), (0, 0, 0, 1))
    planes = torch.stack([light, light.square(), red - green, (red + green) / 2 - blue, across, down], 1)
    brightness, power, *others = F.adaptive_avg_pool2d(planes, 2).flatten(2).unbind(1)
    contrast = (power - brightness.square()).clamp(min=0).sqrt()
    found: Array = torch.cat([brightness, contrast, *others], 1).round().numpy()  # whole steps of 255: see `cluster`
    spread = found.std(0)
    scaled: Array = (found - found.mean(0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def kmeans(points: Array, clusters: int, rng: np.random.Generator) -> list[int]:
    """Each point's cluster, by Lloyd's rounds from k-means++ starts (Arthur and Vassilvitskii 2007), the best of STARTS.

    Clusters are numbered from the largest on, of equal ones the one with the first point first. Fewer come of it where points coincide.
    """
    best: tuple[float, np.ndarray[Any, Any]] | None = None
    for _ in range(STARTS):
        centres = _start(points, clusters, rng)
        labels = np.full(len(points), -1)
        for _ in range(ROUNDS):
            distances = _distances(points, centres)
            last, labels = labels, distances.argmin(1)
            if np.array_equal(last, labels):
                break
            centres = np.stack([points[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(clusters)])
        cost = float(_distances(points, centres).min(1).sum())
        if best is None or cost < best[0] - 1e-9:
            best = (cost, labels)
    assert best is not None  # STARTS is over 0
    kinds, firsts, counts = np.unique(best[1], return_index=True, return_counts=True)
    order = sorted(range(len(kinds)), key=lambda k: (-counts[k], firsts[k]))
    number = {int(kinds[k]): place for place, k in enumerate(order)}
    return [number[int(label)] for label in best[1]]


def _start(points: Array, clusters: int, rng: np.random.Generator) -> Array:
    """Centres that are points, each drawn with a chance that grows with the squared distance to the nearest before it."""
    centres = [points[rng.integers(len(points))]]
    while len(centres) < clusters:
        near = _distances(points, np.stack(centres)).min(1)
        total = near.sum()
        centres.append(points[rng.choice(len(points), p=near / total) if total > 0 else rng.integers(len(points))])
    return np.stack(centres)


def _distances(points: Array, centres: Array) -> Array:
    """Squared distances (points, centres)."""
    return np.stack([((points - centre) ** 2).sum(1) for centre in centres], 1)
