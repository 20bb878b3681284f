"""Statistical tests against published results."""

import math

import numpy as np
import pytest
from scipy import stats

from lenet_study.evidence.statistics import corrected_paired_t_test, mcnemar, paired_difference

# R's data set `sleep` (Student 1908): extra hours of sleep of ten patients under two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = [one - two for one, two in zip(FIRST, SECOND, strict=True)]


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
