"""Intervals that hold two samples without pairs, or the spread of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def welch_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the difference of two unpaired means (Welch 1947, Biometrika 34, 28-35).

    A side of a single value gives -inf and inf.
    """
    if min(len(first), len(second)) < 2:
        return -math.inf, math.inf
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return (float(np.mean(first) - np.mean(second)),) * 2
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(confidence)
    return float(interval.low), float(interval.high)


def deviation_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the chi-square interval of a normal standard deviation; one value gives 0 and inf."""
    count = len(values)
    if count < 2:
        return 0.0, math.inf
    squares = (count - 1) * float(np.var(values, ddof=1))
    tails = ((1 + confidence) / 2, (1 - confidence) / 2)
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(tail, count - 1))) for tail in tails)
    return low, high
