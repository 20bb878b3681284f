"""The number of seeds that a comparison needs, against published tables and simulation."""

import numpy as np
import pytest

from lenet_study.evidence.planning import SEEDS_LIMIT, power_of_t_test, seeds_to_detect, seeds_to_narrow
from lenet_study.evidence.statistics import corrected_paired_t_test, interval_half_width


def test_the_power_is_that_of_g_power():
    """Its manual's example of matched pairs: dz 0.421637, 50 pairs."""
    assert power_of_t_test(0.421637, 1.0, 50) == pytest.approx(0.832114, abs=1e-6)


@pytest.mark.parametrize(
    ("effect", "power", "seeds"), [(0.2, 0.8, 199), (0.5, 0.8, 34), (0.8, 0.8, 15), (0.5, 0.9, 44)]
)
def test_the_seeds_for_cohen_s_small_medium_and_large_effects(effect, power, seeds):
    assert seeds_to_detect(effect, 1.0, power=power) == seeds
    assert seeds_to_detect(-effect / 10, 0.1, power=power) == seeds


def test_the_power_is_the_share_of_simulated_tests_that_find_the_difference():
    draws = np.random.default_rng(0).normal(1.2, 1, size=(2000, 6))
    found = np.mean([corrected_paired_t_test(row, 0).p_value < 0.05 for row in draws])
    assert found == pytest.approx(power_of_t_test(1.2, 1.0, 6), abs=0.03)


def test_without_a_difference_the_power_is_the_share_of_false_alarms():
    assert power_of_t_test(0.0, 1.0, 9) == pytest.approx(0.05)


def test_a_difference_far_above_the_spread_is_found():
    assert power_of_t_test(1000.0, 1.0, 500) == 1
    assert seeds_to_detect(1000.0, 1.0) == 2


def test_overlapping_splits_need_more_seeds_and_may_never_do():
    assert seeds_to_detect(1.5, 1.0) < seeds_to_detect(1.5, 1.0, ratio=0.25)
    assert seeds_to_detect(1.0, 1.0, ratio=0.25) is None


@pytest.mark.parametrize(("difference", "std"), [(0.0, 1.0), (0.5, 0.0), (1e-6, 1.0)])
def test_no_number_of_seeds_finds_no_difference_or_is_known_without_a_spread(difference, std):
    assert seeds_to_detect(difference, std) is None


@pytest.mark.parametrize("ratio", [0, 0.25])
def test_the_first_number_of_seeds_whose_interval_is_narrow_enough(ratio):
    seeds = seeds_to_narrow(1.2, 1.0, ratio)
    assert interval_half_width(seeds, 1.0, ratio) <= 1.2 < interval_half_width(seeds - 1, 1.0, ratio)


def test_some_intervals_never_are():
    assert seeds_to_narrow(1.9, 1.0, ratio=1) is None  # another value varies, however well the mean is known
    assert seeds_to_narrow(0.01, 1.0) is None
    assert seeds_to_narrow(0.01, 0.0) is None
    assert 900 < seeds_to_narrow(0.063, 1.0) <= SEEDS_LIMIT
