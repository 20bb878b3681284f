"""Calibration against published values, other libraries, and simulated models of known calibration."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from lenet_study.evidence.calibration import (
    brier_score,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)

# The example of torchmetrics' MulticlassCalibrationError: three bins, the first of them empty.
CONFIDENCE, CORRECT = np.array([0.55, 0.55, 0.60, 0.90]), np.array([False, False, True, True])


def model(count=20_000, seed=0, sharpness=1.0):
    """Logits of a model, and classes drawn from its probabilities before the logits are sharpened."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, size=(count, 10))
    labels = (random.uniform(size=(count, 1)) > softmax(logits, axis=1).cumsum(1)).sum(1)
    return sharpness * logits, labels


def confidence_of(logits, labels):
    return softmax(logits, axis=1).max(1), logits.argmax(1) == labels


@pytest.mark.parametrize(("norm", "expected"), [("l1", 0.2000), ("l2", 0.2082), ("max", 0.2333)])
def test_errors_are_those_of_torchmetrics(norm, expected):
    table = reliability(CONFIDENCE, CORRECT, bins=3)
    assert calibration_error(table, norm) == pytest.approx(expected, abs=5e-5)


def test_the_table_of_a_diagram():
    table = reliability(CONFIDENCE, CORRECT, bins=3)
    assert list(table["images"]) == [3, 1]
    assert list(table["low"]) == pytest.approx([1 / 3, 2 / 3])
    assert list(table["high"]) == pytest.approx([2 / 3, 1])
    assert list(table["confidence"]) == pytest.approx([1.7 / 3, 0.9])
    assert list(table["accuracy"]) == pytest.approx([1 / 3, 1])
    assert list(table["gap"]) == pytest.approx([1 / 3 - 1.7 / 3, 0.1])


def test_an_end_belongs_to_the_bin_below_it():
    table = reliability(np.array([0.0, 0.2, 0.2000001, 1.0]), np.array([0, 1, 1, 1]), bins=5)
    assert list(table["low"]) == pytest.approx([0, 0.2, 0.8])
    assert list(table["images"]) == [2, 1, 1]


def test_bins_of_equal_mass_have_as_many_images():
    confidence = np.random.default_rng(0).permutation(np.linspace(0.1, 1, 150) ** 0.2)
    table = reliability(confidence, confidence > 0.5, binning="mass")
    assert list(table["images"]) == [10] * 15
    assert (table["low"][1:].to_numpy() == table["high"][:-1].to_numpy()).all()


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_the_order_of_images_does_not_matter(binning):
    confidence = np.repeat([0.3, 0.5, 1.0], [10, 20, 70])  # the last fills many bins of equal mass
    correct = np.arange(100) % 3 > 0
    shuffled = np.random.default_rng(0).permutation(100)
    table = reliability(confidence, correct, binning=binning)
    again = reliability(confidence[shuffled], correct[shuffled], binning=binning)
    assert table.to_numpy() == pytest.approx(again.to_numpy())
    assert table["images"].sum() == 100


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_equal_confidences_are_one_bin(binning):
    table = reliability(np.full(8, 0.7), np.arange(8) < 5, binning=binning)
    assert len(table) == 1
    assert calibration_error(table) == pytest.approx(0.7 - 5 / 8)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_a_calibrated_model_has_next_to_no_error_and_an_overconfident_one_has(binning):
    calibrated = calibration_error(reliability(*confidence_of(*model()), binning=binning))
    sharpened = calibration_error(reliability(*confidence_of(*model(sharpness=2)), binning=binning))
    assert calibrated < 0.015
    assert sharpened > 0.1


def test_norms_are_ordered():
    table = reliability(*confidence_of(*model(500, sharpness=1.5)))
    l1, l2, largest = (calibration_error(table, norm) for norm in ("l1", "l2", "max"))
    assert l1 < l2 < largest


def test_scores_are_those_of_scikit_learn():
    logits, labels = model(300)
    probabilities = softmax(logits, axis=1)
    assert negative_log_likelihood(logits, labels) == pytest.approx(log_loss(labels, probabilities))
    assert negative_log_likelihood(logits, labels, 2.0) == pytest.approx(
        log_loss(labels, softmax(logits / 2, axis=1))
    )
    several = brier_score_loss(labels, probabilities, scale_by_half=False)
    assert brier_score(probabilities, labels) == pytest.approx(several)


@pytest.mark.parametrize(("truth", "score"), [(0, 0.0), (1, 2.0)])
def test_the_ends_of_brier_s_score(truth, score):
    assert brier_score(np.array([[1.0, 0.0, 0.0]]), np.array([truth])) == score


def test_logits_that_softmax_cannot_hold_have_a_likelihood():
    logits = np.array([[1000.0, 0.0]], dtype=np.float32)
    assert negative_log_likelihood(logits, np.array([1])) == 1000
    assert log_softmax(logits)[0, 0] == 0


@pytest.mark.parametrize("sharpness", [0.5, 1, 3])
def test_the_temperature_undoes_the_sharpening(sharpness):
    logits, labels = model(sharpness=sharpness)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(sharpness, rel=0.03)
    fitted = negative_log_likelihood(logits, labels, temperature)
    for other in (0.98 * temperature, 1.02 * temperature):
        assert fitted < negative_log_likelihood(logits, labels, other)


def test_the_temperature_of_a_model_that_is_always_right_has_a_bound():
    assert 0.01 <= fit_temperature(np.eye(10), np.arange(10)) < 0.1
