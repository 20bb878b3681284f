"""The rules by which a claim is judged on values over seeds; each is a pure function of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from lenet_study.evidence._pending_statistics import (
    holm,
    mean_interval,
    prediction_interval,
    sign_flip_test,
)
from lenet_study.evidence.intervals import deviation_interval
from lenet_study.evidence.statistics import corrected_paired_t_test

CONFIDENCE = 0.95
SIGNIFICANT = 0.05  # Holm's p below which a comparison counts
PLANNED_SEEDS = 10  # a sign-flip test under Holm over four steps needs at least 8 to be significant
MOST_SEEDS = 1000  # beyond which nobody repeats a training
_ROUNDING = 1e-12  # of decimal fractions as binary ones: 0.925 - 0.92 is not above 0.005


class ClaimVerdict(StrEnum):
    """A verdict on a claim, in words."""

    FAILED = "not reproduced"
    UNDECIDED = "not distinguishable"
    UNMEASURED = "not measured"
    CAVEAT = "reproduced with a caveat"
    REPRODUCED = "reproduced"


@dataclass(frozen=True)
class Ruling:
    """What a rule says about a claim."""

    verdict: ClaimVerdict
    value: float  # ours: a mean, a difference, a share; NaN if there is none
    low: float  # of the 95 % interval that decides; infinite if it is unknown, NaN if there is none
    high: float
    seeds_needed: int | None = None  # of an undecided claim; None if no number of seeds would decide it
    p_value: float = math.nan  # Holm's, of a comparison
    flip_p_value: float = math.nan  # of the exact sign-flip test beside it
    side: int = 0  # of a figure outside the interval: 1 if the published one is higher, -1 if lower


def judge_figure(
    values: Sequence[float],
    published: float,
    *,
    half_digit: float,
    delta: float,
    like_for_like: bool,
    averaged: int = 1,
) -> Ruling:
    """Judge a published figure by the prediction interval of our values.

    A further training lies in m ± t·s·√(1 + 1/n) with 95 %. An interval of the mean would fail true
    replications the more often, the more seeds there are.

    Args:
        values: Ours, one for each seed.
        published: The published figure.
        half_digit: Half of its last digit; 0 if it is exact. It widens the interval on both sides.
        delta: The difference that matters.
        like_for_like: Whether both were measured in the same way.
        averaged: Trainings that the published figure is the mean of, such as its folds.

    Returns:
        *Reproduced* if the figure is in the interval, whose half-width is at most ``delta``, and was measured
        like for like; *with a caveat* if it was not, or if the figure is outside but nearer to the mean than
        ``delta`` and half a digit; *not distinguishable* if it is in an interval that is wider; else *not
        reproduced*.
    """
    low, high = _prediction(values, averaged)
    mean, half = float(np.mean(values)), (high - low) / 2
    inside = low - half_digit - _ROUNDING <= published <= high + half_digit + _ROUNDING
    sharp = half <= delta + _ROUNDING
    near = abs(published - mean) <= delta + half_digit + _ROUNDING
    if inside and sharp:
        verdict = ClaimVerdict.REPRODUCED if like_for_like else ClaimVerdict.CAVEAT
    elif inside:
        verdict = ClaimVerdict.UNDECIDED
    else:
        verdict = ClaimVerdict.CAVEAT if near else ClaimVerdict.FAILED
    needed = None
    if verdict is ClaimVerdict.UNDECIDED and len(values) > 1 and averaged == 1:
        std = float(np.std(values, ddof=1))
        needed = _fewest(lambda n: _t(n) * std * np.sqrt(1 + 1 / n) <= delta, len(values))
    side = 0 if inside else int(np.sign(published - mean))
    return Ruling(verdict, mean, low, high, needed, side=side)


def _prediction(values: Sequence[float], averaged: int) -> tuple[float, float]:
    """Return the interval of the mean of so many further values: m ± t·s·√(1/averaged + 1/n)."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return -math.inf, math.inf
    low, high = prediction_interval(values, CONFIDENCE)
    half = (high - low) / 2 * math.sqrt((1 / averaged + 1 / count) / (1 + 1 / count))
    return mean - half, mean + half


def _mean(differences: Sequence[float], overlap: float) -> tuple[float, float]:
    """Return the interval of a mean: unknown for one difference, a point for several that are equal."""
    if len(differences) < 2:
        return -math.inf, math.inf
    if np.std(differences) == 0:
        return differences[0], differences[0]
    return mean_interval(differences, overlap, CONFIDENCE)


