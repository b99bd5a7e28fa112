"""Figures with their intervals: exact for shares, DeLong's for AUC, Student's for means; and what an interval says of a limit.

Every interval is two-sided, of 95 % unless told otherwise, so that its upper end alone is a bound of 97.5 %. All treat trials as
independent; where an attack's trials share a base or pictures, its own docstring says so.
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


def auc(members: Floats, others: Floats, confidence: float = 0.95) -> Estimate:
    """The chance that a member scores over a non-member, ties counting half, with the interval of DeLong et al. 1988.

    Where every member stands alike against the others, as in a perfect separation, that interval has no width; the exact one of as many
    trials as the smaller group has takes its place.
    """
    need(min(len(members), len(others)) >= 2, "the smaller group's size", min(len(members), len(others)), "an AUC needs 2 and more of each")
    ranked = np.sort(others)
    below, upto = np.searchsorted(ranked, members, "left"), np.searchsorted(ranked, members, "right")
    of_members = (below + upto) / 2 / len(others)
    ranked = np.sort(members)
    below, upto = np.searchsorted(ranked, others, "left"), np.searchsorted(ranked, others, "right")
    of_others = 1 - (below + upto) / 2 / len(members)
    value = float(of_members.mean())
    spread = math.sqrt(float(of_members.var(ddof=1)) / len(members) + float(of_others.var(ddof=1)) / len(others))
    smaller = min(len(members), len(others))
    if spread == 0:
        exact = proportion(round(value * smaller), smaller, confidence)
        return Estimate(value, exact.low, exact.high, smaller)
    reach = float(scipy_stats().norm.ppf((1 + confidence) / 2)) * spread
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), smaller)


def tpr_at(members: Floats, others: Floats, fpr: float = 0.01, confidence: float = 0.95) -> Estimate:
    """The share of members that score over the threshold which at most `fpr` of the others pass.

    The interval is exact for members at that threshold; how well the others fix the threshold is not in it. With fewer than 1 / fpr
    others the threshold is the highest of them.
    """
    need(len(others) >= 1, "the number of non-members", len(others), "give at least 1")
    allowed = math.floor(fpr * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return proportion(int((members > threshold).sum()), len(members), confidence)


def scipy_stats() -> Any:
    """The module scipy.stats; raises FedstyleError when scipy is not installed."""
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise FedstyleError("the audit needs the scipy package: pip install 'fedstyle[dp]'") from error
