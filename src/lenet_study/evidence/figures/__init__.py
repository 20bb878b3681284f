"""The study's pictures: arrays in, matplotlib Figure out; the caller saves them."""

from matplotlib.figure import Figure

from lenet_study.evidence.figures.charts import (
    COLOURS,
    augmentation,
    auxiliary,
    confusion_comparison,
    confusion_matrix,
    curves,
    learning_rate,
    predictions,
    tsne,
)

__all__ = [
    "COLOURS",
    "Figure",
    "augmentation",
    "auxiliary",
    "confusion_comparison",
    "confusion_matrix",
    "curves",
    "learning_rate",
    "predictions",
    "tsne",
]
