"""Finished trainings as the store has them: the one reader of what a training's run holds."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from lenet_study.errors import StoreError, UserError
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import Recipe
from lenet_study.tracking.manifest import Manifest, changes_of, fetch_file, load_manifest
from lenet_study.tracking.schema import FORMER_STAGES, File, Metric, Name, Tag
from lenet_study.tracking.store import NO_SUCH_THING, StoredRun, connect, find_runs, runs_with, store_call
from lenet_study.training.history import Epoch

ALL = 1_000_000  # runs; more than a store has


class StoredTraining:
    """A training's run, read; artifacts are fetched when they are asked for."""

    def __init__(self, run: StoredRun) -> None:
        self._run = run
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self.status: str = run.info.status
        self.start: int = run.info.start_time  # milliseconds since 1970
        self.params = {name: _unquoted(value) for name, value in run.data.params.items()}

    @classmethod
    def load(cls, run_id: str) -> Self:
        """Read the training of a run.

        Raises:
            StoreError: The store failed.
            UserError: It has no such run.
        """
        with store_call():
            try:
                return cls(mlflow.MlflowClient().get_run(run_id))
            except MlflowException as error:
                if error.error_code in NO_SUCH_THING:
                    cure = "copy the id from MLflow's UI"
                    raise UserError(f"run_id={run_id} names no run of this store: {cure}") from error
                raise

    @property
    def stage(self) -> str:
        """Kind of training, one of ``schema.STAGES``."""
        stage = self.tag(Tag.STAGE)
        return next((new for new, former in FORMER_STAGES.items() if former == stage), stage)

    @property
    def variant(self) -> str:
        """Name of the variant or searched model."""
        return self.tag(Tag.VARIANT)

    @property
    def seconds(self) -> float:
        """Wall time of the run."""
        return (self._run.info.end_time - self._run.info.start_time) / 1000

    @property
    def model_uri(self) -> str:
        """Address of its logged model."""
        models = self._run.outputs.model_outputs if self._run.outputs else []
        if not models:
            raise StoreError(f"Run {self.run_id} has no logged model: train it again")
        return f"models:/{models[0].model_id}"

    def image_count(self, context: str) -> int:
        """Return how many images a dataset input has, such as ``validation``; 0 if there is none."""
        for item in self._run.inputs.dataset_inputs if self._run.inputs else []:
            if any(tag.value == context for tag in item.tags):
                profile = json.loads(item.dataset.profile or "{}")
                return int(next(iter(profile.get("features_shape", ())), 0))
        return 0

    def tag(self, name: Name) -> str:
        """Return a tag's value; empty if the run has none."""
        return name.read(self._run.data.tags) or ""

    def metric(self, name: Name) -> float | None:
        """Return a metric's last value; None if the run has none."""
        return name.read(self._run.data.metrics)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with the run's seed and precision."""
        with store_call():
            files = {file.path for file in mlflow.MlflowClient().list_artifacts(self.run_id)}
        name = next((name for name in (File.RECIPE, *File.RECIPE.formerly) if name in files), None)
        if name is None:
            raise StoreError(f"Run {self.run_id} has no {File.RECIPE}: train it again")
        with self._fetched(name) as path:
            text = path.read_text(encoding="utf-8", errors="replace")
        recipe = recipe_file.loads(text, f"{name} of run {self.run_id}")
        precision: Any = self.params.get("precision", "float32")
        config = replace(recipe.config, seed=int(self.params["seed"]), precision=precision)
        return replace(recipe, config=config)

    @cached_property
    def history(self) -> tuple[Epoch, ...]:
        """All epochs, their numbers exactly as they were."""
        with self._fetched(File.HISTORY) as path:
            table = pd.read_csv(path).astype(object)
        records = table.where(table.notna(), None).to_dict("records")
        return tuple(Epoch(**{str(name): value for name, value in record.items()}) for record in records)

    @cached_property
    def manifest(self) -> Manifest | None:
        """What it has logged; None if it was killed, or was made before there were manifests."""
        return load_manifest(self._run)

    def changes(self) -> Iterator[str]:
        """Yield in words what the store holds otherwise than it was logged; raise as ``changes_of``."""
        return changes_of(self._run)

    def text(self, name: Name) -> str:
        """Return the content of a file in UTF-8; empty if the run has none of this name."""
        with store_call():
            if name not in {file.path for file in mlflow.MlflowClient().list_artifacts(self.run_id)}:
                return ""
        with self._fetched(name) as path:
            return path.read_text(encoding="utf-8")

    def digest(self, context: str) -> str:
        """Return the sum of the images of a split, such as ``validation``; empty if the run has none."""
        return self.tag(Name(Tag.DATASET_SHA256.format(context=context), ""))

    @contextmanager
    def _fetched(self, name: str) -> Iterator[Path]:
        """Yield a copy of one of its files, checked against its manifest, if it has one."""
        sums = self.manifest.files if self.status == "FINISHED" and self.manifest else {}
        with tempfile.TemporaryDirectory() as folder:
            yield fetch_file(self.run_id, name, Path(folder), sums.get(name))

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        number = self.metric(Metric.BEST_EPOCH)
        return next(epoch for epoch in self.history if epoch.epoch == number)


