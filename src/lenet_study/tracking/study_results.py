"""The results of a study as the store has them, in the tables that claims and the report read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from math import isfinite, nan

import pandas as pd

from lenet_study.errors import StudyError, UserError, one_line
from lenet_study.evidence.results import StudyResults
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking.schema import File, Metric, Name, Tag
from lenet_study.tracking.store import connect, find_runs
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.model import CLASSES

_TRAINING_METRICS = {
    "best_epoch": Metric.BEST_EPOCH,
    "train_accuracy": Metric.BEST_TRAIN_ACCURACY,
    "train_loss": Metric.BEST_TRAIN_LOSS,
    "val_accuracy": Metric.BEST_VAL_ACCURACY,
    "val_loss": Metric.BEST_VAL_LOSS,
    "val_accuracy_augmented": Metric.BEST_VAL_ACCURACY_AUGMENTED,
    "val_loss_augmented": Metric.BEST_VAL_LOSS_AUGMENTED,
    "parameter_count": Metric.PARAMETER_COUNT,
}
_EVALUATION_METRICS = {
    "test_accuracy": Metric.TEST_ACCURACY,
    "test_loss": Metric.TEST_LOSS,
    "auxiliary_first": Metric.AUXILIARY_FIRST,
    "auxiliary_second": Metric.AUXILIARY_SECOND,
    "auxiliary_agreement": Metric.AUXILIARY_AGREEMENT,
}
_HISTORY = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"]
_CLASS_COLUMNS = ("true", "predicted", "auxiliary_first", "auxiliary_second")
_STAGES = ("train", "retrain", "fold")
_PARAMS = ("epochs", "batch_size", "learning_rate", "auxiliary", "precision", "seed", "repeats", "folds")
_PROTOCOL = ("epochs", "batch_size", "learning_rate")  # that a training outside of the study must share
_FACTS: tuple[Name, ...] = (
    *(Tag.GIT_COMMIT, Tag.GIT_DIRTY, Tag.CODE_SHA256, Tag.REQUIREMENTS_SHA256, Tag.PACKAGES_SHA256),
    *(Tag.PYTHON, Tag.IMAGE, Tag.DEVICE, Tag.PROCESSOR, Tag.THREADS),
)
_LARGEST = 1e300  # MLflow's databases hold an infinite value as the largest number


def latest_study() -> str:
    """Return the run id of the study that began last; one that has finished goes before any other.

    Raises:
        UserError: The store has none.
        StoreError: The store failed.
    """
    connect()
    studies = find_runs([f"tags.{Tag.STAGE} = 'study'"], order_by=["attributes.start_time DESC"])
    if not studies:
        raise UserError("The store has no study: run `study` first, or set MLFLOW_TRACKING_URI")
    finished = [study for study in studies if study.info.status == "FINISHED"]
    return str([*finished, *studies][0].info.run_id)


def study_results(run_id: str) -> StudyResults:
    """Read all trainings and evaluations of a study.

    Its evaluations are all those of its trainings, whoever made them. Beside its own trainings there are
    those of the selected variant with untrained auxiliary heads, if the store has any that were otherwise
    trained as the study's: their stage is ``untrained``. Whatever is missing or damaged is named in
    ``missing``, and the rest is read.

    Raises:
        UserError: The run is not there, or is no study's.
        StoreError: The store failed.
    """
    connect()
    study = StoredTraining.load(run_id)
    if study.stage != "study":
        cure = "name the run of a study, or leave it out for the latest"
        raise UserError(f"run_id={run_id} is a run of stage {study.stage or 'unknown'}, no study: {cure}")
    return _Reading(study).results()


class _Reading:
    """One reading of a study; collects what is missing."""

    def __init__(self, study: StoredTraining) -> None:
        self.study = study
        self.missing: list[str] = []
        self._labels: list[str] | None = None  # of the test images, as the first evaluation has them

    def results(self) -> StudyResults:
        own = self._once(self._own_trainings())
        table = self._training_table(own)
        selected = _selected(table)
        companions = self._once(self._untrained(selected, {training.run_id for training in own}))
        if companions:
            table = pd.concat([table, self._training_table(companions, stage="untrained")])
        evaluations = self._evaluations(own + companions)
        self._name_missing(table, selected, {evaluation.tag(Tag.MODEL_RUN_ID) for evaluation in evaluations})
        predictions = {
            evaluation.tag(Tag.MODEL_RUN_ID): predicted
            for evaluation in evaluations
            if (predicted := self._predictions(evaluation)) is not None
        }
        histories = {
            training.run_id: history for training in own if (history := self._history(training)) is not None
        }
        return StudyResults(
            run_id=self.study.run_id,
            selected=selected,
            trainings=table,
            evaluations=self._evaluation_table(evaluations),
            histories=histories,
            predictions=predictions,
            missing=tuple(dict.fromkeys(self.missing)),
            facts=self._facts(own, evaluations),
        )

    def _own_trainings(self) -> Iterator[StoredTraining]:
        """Yield the finished trainings that belong to the study."""
        run_id = self.study.run_id
        for run in find_runs([f"tags.{Tag.STUDY} LIKE '%{run_id}%'"]):
            training = StoredTraining(run)
            if training.stage not in _STAGES or run_id not in training.tag(Tag.STUDY).split():
                continue
            if training.status == "FINISHED":
                yield training
            else:
                reason = training.tag(Tag.FAILURE_REASON)
                because = f" ({one_line(Exception(reason), 200)})" if reason else ""
                self.missing.append(
                    f"{training.name}, run {training.run_id}, is {training.status.lower()}{because}"
                )

    def _untrained(self, selected: str, own: set[str]) -> Iterator[StoredTraining]:
        """Yield trainings of the selected variant whose auxiliary heads are untrained, as published."""
        if not selected or self.study.params.get("auxiliary") == "untrained":
            return
        conditions = [
            "attributes.status = 'FINISHED'",
            f"tags.{Tag.STAGE} = 'train'",
            f"tags.{Tag.VARIANT} = '{selected}'",
            "params.auxiliary = 'untrained'",
        ]
        for training in map(StoredTraining, find_runs(conditions)):
            same = all(training.params.get(name) == self.study.params.get(name) for name in _PROTOCOL)
            if same and training.run_id not in own:
                yield training

    def _once(self, trainings: Iterable[StoredTraining]) -> list[StoredTraining]:
        """Return one training for each stage, variant, seed and fold: the latest."""
        kept: dict[tuple[object, ...], StoredTraining] = {}
        for training in sorted(trainings, key=lambda training: (training.start, training.run_id)):
            seed = training.params.get("seed", "")
            if not seed.isdigit():
                self.missing.append(f"Run {training.run_id} has no seed: train it again")
                continue
            key = (training.stage, training.variant, int(seed), _fold(training))
            if former := kept.pop(key, None):
                self.missing.append(
                    f"{training.name} with seed {seed} was trained more than once: run {training.run_id} "
                    f"counts, and run {former.run_id} does not"
                )
            kept[key] = training
        order = list(VARIANTS)

        def rank(key: tuple[object, ...]) -> tuple[object, ...]:
            stage, variant, *numbers = key
            known = order.index(str(variant)) if variant in VARIANTS else len(order)
            return _STAGES.index(str(stage)), known, variant, *numbers

        return [kept[key] for key in sorted(kept, key=rank)]

    def _evaluations(self, trainings: Sequence[StoredTraining]) -> list[StoredTraining]:
        """Return one evaluation of each training that has any: the study's own, else the earliest."""
        conditions = ["attributes.status = 'FINISHED'", f"tags.{Tag.STAGE} = 'evaluate'"]
        found = map(StoredTraining, find_runs(conditions))

        def rank(evaluation: StoredTraining) -> tuple[bool, int, str]:
            foreign = self.study.run_id not in evaluation.tag(Tag.STUDY).split()
            return foreign, evaluation.start, evaluation.run_id

        by_model: dict[str, StoredTraining] = {}
        for evaluation in sorted(found, key=rank):
            by_model.setdefault(evaluation.tag(Tag.MODEL_RUN_ID), evaluation)
        return [by_model[training.run_id] for training in trainings if training.run_id in by_model]

    def _training_table(self, trainings: Sequence[StoredTraining], stage: str = "") -> pd.DataFrame:
        """Return a row for each training; ``stage`` replaces that of its run."""
        rows = {
            training.run_id: {
                "stage": stage or training.stage,
                "variant": training.variant,
                "seed": int(training.params["seed"]),
                "fold": _fold(training),
                **self._metrics(training, _TRAINING_METRICS),
            }
            for training in trainings
        }
        return _frame(rows, ["stage", "variant", "seed", "fold", *_TRAINING_METRICS])

    def _evaluation_table(self, evaluations: Sequence[StoredTraining]) -> pd.DataFrame:
        rows = {
            evaluation.run_id: {
                "model_run_id": evaluation.tag(Tag.MODEL_RUN_ID),
                **self._metrics(evaluation, _EVALUATION_METRICS),
            }
            for evaluation in evaluations
        }
        return _frame(rows, ["model_run_id", *_EVALUATION_METRICS])

    def _metrics(self, run: StoredTraining, names: Mapping[str, Name]) -> dict[str, float]:
        return {column: self._metric(run, name) for column, name in names.items()}

    def _metric(self, run: StoredTraining, name: Name) -> float:
        """Return a metric, NaN if the run has none or it is not finite."""
        value = run.metric(name)
        if value is None:
            return nan
        if not isfinite(value) or abs(value) > _LARGEST:
            self.missing.append(f"{name} of run {run.run_id} is not finite: the model has diverged")
            return nan
        return value

    def _history(self, training: StoredTraining) -> pd.DataFrame | None:
        try:
            return pd.DataFrame([vars(epoch) for epoch in training.history])[_HISTORY].astype(float)
        except (StudyError, OSError, ValueError, TypeError, KeyError) as error:
            self._unreadable(File.HISTORY, training, error)
            return None

    def _predictions(self, evaluation: StoredTraining) -> pd.DataFrame | None:
        try:
            if not (text := evaluation.text(File.PREDICTIONS)):
                raise UserError("it has none: evaluate the model again")
            table = pd.read_csv(StringIO(text))
            for name in _CLASS_COLUMNS:
                if not table[name].isin(CLASSES).all():
                    raise ValueError(f"column {name} holds other words than the ten classes")
            self._labels = table["true"].tolist() if self._labels is None else self._labels
            if table["true"].tolist() != self._labels:
                raise ValueError("it is of other images than the first evaluation")
        except (StudyError, OSError, ValueError, TypeError, KeyError) as error:
            self._unreadable(File.PREDICTIONS, evaluation, error)
            return None
        return table

    def _unreadable(self, name: Name, run: StoredTraining, error: Exception) -> None:
        self.missing.append(f"{name} of run {run.run_id} ({run.name}) cannot be read: {one_line(error, 200)}")

    def _name_missing(self, trainings: pd.DataFrame, selected: str, evaluated: set[str]) -> None:
        """Note what the study's params announce and the store does not have."""
        params = self.study.params
        defaults = {"seed": 0, "repeats": 1, "folds": 0}
        first, repeats, folds = (_number(params.get(name), default) for name, default in defaults.items())
        seeds = range(first, first + repeats)
        named = [name for name in params.get("variants", "").split(",") if name]
        places = {tuple(row) for row in trainings[["stage", "variant", "seed", "fold"]].to_numpy().tolist()}
        wanted = [("train", variant, seed, 0) for variant in named or VARIANTS for seed in seeds]
        if selected:
            wanted += [("retrain", selected, seed, 0) for seed in seeds]
            wanted += [("fold", selected, first, fold) for fold in range(1, folds + 1)]
        for stage, variant, seed, fold in wanted:
            if (stage, variant, seed, fold) not in places:
                which = f"fold {fold}" if fold else f"seed {seed}"
                self.missing.append(f"There is no finished {stage} run of {variant}, {which}")
        evaluable = trainings["stage"].isin(["train", "retrain"])
        for run_id, row in trainings[evaluable & (trainings["variant"] == selected)].iterrows():
            if run_id not in evaluated:
                self.missing.append(
                    f"There is no evaluation of {selected}, {row['stage']}, seed {row['seed']} (run {run_id})"
                )

    def _facts(
        self, trainings: Sequence[StoredTraining], evaluations: Sequence[StoredTraining]
    ) -> dict[str, str]:
        """Return what identifies code, data and environment; several values are divided by commas."""
        facts = {str(tag): _values([self.study, *trainings, *evaluations], tag) for tag in _FACTS}
        retrained = [training for training in trainings if training.stage == "retrain"]  # on all images
        for context, runs in (("train", retrained), ("test", evaluations)):
            tag = Name(Tag.DATASET_SHA256.format(context=context), Tag.DATASET_SHA256.meaning)
            facts[str(tag)] = _values(runs, tag)
        facts |= {name: self.study.params.get(name, "") for name in _PARAMS}
        return {name: value for name, value in facts.items() if value}


def _values(runs: Iterable[StoredTraining], tag: Name) -> str:
    """Return a tag's values of several runs, each once."""
    return ", ".join(filter(None, dict.fromkeys(run.tag(tag) for run in runs)))


def _frame(rows: Mapping[str, Mapping[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("run_id")


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default


def _fold(training: StoredTraining) -> int:
    return _number(training.tag(Tag.FOLD), 0)


def _selected(trainings: pd.DataFrame) -> str:
    """Return the variant with the highest mean validation accuracy, the first on a tie; empty if none has."""
    accuracies = trainings[trainings["stage"] == "train"].dropna(subset=["val_accuracy"])
    means = accuracies.groupby("variant", sort=False)["val_accuracy"].mean()
    return str(means.idxmax()) if len(means) else ""
