"""The published study's figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def published_models() -> pd.DataFrame:
    """Return the published figures, one row per training."""
    return pd.read_csv(Path(__file__).with_name("published_models.csv"))


def published_epochs() -> pd.DataFrame:
    """Return the published curves: a row per training and epoch; validated on augmented images."""
    return pd.read_csv(Path(__file__).with_name("published_epochs.csv"))
