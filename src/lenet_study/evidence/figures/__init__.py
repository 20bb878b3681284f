"""The study's pictures: arrays in, matplotlib Figure out; the caller saves them."""

from matplotlib.figure import Figure

from lenet_study.evidence.figures.evaluation_charts import (
    auxiliary,
    confusion_comparison,
    confusion_matrix,
    predictions,
    tsne,
)
from lenet_study.evidence.figures.style import COLOURS
from lenet_study.evidence.figures.training_curves import augmentation, curves, learning_rate

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
