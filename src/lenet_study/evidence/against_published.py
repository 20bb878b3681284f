"""Our models against the published weights, on the same test images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lenet_study.evidence.comparison import OnImages
from lenet_study.evidence.published import published_predictions
from lenet_study.evidence.results import StudyResults
from lenet_study.training.model import CLASSES

COLUMNS = (
    *("variant", "seed", "ours", "published", "ours_only", "published_only"),
    *("p_value", "mid_p_value", "difference", "low", "high"),
)


def against_published(results: StudyResults) -> pd.DataFrame:
    """Compare each evaluated training of a variant with that variant's published weights, image by image.

    McNemar's test speaks of two trained models, not of two recipes: every training has a row of its own. The
    published weights of baseline, v2 and v3 are those of the last epoch.

    Returns:
        A row for each training, index ``run_id``: variant, seed, both accuracies, the numbers of images that
        one alone has right, McNemar's exact and mid p, and the difference, ours less theirs, with Newcombe's
        95 % interval. Trainings whose predictions are of other images have none.
    """
    published, names = published_predictions(), np.array(CLASSES)
    labels = names[published["label"]]
    rows = {}
    trained = results.trainings[results.trainings["stage"] == "train"]
    for run_id, training in trained.iterrows():
        table, variant = results.predictions.get(str(run_id)), str(training["variant"])
        if table is None or variant not in published or len(table) != len(labels):
            continue
        if not (table["true"].to_numpy() == labels).all():
            continue
        ours, theirs = table["predicted"].to_numpy() == labels, names[published[variant]] == labels
        rows[run_id] = (variant, training["seed"], *_compare(ours, theirs))
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS).rename_axis("run_id")


def _compare(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, ...]:
    """Return the figures of two models from which images each has right."""
    images = OnImages.of(ours, theirs)
    test, interval = images.test, images.difference
    figures = (*images.accuracies, images.first_only, images.second_only, test.p_value, test.mid_p_value)
    return (*figures, interval.difference, interval.low, interval.high)
