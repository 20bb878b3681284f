"""The number of seeds that a comparison needs.

Both functions take the spread that trainings so far have shown, and answer for the number of seeds in all.
Where splits overlap (``ratio`` above 0, see ``corrected_paired_t_test``) the variance s²(1/n + ratio) of a
mean does not vanish, so that no number of seeds may do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

POWER = 0.8  # J. Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2
SEEDS_LIMIT = 1000  # nobody trains more; a number above is none


def power_of_t_test(difference: float, std: float, seeds: int, ratio: float = 0.0) -> float:
    """Return the probability that the paired t-test finds a true difference, at 5 % and two-sided.

    If there is a difference, the statistic follows the noncentral t distribution with noncentrality
    difference / (s √(1/n + ratio)): Cohen 1988, chapter 2.

    Args:
        difference: The true mean difference.
        std: Sample standard deviation of paired differences, above 0.
        seeds: Number of pairs, at least 2.
        ratio: That of the test.

    >>> round(power_of_t_test(0.421637, 1.0, 50), 4)
    0.8321
    """
    return float(_powers(difference, std, np.array([seeds]), ratio)[0])


def seeds_to_detect(difference: float, std: float, ratio: float = 0.0, power: float = POWER) -> int | None:
    """Return the smallest number of seeds with which the paired t-test finds a difference as large as this.

    A difference that trainings have shown is uncertain itself, and so is the number: it says whether
    five or fifty seeds are needed, not whether twelve or fourteen.

    Args:
        difference: The difference to find, such as the mean so far.
        std: Sample standard deviation of paired differences.
        ratio: That of the test.
        power: Probability with which to find the difference.

    Returns:
        The number in all, those so far included; None if ``SEEDS_LIMIT`` are too few, or the spread is 0.

    >>> seeds_to_detect(0.5, 1.0)
    34
    """
    if not std > 0 or not difference:
        return None
    seeds = np.arange(2, SEEDS_LIMIT + 1)
    return _first(seeds, _powers(difference, std, seeds, ratio) >= power)


def seeds_to_narrow(
    half_width: float, std: float, ratio: float = 0.0, confidence: float = 0.95
) -> int | None:
    """Return the smallest number of seeds whose interval t · s · √(1/n + ratio) is narrow enough.

    The formula is that of ``statistics.interval_half_width``: a ratio of 1 asks for a prediction interval.

    Args:
        half_width: Half of the width that the interval may have.
        std: Sample standard deviation of the values.
        ratio: As for the interval.
        confidence: That of the interval.

    Returns:
        The number in all; None if ``SEEDS_LIMIT`` are too few, or the spread is 0.

    >>> seeds_to_narrow(0.5, 1.0)
    18
    """
    if not std > 0:
        return None
    seeds = np.arange(2, SEEDS_LIMIT + 1)
    quantiles = stats.t.ppf((1 + confidence) / 2, seeds - 1)
    return _first(seeds, quantiles * std * np.sqrt(1 / seeds + ratio) <= half_width)


def _powers(difference: float, std: float, seeds: np.ndarray, ratio: float) -> Any:
    noncentrality = abs(difference) / (std * np.sqrt(1 / seeds + ratio))
    critical = stats.t.ppf(0.975, seeds - 1)
    # Far beyond the critical value scipy's series ends in NaN, where the power is 1.
    powers = stats.nct.sf(critical, seeds - 1, noncentrality)
    powers = powers + stats.nct.cdf(-critical, seeds - 1, noncentrality)
    return np.where(noncentrality > critical + 10, 1.0, powers)


def _first(seeds: np.ndarray, enough: np.ndarray) -> int | None:
    return int(seeds[enough.argmax()]) if enough.any() else None