def _unquoted(value: str) -> str:
    """Return a param as its command got it: `mlflow run` stores it quoted for a shell, an empty one as ''."""
    try:
        words = shlex.split(value)
    except ValueError:  # half a quotation, which no quoting makes
        return value
    return words[0] if len(words) == 1 and shlex.quote(words[0]) == value else value


def finished_trainings(limit: int, variant: str = "", stage: str = "train") -> list[StoredTraining]:
    """Return finished trainings of any experiment, highest validation accuracy first.

    On a tie the variant that comes first, then the earliest. ``stage`` is ``train`` for trainings of the
    variants, ``recipe`` for those of recipe files.
    """
    connect()
    # MLflow's filters know no "or" over tags, so that each name of the stage has a query of its own.
    stages = [stage, *([FORMER_STAGES[stage]] if stage in FORMER_STAGES else [])]
    trainings = [StoredTraining(run) for name in stages for run in _finished(limit, variant, name)]

    def rank(training: StoredTraining) -> tuple[float, str]:
        return -(training.metric(Metric.BEST_VAL_ACCURACY) or 0.0), training.variant

    return sorted(trainings, key=rank)[:limit]  # MLflow takes seconds to order 10,000 runs by a tag


def trainings_named(name: str) -> list[StoredTraining]:
    """Return all finished trainings of a model's recipe on the training split, the latest first.

    Those of the variants are among them, of recipe files, and of searches' confirmations.
    """
    trainings = [
        training
        for stage in ("train", "recipe", "confirm")
        for training in finished_trainings(ALL, name, stage)
    ]
    return sorted(trainings, key=lambda training: training.start, reverse=True)


def evaluation_of(training: StoredTraining) -> StoredTraining | None:
    """Return the run of the latest finished evaluation of a training's model on the test split, if any."""
    tags: dict[str, str] = {Tag.STAGE: "evaluate", Tag.MODEL_RUN_ID: training.run_id}
    finished = [run for run in runs_with(tags) if run.info.status == "FINISHED"]
    sound = [run for run in finished if _same_weights(StoredTraining(run), training)]
    return StoredTraining(max(sound, key=lambda run: run.info.start_time)) if sound else None


def _same_weights(evaluation: StoredTraining, training: StoredTraining) -> bool:
    return evaluation.tag(Tag.WEIGHTS_SHA256) == training.tag(Tag.WEIGHTS_SHA256)


def _finished(limit: int, variant: str, stage: str) -> Sequence[StoredRun]:
    conditions = [
        "attributes.status = 'FINISHED'",
        f"tags.{Tag.STAGE} = '{stage}'",
        f"metrics.`{Metric.BEST_VAL_ACCURACY}` >= 0",
        *([f"tags.{Tag.VARIANT} = '{variant}'"] if variant else []),
    ]
    order = (f"metrics.`{Metric.BEST_VAL_ACCURACY}` DESC", "attributes.start_time ASC")
    return find_runs(conditions, limit, order)


def best_training(recipe: Recipe) -> StoredTraining | None:
    """Return the finished training of a recipe's model with the highest validation accuracy, if any."""
    stage = "recipe" if recipe.searched else "train"
    return next(iter(finished_trainings(1, recipe.name, stage)), None)
