"""The results of a study, as claims and the report read them: plain tables, no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class StudyResults:
    """All trainings and evaluations of one study.

    Attributes:
        run_id: Of the study's run.
        selected: Variant with the highest mean validation accuracy over the seeds.
        trainings: One row per finished training, index ``run_id``: stage (`train`, `retrain`, `fold`),
            variant, seed, fold (0 for none), best_epoch, train_accuracy, train_loss, val_accuracy, val_loss,
            val_accuracy_augmented, val_loss_augmented, parameter_count; NaN for what a stage does not have.
        evaluations: One row per evaluation on the test split, index ``run_id``: model_run_id, test_accuracy,
            test_loss, auxiliary_first, auxiliary_second, auxiliary_agreement.
        histories: Epochs by training: epoch, train_loss, train_accuracy, val_loss, val_accuracy,
            learning_rate.
        predictions: Rows per test image by the evaluated training, as ``predictions.csv`` has them.
        missing: What could not be read, or is not there yet, in sentences.
        facts: Name and value of what identifies code, data and environment.
    """

    run_id: str
    selected: str
    trainings: pd.DataFrame
    evaluations: pd.DataFrame
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    predictions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
