"""Tests and intervals of the project's claims: over seeds, whose trainings vary, and over images.

How many seeds a comparison needs is in ``planning``, how good probabilities are in ``calibration``;
docs/statistics.md says what is used when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

EXACT_PAIRS = 20  # pairs of which all sign patterns are tried: 2^19 sums take 20 ms
_DRAWS = 99_999  # patterns drawn for more pairs: the smallest p value is 1 / 100,000
_TIE = 1e-9  # share of the largest sum by which equal sums differ, as decimal fractions are rounded


# ---- over seeds ----


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


def mean_interval(
    differences: Sequence[float], ratio: float = 0.0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of the mean of paired differences, from Student's t.

    It holds zero where ``corrected_paired_t_test`` has a p value above 1 - ``confidence``; the ratio is
    described there. NaN for a single pair and for differences that do not vary, whose spread is unknown.

    >>> [round(end, 2) for end in mean_interval([1.0, 2.0, 4.0])]
    [-1.46, 6.13]
    """
    values = np.asarray(differences, dtype=float)
    std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if std == 0:
        return math.nan, math.nan
    mean, half_width = float(values.mean()), interval_half_width(len(values), std, ratio, confidence)
    return mean - half_width, mean + half_width


def interval_half_width(count: int, std: float, ratio: float = 0.0, confidence: float = 0.95) -> float:
    """Return half the width of an interval t · s · √(1/n + ratio) around the mean of n values.

    A ratio of 0 makes it the mean's confidence interval, 1 the prediction interval of one more value.
    """
    return float(stats.t.ppf((1 + confidence) / 2, count - 1)) * std * math.sqrt(1 / count + ratio)


def prediction_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return where one more value will lie: mean ± t · s · √(1 + 1/n), if all are drawn from one normal law.

    NaN for a single value. Source: G. Hahn and W. Meeker, "Statistical Intervals", Wiley 1991, chapter 4.
    """
    if len(values) < 2:
        return math.nan, math.nan
    return t_prediction_interval(
        len(values), float(np.mean(values)), float(np.std(values, ddof=1)), confidence
    )


def t_prediction_interval(
    count: int, mean: float, std: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the ``prediction_interval`` of values of which the number, mean and sample deviation are known.

    >>> [round(end, 2) for end in t_prediction_interval(22, 13.71, 3.55)]
    [6.16, 21.26]
    """
    half_width = interval_half_width(count, std, ratio=1, confidence=confidence)
    return mean - half_width, mean + half_width


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p value of paired differences: the share of sign patterns with as large a sum.

    If two models do equally well, each difference is as likely with the other sign (R. Fisher, "The Design
    of Experiments", 1935, section 21). No law of the differences is assumed. All 2^n patterns are tried for
    up to ``EXACT_PAIRS`` pairs, so that p is at least 2 / 2^n: 0.0625 for five seeds. For more pairs m
    patterns are drawn, of which b have as large a sum, and p is (b + 1) / (m + 1): B. Phipson and G. Smyth,
    "Permutation P-values should never be zero", 2010.

    Args:
        differences: One for each pair.
        seed: Of the patterns that are drawn.

    >>> sign_flip_test([0.1, 0.2, 0.3, 0.4])
    0.125
    """
    values = np.asarray(differences, dtype=float)
    least = abs(values.sum()) - _TIE * np.abs(values).sum()
    if len(values) > EXACT_PAIRS:
        random = np.random.default_rng(seed)
        drawn = np.zeros(_DRAWS)
        for value in values:  # one after the other: all signs at once would take 100 MB
            drawn += random.choice((-value, value), _DRAWS)
        return float((np.count_nonzero(np.abs(drawn) >= least) + 1) / (_DRAWS + 1))
    sums = values[:1]  # the first sign stays: with all signs flipped, a sum has the same size
    for value in values[1:]:
        sums = np.concatenate((sums + value, sums - value))
    return float(np.mean(np.abs(sums) >= least))


@dataclass(frozen=True)
class Share:
    """A share of seeds, and its exact 95 % interval."""

    count: int
    total: int
    low: float
    high: float


def share_above_zero(differences: Sequence[float]) -> Share:
    """Return the share of pairs whose difference is above zero; a tie is not."""
    above = int(np.count_nonzero(np.asarray(differences) > 0))
    return Share(above, len(differences), *exact_interval(above, len(differences)))


def is_equivalent(interval: tuple[float, float], delta: float) -> bool:
    """Whether a difference is shown to be smaller than ``delta``: its whole interval is within ±delta.

    With a 95 % interval, these are two one-sided tests at 2.5 % each: D. Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 15, 1987. A p value above 0.05 shows nothing of the kind.
    """
    low, high = interval
    return -delta < low and high < delta  # False for NaN


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in their order: one below 0.05 is significant among all.

    The smallest is multiplied by their number, the next by one less, and so on, and none falls below a
    smaller one's: S. Holm, Scandinavian Journal of Statistics 6, 1979.

    >>> [round(p, 3) for p in holm([0.016, 0.019, 0.607])]
    [0.048, 0.048, 0.607]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(p) for p in adjusted]


# ---- over images ----


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % confidence interval of an accuracy (Wilson 1927, JASA 22, 209-212)."""
    result = stats.binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(result.low), float(result.high)


def exact_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of an accuracy: never too narrow, mostly a little too wide.

    C. Clopper and E. Pearson, Biometrika 26, 1934.

    >>> [round(end, 4) for end in exact_interval(0, 20)]
    [0.0, 0.1684]
    """
    result = stats.binomtest(correct, total).proportion_ci(confidence_level=confidence, method="exact")
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
