"""Calibration: whether images with a probability of 0.9 are classified correctly nine times in ten.

Confidence is the probability of the predicted class. All functions take NumPy arrays over N images.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15  # of Guo et al. 2017
_TEMPERATURES = (1 / 100, 100.0)


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, binning: Literal["width", "mass"] = "width"
) -> pd.DataFrame:
    """Return the table of a reliability diagram: a row per bin that has images.

    Bins of equal width are those of C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    Bins of equal mass have quantiles of the confidence as their ends: the error is then less biased
    (R. Roelofs et al., "Mitigating bias in calibration error estimation", AISTATS 2022). Images with equal
    confidence are in one bin, so that the order of images does not matter; there may be fewer bins then.

    Args:
        confidence: Of the predicted class, 0..1.
        correct: Whether the predicted class is the true one.
        bins: Number of bins.
        binning: Whether bins are equally wide, or have equally many images.

    Returns:
        Ends ``low`` (exclusive, but for the first) and ``high`` of each bin, number of ``images``, their mean
        ``confidence`` and ``accuracy``, and the difference ``gap`` of these two.
    """
    ends = np.linspace(0, 1, bins + 1)
    if binning == "mass":
        ends = np.unique(np.quantile(confidence, ends))
        ends = ends if len(ends) > 1 else np.repeat(ends, 2)  # all confidences are equal
    rows = pd.DataFrame(
        {"bin": np.searchsorted(ends[1:-1], confidence), "confidence": confidence, "accuracy": correct}
    ).astype({"accuracy": float})
    table = rows.groupby("bin").agg(
        images=("accuracy", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )
    table.insert(0, "low", ends[table.index])
    table.insert(1, "high", ends[table.index + 1])
    table["gap"] = table["accuracy"] - table["confidence"]
    return table.reset_index(drop=True)


def calibration_error(table: pd.DataFrame, norm: Literal["l1", "l2", "max"] = "l1") -> float:
    """Return the distance between accuracy and confidence over the bins of a ``reliability`` table.

    The norms are torchmetrics': ``l1``, the expected calibration error, is the mean over images of their
    bin's absolute gap, ``l2`` the root of the mean square, ``max`` the largest gap, however few images its
    bin has. torchmetrics itself closes bins at their lower end, so that a confidence of 1 has its own.
    """
    gaps, shares = table["gap"].abs(), table["images"] / table["images"].sum()
    if norm == "max":
        return float(gaps.max())
    return float((shares * gaps).sum()) if norm == "l1" else float((shares * gaps**2).sum() ** 0.5)


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean squared distance of probabilities float [N, K] from the true classes int [N], 0..2.

    G. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950;
    with two classes it is twice what is called by that name for a single probability.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy, in nats, of logits float [N, K] divided by a temperature."""
    scores = log_softmax(np.asarray(logits, dtype=float) / temperature, axis=1)
    return float(-scores[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature, 0.01 to 100, by which to divide logits for the smallest cross-entropy.

    Guo et al. 2017, section 4.2. Above 1 the model was too confident. The predicted classes stay as they are.

    Args:
        logits: float [N, K] of validation images: fitted on test images, the test would be no test.
        labels: Their true classes, int [N].
    """

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(logits, labels, float(np.exp(logarithm)))

    # The loss is convex in 1 / T, as log-sum-exp is, so that it has one minimum on the logarithm's axis, too.
    found = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