def judge_comparison(
    differences: Sequence[float],
    *,
    band: float,
    overlap: float,
    family: Sequence[float] = (),
    family_size: int = 1,
) -> Ruling:
    """Judge the claim that one side is better, by paired differences whose claimed sign is positive.

    Args:
        differences: One for each seed; better less worse.
        band: Differences within ± this are as good as none.
        overlap: Ratio of Nadeau and Bengio's correction; 0 where the images are fixed.
        family: P-values of the other comparisons that were planned together with this one.
        family_size: Number of all of them; those that have no p-value yet count as 1.

    Returns:
        *Reproduced* if Holm's p of the paired t-test is below 0.05 and the sign is the claimed one; *not
        reproduced* if it is the other one, or if the 95 % interval of the mean lies within the band;
        otherwise *not distinguishable*.
    """
    others = [*family, *[1.0] * (family_size - 1 - len(family))]
    test = corrected_paired_t_test(differences, overlap)
    p_value = holm([comparison_p_value(differences, overlap), *others])[0]
    low, high = _mean(differences, overlap)
    if p_value < SIGNIFICANT:
        verdict = ClaimVerdict.REPRODUCED if test.mean > 0 else ClaimVerdict.FAILED
    elif _within(low, high, band):
        verdict = ClaimVerdict.FAILED
    else:
        verdict = ClaimVerdict.UNDECIDED
    needed = None
    if verdict is ClaimVerdict.UNDECIDED and len(differences) > 1:
        strictest = SIGNIFICANT / max(1, family_size)  # Holm's first step

        def decided(n: np.ndarray) -> np.ndarray:
            error = test.std * np.sqrt(1 / n + overlap)
            significant = 2 * stats.t.sf(abs(test.mean) / error, n - 1) < strictest
            return significant | (abs(test.mean) + _t(n) * error <= band)

        needed = _fewest(decided, len(differences))
    flip = sign_flip_test(differences)
    return Ruling(verdict, test.mean, low, high, needed, p_value, flip)


def comparison_p_value(differences: Sequence[float], overlap: float) -> float:
    """Return the two-sided p of the paired t-test, corrected for overlapping images.

    Several equal differences other than zero have p = 0: the limit for a spread that vanishes.
    """
    test = corrected_paired_t_test(differences, overlap)
    return 0.0 if len(differences) > 1 and test.std == 0 and test.mean else test.p_value


def judge_equality(low: float, high: float, value: float, delta: float) -> Ruling:
    """Judge the claim that something is about zero, by its 95 % interval.

    It is *reproduced* if the interval lies within ±delta, *not reproduced* if it lies wholly outside, and
    *not distinguishable* otherwise: "not significant" is no proof of equality.
    """
    if _within(low, high, delta):
        verdict = ClaimVerdict.REPRODUCED
    elif low > delta + _ROUNDING or high < -delta - _ROUNDING:
        verdict = ClaimVerdict.FAILED
    else:
        verdict = ClaimVerdict.UNDECIDED
    return Ruling(verdict, value, low, high)


def judge_paired_equality(differences: Sequence[float], *, delta: float, overlap: float) -> Ruling:
    """Judge the claim that two sides are about equal, by paired differences; see ``judge_equality``."""
    low, high = _mean(differences, overlap)
    ruling = judge_equality(low, high, float(np.mean(differences)), delta)
    if ruling.verdict is not ClaimVerdict.UNDECIDED or len(differences) < 2:
        return ruling
    mean, std = ruling.value, float(np.std(differences, ddof=1))

    def decided(n: np.ndarray) -> np.ndarray:
        half = _t(n) * std * np.sqrt(1 / n + overlap)
        return (abs(mean) + half <= delta) | (abs(mean) - half > delta)

    return Ruling(ruling.verdict, mean, low, high, _fewest(decided, len(differences)))


def judge_spread(values: Sequence[float], *, delta: float) -> Ruling:
    """Judge the claim that values are about equal, by the interval of their standard deviation."""
    low, high = deviation_interval(values, CONFIDENCE)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return judge_equality(low, high, std, delta)


def judge_structure(value: float, published: float, half_digit: float) -> Ruling:
    """Judge a structural claim: equal, to the published digits, or not."""
    equal = abs(value - published) <= half_digit + _ROUNDING
    return Ruling(ClaimVerdict.REPRODUCED if equal else ClaimVerdict.FAILED, value, math.nan, math.nan)


def judge_share(share: float, wanted: float) -> Ruling:
    """Judge a statement by the share of resamples that bear it out.

    It is *reproduced* if at least the wanted share does, *not reproduced* if at least as many contradict it.
    """
    if share >= wanted - _ROUNDING:
        verdict = ClaimVerdict.REPRODUCED
    else:
        verdict = ClaimVerdict.FAILED if share <= 1 - wanted + _ROUNDING else ClaimVerdict.UNDECIDED
    return Ruling(verdict, share, math.nan, math.nan)


def _within(low: float, high: float, band: float) -> bool:
    return -band - _ROUNDING <= low and high <= band + _ROUNDING


def _t(counts: np.ndarray) -> np.ndarray:
    return np.asarray(stats.t.ppf((1 + CONFIDENCE) / 2, counts - 1))


def _fewest(decided: Callable[[np.ndarray], np.ndarray], present: int) -> int | None:
    """Return the smallest number of seeds that decides, if mean and spread stay as they are."""
    counts = np.arange(present + 1, MOST_SEEDS + 1)
    enough = counts[decided(counts)]
    return int(enough[0]) if len(enough) else None
