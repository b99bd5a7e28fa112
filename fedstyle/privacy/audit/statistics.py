"""Figures with their intervals: exact for shares, DeLong's for AUC, Student's for means; and what an interval says of a limit.

Every interval is two-sided, of 95 % unless told otherwise, so that its upper end alone is a bound of 97.5 %. Trials of one cluster, such as
all draws of noise over one user's update, are no independent ones: given clusters, it is those that an interval counts. What all trials
share, such as the base, an attack's own docstring names.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import FedstyleError
from fedstyle.tables import need

Floats = NDArray[np.float64]
Verdict = Literal["met", "not met", "unresolved"]


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval, and the number of trials behind it."""

    value: float
    low: float
    high: float
    trials: int


def judge(estimate: Estimate, limit: float) -> Verdict:
    """Whether a figure that should be at most `limit` is: "unresolved" when its interval holds the limit inside."""
    return "met" if estimate.high <= limit else "not met" if estimate.low > limit else "unresolved"


def proportion(hits: int, trials: int, confidence: float = 0.95) -> Estimate:
    """A share with its exact interval (Clopper and Pearson 1934); no trial at all gives 0 to 1."""
    need(0 <= hits <= trials, "the number of hits", hits, f"give 0 to {trials}, the number of trials")
    tail, beta = (1 - confidence) / 2, scipy_stats().beta
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return Estimate(hits / trials if trials else 0.0, low, high, trials)


def mean(values: Floats, confidence: float = 0.95) -> Estimate:
    """A mean with Student's interval; fewer than two values leave it without bounds."""
    count, middle = len(values), float(np.mean(values)) if len(values) else 0.0
    if count < 2:
        return Estimate(middle, -math.inf, math.inf, count)
    reach = float(scipy_stats().t.ppf((1 + confidence) / 2, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(middle, middle - reach, middle + reach, count)


def clustered(values: NDArray[Any], clusters: NDArray[Any], confidence: float = 0.95) -> Estimate:
    """A mean with Student's interval over clusters, by the ratio estimator (Cochran 1977); `trials` are clusters.

    Shares of clusters of one trial each have the exact interval; so have those in which nothing differs, of as many trials as clusters.
    """
    names, index = np.unique(clusters, return_inverse=True)
    value, count = float(np.mean(values)), len(names)
    shares = bool(np.isin(values, (0, 1)).all())
    if shares and (count == len(values) or value in (0.0, 1.0)):
        return proportion(round(value * count), count, confidence)
    if count < 2:
        return Estimate(value, *((0.0, 1.0) if shares else (-math.inf, math.inf)), count)
    apart = np.bincount(index, values - value)
    reach = _student(count, confidence) * math.sqrt(count / (count - 1) * float(np.square(apart).sum())) / len(values)
    low, high = value - reach, value + reach
    return Estimate(value, max(0.0, low) if shares else low, min(1.0, high) if shares else high, count)


def auc(
    members: NDArray[Any], others: NDArray[Any], confidence: float = 0.95, clusters: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> Estimate:
    """The chance that a member scores over a non-member, ties counting half, with the interval of DeLong et al. 1988.

    With `clusters`, of the members and of the others, the interval is over clusters that hold both (Obuchowski 1997), by Student's law.
    Where every member stands alike against the others, as in a perfect separation, that interval has no width; the exact one of as many
    trials as the smaller group has takes its place.
    """
    need(min(len(members), len(others)) >= 2, "the smaller group's size", min(len(members), len(others)), "an AUC needs 2 and more of each")
    of_members, of_others = _above(members, others), 1 - _above(others, members)
    value, smaller = float(of_members.mean()), min(len(members), len(others))
    if clusters and len(np.unique(np.concatenate(clusters))) < 2:
        return Estimate(value, 0.0, 1.0, 1)
    if clusters:
        names, index = np.unique(np.concatenate(clusters), return_inverse=True)
        apart = np.concatenate([(of_members - value) / len(members), (of_others - value) / len(others)])
        count = len(names)
        spread = math.sqrt(count / (count - 1) * float(np.square(np.bincount(index, apart)).sum()))
        times, smaller = _student(count, confidence), count
    else:
        spread = math.sqrt(float(of_members.var(ddof=1)) / len(members) + float(of_others.var(ddof=1)) / len(others))
        times = float(scipy_stats().norm.ppf((1 + confidence) / 2))
    if spread == 0:
        exact = proportion(round(value * smaller), smaller, confidence)
        return Estimate(value, exact.low, exact.high, smaller)
    return Estimate(value, max(0.0, value - times * spread), min(1.0, value + times * spread), smaller)


def _above(these: NDArray[Any], those: NDArray[Any]) -> Floats:
    """For each of these, the share of those that it is over, ties counting half."""
    ranked = np.sort(those)
    return np.asarray((np.searchsorted(ranked, these, "left") + np.searchsorted(ranked, these, "right")) / 2 / len(those))


def _student(count: int, confidence: float) -> float:
    return float(scipy_stats().t.ppf((1 + confidence) / 2, count - 1))


def scipy_stats() -> Any:
    """The module scipy.stats; raises FedstyleError when scipy is not installed."""
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise FedstyleError("the audit needs the scipy package: pip install 'fedstyle[dp]'") from error
