"""Statistical tests against published results."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lenet_study.evidence.statistics import (
    EXACT_PAIRS,
    corrected_paired_t_test,
    exact_interval,
    holm,
    interval_half_width,
    is_equivalent,
    mcnemar,
    mean_interval,
    paired_difference,
    prediction_interval,
    share_above_zero,
    sign_flip_test,
    t_prediction_interval,
    wilson_interval,
)

# R's data set `sleep` (Student 1908): extra hours of sleep of ten patients under two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = [one - two for one, two in zip(FIRST, SECOND, strict=True)]
# Darwin's pairs of maize plants, differences in eighths of an inch (Fisher 1935, The Design of Experiments).
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_without_correction_it_is_student_s_paired_t_test():
    """R: t.test(extra ~ group, data = sleep, paired = TRUE)."""
    test = corrected_paired_t_test(SLEEP, ratio=0)
    assert test.statistic == pytest.approx(-4.062128, abs=1e-6)
    assert test.p_value == pytest.approx(0.002833, abs=1e-6)
    assert (test.mean, test.std) == pytest.approx((-1.58, 1.229995), abs=1e-6)


def test_the_correction_widens_the_variance():
    """Of the same data with validation splits of a fifth of the images."""
    test = corrected_paired_t_test(SLEEP, ratio=0.25)
    assert test.statistic == pytest.approx(-2.1713, abs=1e-4)
    assert test.p_value == pytest.approx(0.05799, abs=1e-5)


def test_swapping_the_sides_flips_the_sign_alone():
    test, swapped = (corrected_paired_t_test(sign * np.array(SLEEP), 0.25) for sign in (1, -1))
    assert swapped.statistic == -test.statistic
    assert swapped.p_value == test.p_value


def test_the_one_sided_test_is_half_of_the_two_sided_one():
    better = [-difference for difference in SLEEP]
    two_sided = corrected_paired_t_test(better, 0.25).p_value
    assert corrected_paired_t_test(better, 0.25, "greater").p_value == pytest.approx(two_sided / 2)
    assert corrected_paired_t_test(SLEEP, 0.25, "greater").p_value == pytest.approx(1 - two_sided / 2)


@pytest.mark.parametrize("differences", [[0.3], [0.0, 0.0], [0.25, 0.25, 0.25]])
def test_one_pair_or_pairs_that_do_not_vary_prove_nothing(differences):
    test = corrected_paired_t_test(differences, 0.25, "greater")
    assert test.mean == differences[0]
    assert test.std == 0
    assert np.isnan(test.statistic)
    assert test.p_value == 1


def test_p_is_uniform_where_there_is_no_difference():
    """Differences of independent pairs, so without correction."""
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    p_values = [corrected_paired_t_test(row, ratio=0).p_value for row in draws]
    assert stats.kstest(p_values, "uniform").pvalue > 0.05


@pytest.mark.parametrize("size", [2, 3, 10])
def test_plain_tests_agree_with_scipy(size):
    differences = np.random.default_rng(size).normal(0.3, 1, size)
    for alternative in ("two-sided", "greater"):
        expected = stats.ttest_1samp(differences, 0, alternative=alternative)
        test = corrected_paired_t_test(differences, 0, alternative)
        assert (test.statistic, test.p_value) == pytest.approx((expected.statistic, expected.pvalue))


# ---- intervals of seeds ----


def test_the_interval_of_a_mean_is_that_of_r():
    assert mean_interval(SLEEP) == pytest.approx((-2.459886, -0.700114), abs=1e-6)


@pytest.mark.parametrize("ratio", [0, 0.25])
def test_the_interval_holds_zero_where_the_test_finds_nothing(ratio):
    draws = np.random.default_rng(0).normal(0.5, 1, size=(200, 8))
    for row in draws:
        low, high = mean_interval(row, ratio)
        assert (low <= 0 <= high) == (corrected_paired_t_test(row, ratio).p_value >= 0.05)


def test_the_correction_widens_the_interval_around_the_same_mean():
    plain, corrected = mean_interval(SLEEP), mean_interval(SLEEP, 0.25)
    assert sum(corrected) == pytest.approx(sum(plain))
    assert np.ptp(corrected) / np.ptp(plain) == pytest.approx(math.sqrt((1 / 10 + 0.25) / (1 / 10)))


def test_swapping_the_sides_mirrors_the_interval():
    low, high = mean_interval(SLEEP, 0.25)
    assert mean_interval([-value for value in SLEEP], 0.25) == pytest.approx((-high, -low))


@pytest.mark.parametrize("differences", [[0.3], [0.0, 0.0], [0.25, 0.25, 0.25]])
def test_one_pair_or_pairs_that_do_not_vary_have_no_interval(differences):
    assert np.isnan(mean_interval(differences)).all()
    assert not is_equivalent(mean_interval(differences), 1)


def test_intervals_cover_the_true_mean_often_enough():
    draws = np.random.default_rng(1).normal(0.3, 1, size=(2000, 6))
    intervals = np.array([mean_interval(row) for row in draws])
    assert np.mean((intervals[:, 0] <= 0.3) & (intervals[:, 1] >= 0.3)) >= 0.93


def test_a_prediction_interval_has_the_published_value():
    assert t_prediction_interval(22, 13.71, 3.55) == pytest.approx((6.16, 21.26), abs=0.005)


def test_a_prediction_interval_of_values_is_that_of_their_mean_and_deviation():
    expected = t_prediction_interval(10, np.mean(SLEEP), np.std(SLEEP, ddof=1))
    assert prediction_interval(SLEEP) == pytest.approx(expected)
    assert np.isnan(prediction_interval([0.9])).all()
    assert prediction_interval([0.9, 0.9, 0.9]) == pytest.approx((0.9, 0.9))


def test_a_prediction_interval_covers_the_next_value_often_enough():
    draws = np.random.default_rng(2).normal(size=(2000, 6))
    intervals = np.array([prediction_interval(row[:5]) for row in draws])
    assert np.mean((intervals[:, 0] <= draws[:, 5]) & (intervals[:, 1] >= draws[:, 5])) >= 0.93


def test_a_higher_confidence_widens_every_interval():
    widths = [
        [interval_half_width(5, 1.0, ratio, confidence) for confidence in (0.8, 0.9, 0.99)]
        for ratio in (0, 0.25, 1)
    ]
    assert (np.diff(widths) > 0).all()
    assert (np.diff(widths, axis=0) > 0).all()


def test_equivalent_is_an_interval_within_the_margin():
    assert is_equivalent((-0.001, 0.0019), 0.002)
    assert not is_equivalent((-0.001, 0.002), 0.002)
    assert not is_equivalent((-0.003, 0.001), 0.002)


# ---- signs of seeds ----


def test_the_sign_flip_test_has_fisher_s_value():
    """863 of 32,768 patterns have as large a sum, and as many as small a one."""
    assert sign_flip_test(MAIZE) == 2 * 863 / 2**15


@pytest.mark.parametrize("count", [1, 2, 3, 6, 11])
def test_the_sign_flip_test_agrees_with_enumeration(count):
    differences = np.random.default_rng(count).normal(0.5, 1, count)
    signs = np.array(list(itertools.product((1, -1), repeat=count)))
    sums = np.abs((signs * differences).sum(1))
    assert sign_flip_test(differences) == np.mean(sums >= sums[0] - 1e-9)


def test_the_sign_flip_test_agrees_with_scipy():
    differences = np.random.default_rng(0).normal(0.3, 1, 12)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_test(differences) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 1), (3, 0.25), (5, 0.0625), (10, 2 / 2**10)])
def test_the_smallest_p_of_so_many_seeds(seeds, smallest):
    assert sign_flip_test(np.arange(1, seeds + 1)) == smallest


def test_ties_of_decimal_fractions_are_ties():
    """To a computer 0.1 + 0.2 - 0.3 is not 0: equal sums would be counted or not as they are rounded."""
    assert sign_flip_test([0.1, 0.2, 0.1]) == sign_flip_test([1, 2, 1]) == 0.25
    assert sign_flip_test([0.3, 0.1, -0.2]) == sign_flip_test([3, 1, -2]) == 0.75


def test_no_difference_at_all_has_p_1():
    assert sign_flip_test([0.0, 0.0, 0.0]) == 1
    assert sign_flip_test([0.0] * (EXACT_PAIRS + 1)) == 1


def test_swapping_the_sides_leaves_the_sign_flip_test():
    assert sign_flip_test([-value for value in SLEEP]) == sign_flip_test(SLEEP)


def test_many_pairs_are_drawn_the_same_each_time_and_near_the_exact_value():
    differences = np.random.default_rng(5).normal(0.25, 1, EXACT_PAIRS)
    exact = sign_flip_test(differences)
    drawn = sign_flip_test([*differences, 0.0])  # a difference of zero changes no sum
    assert drawn == sign_flip_test([*differences, 0.0])
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 99_999))
    assert sign_flip_test(np.ones(30)) == 1 / 100_000  # never 0


def test_the_sign_flip_test_is_uniform_where_there_is_no_difference():
    """Whatever the law of the differences: here Cauchy's, which has no mean."""
    draws = np.random.default_rng(0).standard_cauchy(size=(1000, 10))
    p_values = [sign_flip_test(row) for row in draws]
    assert stats.kstest(p_values, "uniform").pvalue > 0.05


