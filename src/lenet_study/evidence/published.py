"""The published study's figures, curves and predictions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def published_models() -> pd.DataFrame:
    """Return the published figures, one row per training."""
    return _table("published_models.csv")


def published_epochs() -> pd.DataFrame:
    """Return the published curves: a row per training and epoch.

    The columns are training, epoch, train_loss, train_accuracy, val_loss and val_accuracy (nats, 0..1); the
    last two are of augmented validation images, and NaN for the retraining. The trainings are those of
    ``published_models``, and the folds ``v4-fold1`` to ``v4-fold5``.
    """
    return _table("published_epochs.csv")


def published_predictions() -> pd.DataFrame:
    """Return the classes that the published weights predict: a row per test image, in file order.

    The columns are image, label, and each variant's predicted class as a number 0..9. The weights were scored
    on the clean test images; those of baseline, v2 and v3 are of the last epoch, not of the best.
    """
    return _table("published_predictions.csv")


def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name))
