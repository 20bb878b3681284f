"""Statistics that the scorecard needs, beside those of ``statistics.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_MOST_ENUMERATED = 20  # differences; 2^20 patterns of signs take a second
_DRAWS = 100_000  # patterns drawn for more differences


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

    >>> [round(p, 3) for p in holm([0.016, 0.019, 0.607])]
    [0.048, 0.048, 0.607]
    """
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def prediction_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return where a further value of the same normal distribution lies with this probability.

    The interval is m ± t·s·√(1 + 1/n). NaN for a single value, which says nothing about another.

    >>> prediction_interval([1.0])
    (nan, nan)
    """
    sample = np.asarray(values, dtype=float)
    count, mean = len(sample), float(sample.mean())
    if count < 2:
        return math.nan, math.nan
    quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    half = quantile * float(sample.std(ddof=1)) * math.sqrt(1 + 1 / count)
    return mean - half, mean + half


def sign_flip_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of paired differences under all patterns of signs (exact up to 20 of them).

    >>> sign_flip_test([1.0, 2.0, 4.0])
    0.25
    """
    values = np.asarray(differences, dtype=float)
    limit = abs(values.sum()) - 1e-12 * np.abs(values).sum()  # sums of equal sets differ in their last bits
    if len(values) > _MOST_ENUMERATED:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(_DRAWS, len(values)))
        return float((1 + (np.abs(signs @ values) >= limit).sum()) / (_DRAWS + 1))
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return float((np.abs(sums) >= limit).mean())


def mean_interval(
    differences: Sequence[float], ratio: float = 0.0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of a mean difference, with the variance of ``corrected_paired_t_test``.

    NaN for one difference, and for differences that do not vary.
    """
    sample = np.asarray(differences, dtype=float)
    count, mean = len(sample), float(sample.mean())
    if count < 2 or sample.std(ddof=1) == 0:
        return math.nan, math.nan
    quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    half = quantile * float(sample.std(ddof=1)) * math.sqrt(1 / count + ratio)
    return mean - half, mean + half