def test_the_share_of_seeds_counts_no_tie():
    share = share_above_zero([0.1, 0.2, 0.0, -0.1])
    assert (share.count, share.total) == (2, 4)
    assert (share.low, share.high) == exact_interval(2, 4)


# ---- several tests ----


def test_holm_s_p_values():
    """The first two are significant at 0.05, the third is not."""
    assert holm([0.016, 0.019, 0.607]) == pytest.approx([0.048, 0.048, 0.607])
    assert holm([0.607, 0.016, 0.019]) == pytest.approx([0.607, 0.048, 0.048])


def test_holm_s_p_values_of_r():
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_holm_keeps_the_order_and_makes_no_p_smaller():
    for row in np.random.default_rng(0).uniform(size=(50, 7)):
        adjusted = np.array(holm(row))
        assert (adjusted >= row).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(row)]) >= 0).all()
        assert (adjusted <= np.minimum(7 * row, 1) + 1e-12).all()  # Bonferroni's
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


# ---- one model on images ----


@pytest.mark.parametrize(
    ("correct", "total", "exact", "wilson"),
    [
        (81, 263, (0.2527, 0.3676), (0.2553, 0.3662)),
        (0, 20, (0, 0.1684), (0, 0.1611)),
        (1, 29, (0.0009, 0.1776), (0.0061, 0.1718)),
    ],
)
def test_intervals_of_an_accuracy_are_the_published_ones(correct, total, exact, wilson):
    """R. Newcombe, Statistics in Medicine 17, 1998, 857-872, table I."""
    assert exact_interval(correct, total) == pytest.approx(exact, abs=5e-5)
    assert wilson_interval(correct, total) == pytest.approx(wilson, abs=5e-5)


