"""Values of a study that claims are about: by metric, variant and kind of training, with their runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from lenet_study.evidence.comparison import OVERLAP
from lenet_study.evidence.results import StudyResults
from lenet_study.recipes.variants import Variant, multiply_adds, parameter_count

Stage = Literal["train", "retrain", "fold", "untrained"]
STAGE_WORDS = {
    "train": "trained",
    "retrain": "retrained on all training images",
    "fold": "trained on the folds",
    "untrained": "trained with auxiliary=untrained",
}
LAST_EPOCHS = 5  # of the curve, in which its steps are measured
EVALUATE = "mlflow run . -e evaluate -P model={run_id} --env-manager local"


@dataclass(frozen=True)
class Measure:
    """A metric that a claim may name."""

    meaning: str
    unit: Literal["share", "nats", "epochs", "count", "millions"]
    source: Literal["training", "evaluation", "history", "variant"]
    overlap: float = 0.0  # ratio of ``corrected_paired_t_test``: 0 where all seeds share their images

    @property
    def better(self) -> int:
        """The sign of a better value: a lower loss, a higher accuracy."""
        return -1 if self.unit == "nats" else 1

    def text(self, value: float) -> str:
        """Return a value in words."""
        if self.unit == "share":
            return f"{100 * min(1.0, max(0.0, value)):.2f} %"  # an interval may end beyond
        if self.unit == "count":
            return f"{value:,.0f}"
        digits, name = {"nats": (4, ""), "epochs": (1, ""), "millions": (2, " million")}[self.unit]
        return f"{value:.{digits}f}{name}"

    def difference(self, value: float) -> str:
        """Return a difference of two values in words."""
        if self.unit == "share":
            return f"{100 * value:+.2f} points"
        return f"{value:+.1f} epochs" if self.unit == "epochs" else f"{value:+.4f}"


MEASURES = {
    "best_epoch": Measure("best epoch", "epochs", "training"),
    "train_accuracy": Measure("training accuracy", "share", "training", OVERLAP),
    "train_loss": Measure("training loss", "nats", "training", OVERLAP),
    "val_accuracy": Measure("validation accuracy", "share", "training", OVERLAP),
    "val_accuracy_augmented": Measure(
        "validation accuracy on augmented images", "share", "training", OVERLAP
    ),
    "val_loss": Measure("validation loss", "nats", "training", OVERLAP),
    "val_loss_augmented": Measure("validation loss on augmented images", "nats", "training", OVERLAP),
    "test_accuracy": Measure("test accuracy", "share", "evaluation"),
    "test_loss": Measure("test loss", "nats", "evaluation"),
    "auxiliary_agreement": Measure("agreement of the auxiliary heads", "share", "evaluation"),
    "val_loss_step": Measure(
        f"mean step of the validation loss over the last {LAST_EPOCHS} epochs", "nats", "history", OVERLAP
    ),
    "parameter_count": Measure("parameters", "count", "variant"),
    "multiply_adds": Measure("multiply-adds", "millions", "variant"),
    "halve_learning_rate_every": Measure("epochs between halvings", "epochs", "variant"),
}
OF_VARIANT: dict[str, Callable[[Variant], float]] = {
    "parameter_count": parameter_count,
    "multiply_adds": lambda variant: multiply_adds(variant) / 1e6,
    "halve_learning_rate_every": lambda variant: float(variant.halve_learning_rate_every or 0),
}


@dataclass(frozen=True)
class Sample:
    """The values of one metric over seeds, or over the folds of one cross-validation."""

    values: pd.Series  # index: seeds, or numbers of folds
    run_ids: tuple[str, ...]  # in the same order; of trainings
    missing: tuple[str, ...] = ()  # in sentences
    commands: tuple[str, ...] = ()  # that make what is missing, without the claim's own


def trainings_of(results: StudyResults, variant: str, stage: str) -> pd.DataFrame:
    """Return the trainings of a kind, one for each seed, or each fold of the first seed."""
    stored = "train" if stage == "untrained" and heads_untrained(results) else stage
    table = results.trainings
    table = table[(table["variant"] == variant) & (table["stage"] == stored)]
    if stage == "fold":
        table = table[table["seed"] == table["seed"].min()]
    key = _key(stage)
    return table.sort_values(key, kind="stable").drop_duplicates(key, keep="last")


def heads_untrained(results: StudyResults) -> bool:
    """Whether the study's auxiliary heads are the initial ones, as published."""
    return results.facts.get("auxiliary") == "untrained"


def sample(results: StudyResults, variant: str, stage: str, metric: str) -> Sample:
    """Return the values of a metric over seeds or folds, and what of them is missing."""
    rows, key = trainings_of(results, variant, stage), _key(stage)
    if metric == "auxiliary_agreement" and stage == "train" and heads_untrained(results):
        rows = rows.iloc[:0]  # the heads have learnt nothing
    source = MEASURES[metric].source
    values = _values(results, rows, metric).astype(float)
    lacking = rows.loc[values.isna(), key]
    what = "evaluation" if source == "evaluation" else metric
    missing = [f"{what} of {variant}, {STAGE_WORDS[stage]}, {key} {number}" for number in lacking]
    commands = [EVALUATE.format(run_id=run_id) for run_id in lacking.index] if source == "evaluation" else []
    present = values.dropna()
    return Sample(
        values=pd.Series(present.to_numpy(), index=rows.loc[present.index, key].astype(int).to_numpy()),
        run_ids=tuple(present.index),
        missing=(*_missing_trainings(results, rows, variant, stage), *missing),
        commands=tuple(commands),
    )


def _key(stage: str) -> str:
    return "fold" if stage == "fold" else "seed"


def _values(results: StudyResults, rows: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric of trainings by their run ids, NaN where it is missing."""
    source = MEASURES[metric].source
    if source == "history":
        steps = {run_id: _mean_step(results.histories.get(run_id)) for run_id in rows.index}
        return pd.Series(steps, index=rows.index, dtype=float)
    if source == "evaluation":
        by_model = results.evaluations.drop_duplicates("model_run_id", keep="last").set_index("model_run_id")
        return by_model[metric].reindex(rows.index)
    return rows[metric]


def _mean_step(history: pd.DataFrame | None) -> float:
    """Return how far the validation loss moves from one epoch to the next, at the end of a training."""
    if history is None or len(history) <= LAST_EPOCHS:
        return np.nan
    losses = history.sort_values("epoch")["val_loss"].to_numpy(dtype=float)
    return float(np.abs(np.diff(losses[-LAST_EPOCHS - 1 :])).mean())


def _missing_trainings(results: StudyResults, rows: pd.DataFrame, variant: str, stage: str) -> list[str]:
    """Return what a study that is complete would have beside these trainings."""
    if rows.empty:
        return [f"{variant}, {STAGE_WORDS[stage]}"]
    if stage not in ("train", "retrain"):
        return []
    seeds = results.trainings.loc[results.trainings["stage"] == "train", "seed"]
    lacking = sorted({*seeds} - {*rows["seed"]})
    return [f"{variant}, {STAGE_WORDS[stage]}, seed {seed}" for seed in lacking]
