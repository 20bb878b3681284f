"""Statistical tests of the project's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class PairedTest:
    """Mean and spread of paired differences, and Student's t-test of them."""

    mean: float
    std: float  # of the sample; 0 for a single pair
    statistic: float  # one degree of freedom fewer than pairs; NaN if differences do not vary, or for one
    p_value: float  # of this statistic or a more extreme one if there were no difference; 1 for NaN


def corrected_paired_t_test(
    differences: Sequence[float], ratio: float, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> PairedTest:
    """Test whether paired differences have a mean other than zero, where the pairs' images overlap.

    Accuracies of splits that share images are not independent, so that the plain variance of their mean,
    s²/n, is too small. Here it is s²(1/n + ratio): C. Nadeau and Y. Bengio, "Inference for the
    generalization error", Machine Learning 52, 2003.

    The ratio is that of validation to training images, such as 0.2 / 0.8; 0 gives Student's plain paired
    t-test. The alternative ``greater`` tests for a mean above zero only.

    >>> round(corrected_paired_t_test([1.0, 2.0, 4.0], ratio=0.25).statistic, 4)
    2.0
    """
    values = np.asarray(differences, dtype=float)
    count, mean = len(values), float(values.mean())
    std = float(values.std(ddof=1)) if count > 1 else 0.0
    if std == 0:
        return PairedTest(mean, std, math.nan, 1.0)
    statistic = mean / (std * math.sqrt(1 / count + ratio))
    p_value = float(stats.t.sf(statistic, count - 1))
    if alternative == "two-sided":
        p_value = 2 * float(stats.t.sf(abs(statistic), count - 1))
    return PairedTest(mean, std, statistic, p_value)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % confidence interval of an accuracy (Wilson 1927, JASA 22, 209-212)."""
    result = stats.binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(result.low), float(result.high)


@dataclass(frozen=True)
class McNemarTest:
    """Test of whether two models, on the same images, are right equally often."""

    first_only: int  # images that the first model alone has right
    second_only: int
    p_value: float  # exact, two-sided
    mid_p_value: float  # less conservative: Fagerland, Lydersen and Laake, BMC Med Res Methodol 13, 2013


def mcnemar(first_only: int, second_only: int) -> McNemarTest:
    """Test two models by the images that one alone has right; images on which both agree say nothing.

    >>> round(mcnemar(25, 15).p_value, 5)
    0.15386
    """
    count = first_only + second_only
    if not count:
        return McNemarTest(0, 0, 1.0, 1.0)
    fewer = min(first_only, second_only)
    p_value = min(1.0, 2 * float(stats.binom.cdf(fewer, count, 0.5)))
    # Where both counts are equal, the doubled tail counts their own probability twice.
    tails = 2 * float(stats.binom.cdf(fewer, count, 0.5)) - float(stats.binom.pmf(fewer, count, 0.5))
    return McNemarTest(first_only, second_only, p_value, min(1.0, tails))


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two proportions of the same images, first less second, with its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_difference(both: int, first_only: int, second_only: int, neither: int) -> PairedDifference:
    """Return the difference of two models' accuracies on the same images, with Newcombe's interval.

    It is method 10 of R. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17, 1998: Wilson's intervals of both
    proportions, combined by their correlation, which is corrected for continuity.

    Args:
        both: Number of images that both models have right.
        first_only: That the first one alone has right.
        second_only: That the second one alone has right.
        neither: That none has right.

    >>> paired_difference(14, 5, 0, 22).difference.__round__(3)
    0.122
    """
    count = both + first_only + second_only + neither
    rights = (both + first_only, both + second_only)
    first, second = (right / count for right in rights)
    (first_low, first_high), (second_low, second_high) = (wilson_interval(right, count) for right in rights)
    covariance = float(both * neither - first_only * second_only)
    if covariance > 0:
        covariance = max(covariance - count / 2, 0)
    scale = math.sqrt(math.prod(right * (count - right) for right in rights))
    correlation = covariance / scale if scale else 0.0

    def length(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * correlation * one * other + other**2)

    low = length(first - first_low, second_high - second)
    high = length(first_high - first, second - second_low)
    return PairedDifference(first - second, first - second - low, first - second + high)