def test_the_exact_interval_is_never_too_narrow():
    low, high = np.transpose([exact_interval(correct, 40) for correct in range(41)])
    for accuracy in np.linspace(0.01, 0.99, 50):
        covered = (low <= accuracy) & (accuracy <= high)
        assert stats.binom.pmf(np.arange(41), 40, accuracy)[covered].sum() >= 0.95


# ---- two models on the same images ----


def test_mcnemar_s_exact_test_has_the_published_values():
    """The first is of mlxtend's own tests of its exact McNemar test."""
    assert mcnemar(121, 59).p_value == pytest.approx(4.434449e-06, abs=1e-12)
    assert mcnemar(25, 15).p_value == pytest.approx(0.15386, abs=1e-5)
    test = mcnemar(11, 1)
    assert (test.p_value, test.mid_p_value) == pytest.approx((0.00634766, 0.00341797), abs=1e-8)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (2, 7), (9, 1)])
def test_mcnemar_agrees_with_enumeration(first, second):
    count = first + second
    tail = sum(math.comb(count, k) for k in range(min(first, second) + 1)) / 2**count
    at = math.comb(count, first) / 2**count
    test, swapped = mcnemar(first, second), mcnemar(second, first)
    assert test.p_value == pytest.approx(min(1, 2 * tail))
    assert test.mid_p_value == pytest.approx(min(1, 2 * tail - at) if count else 1)
    assert (swapped.p_value, swapped.mid_p_value) == (test.p_value, test.mid_p_value)


def test_newcombe_s_interval_has_the_published_value():
    """Table II of his article, method 10."""
    result = paired_difference(14, 5, 0, 22)
    assert result.difference == pytest.approx(0.1220, abs=1e-4)
    assert (result.low, result.high) == pytest.approx((0.0115, 0.2265), abs=1e-4)


def test_swapping_the_models_mirrors_the_interval():
    result, swapped = paired_difference(40, 7, 3, 10), paired_difference(40, 3, 7, 10)
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx(
        (-result.difference, -result.high, -result.low)
    )


@pytest.mark.parametrize("counts", [(40, 0, 0, 0), (0, 0, 0, 40), (0, 40, 0, 0)])
def test_models_that_are_always_right_or_never_have_an_interval(counts):
    result = paired_difference(*counts)
    assert -1 <= result.low <= result.difference <= result.high <= 1


def test_the_interval_covers_the_true_difference_often_enough():
    chances = np.array([0.85, 0.04, 0.06, 0.05])  # both, first only, second only, neither
    draws = np.random.default_rng(0).multinomial(500, chances, size=1000)
    intervals = [paired_difference(*map(int, row)) for row in draws]
    assert np.mean([result.low <= -0.02 <= result.high for result in intervals]) >= 0.93
