"""Intervals of unpaired differences and of deviations."""

import math

import numpy as np
import pytest

from lenet_study.evidence.intervals import deviation_interval, welch_interval


def test_welch_s_interval_has_the_published_value():
    """R: t.test(extra ~ group, data = sleep)."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert welch_interval(first, second) == pytest.approx((-3.3654832, 0.2054832), abs=1e-6)
    low, high = welch_interval(second, first)
    assert (-high, -low) == pytest.approx(welch_interval(first, second))


def test_a_single_value_has_no_spread_and_equal_ones_have_none():
    assert welch_interval([1.0], [1.0, 2.0]) == (-math.inf, math.inf)
    assert welch_interval([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0)
    assert deviation_interval([1.0]) == (0.0, math.inf)
    assert deviation_interval([1.0, 1.0]) == (0.0, 0.0)


def test_the_deviation_s_interval_covers_the_true_one():
    draws = np.random.default_rng(0).normal(size=(500, 5))
    intervals = [deviation_interval(row) for row in draws]
    assert np.mean([low <= 1 <= high for low, high in intervals]) >= 0.93
