"""The published study's figures."""

from __future__ import annotations

from importlib import resources

import pandas as pd


def published_models() -> pd.DataFrame:
    """Return the published figures, one row per training."""
    with resources.files("lenet_study.evidence").joinpath("published_models.csv").open() as file:
        return pd.read_csv(file)
