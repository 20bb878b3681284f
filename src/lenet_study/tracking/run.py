"""An open MLflow run and the ways to write to it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow import entities
from mlflow.tracking.context.registry import resolve_tags

from lenet_study.tracking.provenance import freeze, provenance_tags
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import connect, prepare_experiment, store_errors, uninterrupted
from lenet_study.training.dataset import Split
from lenet_study.training.history import Epoch

SOURCE = "https://github.com/zalandoresearch/fashion-mnist"
EPOCH_METRICS = {
    "train_loss": Metric.TRAIN_LOSS,
    "train_accuracy": Metric.TRAIN_ACCURACY,
    "val_loss": Metric.VAL_LOSS,
    "val_accuracy": Metric.VAL_ACCURACY,
    "learning_rate": Metric.LEARNING_RATE,
    "seconds": Metric.EPOCH_SECONDS,
}
BEST_METRICS = {
    "epoch": Metric.BEST_EPOCH,
    "val_accuracy": Metric.BEST_VAL_ACCURACY,
    "val_loss": Metric.BEST_VAL_LOSS,
    "train_accuracy": Metric.BEST_TRAIN_ACCURACY,
    "train_loss": Metric.BEST_TRAIN_LOSS,
}


class Run:
    """An open MLflow run.

    Attributes:
        final_status: Its status once its work has ended without an exception.
    """

    def __init__(self, run: mlflow.entities.Run) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.final_status = "FINISHED"
        self._client = mlflow.MlflowClient()
        self._param_names = set(run.data.params)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params that the run does not have yet: `mlflow run` has stored the user's spelling."""
        new = {name: value for name, value in params.items() if name not in self._param_names}
        self._log_batch(params=[entities.Param(str(name), str(value)) for name, value in new.items()])
        self._param_names |= new.keys()

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; values become text."""
        self._log_batch(tags=[entities.RunTag(str(name), str(value)) for name, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log all metrics of one step at once; None is left out."""
        now = mlflow.utils.time.get_current_time_millis()
        present = {str(name): value for name, value in metrics.items() if value is not None}
        self._log_batch(metrics=[entities.Metric(name, value, now, step) for name, value in present.items()])

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch's metrics; the step is the epoch."""
        values = asdict(epoch)
        self.log_metrics({metric: values[name] for name, metric in EPOCH_METRICS.items()}, step=epoch.epoch)

    def log_best(self, best: Epoch) -> None:
        """Log what the best epoch gave as summary metrics."""
        values = asdict(best)
        self.log_metrics({metric: values[name] for name, metric in BEST_METRICS.items()})

    def log_figure(self, figure: Figure, name: str) -> None:
        """Save a picture among the run's artifacts."""
        with self._artifact(name) as path:
            figure.savefig(path, dpi=150)

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as CSV among the run's artifacts."""
        with self._artifact(name) as path:
            table.to_csv(path, index=False)

    def log_text(self, text: str, name: str) -> None:
        """Save a text among the run's artifacts."""
        with self._artifact(name) as path:
            path.write_text(text, encoding="utf-8")

    def log_dataset(self, split: Split, context: str) -> None:
        """Log a split as a dataset input.

        MLflow's digests hold 36 characters: they get the first 32 of the SHA-256, its tag gets all 64.
        """
        digest = split.digest()
        dataset = mlflow.data.from_numpy(
            split.images.numpy(), source=SOURCE, name=f"fashion-mnist-{context}", digest=digest[:32]
        )
        tags = [entities.InputTag("mlflow.data.context", context), entities.InputTag("sha256", digest)]
        logged = entities.DatasetInput(dataset._to_mlflow_entity(), tags)
        with uninterrupted():
            self._client.log_inputs(self.id, datasets=[logged])
        self.set_tags({Tag.DATASET_SHA256.format(context=context): digest})

    def prune(self, reason: str) -> None:
        """Write down why a search ended this training early; the run then ends KILLED."""
        self.final_status = "KILLED"
        self.set_tags({Tag.PRUNED: reason})

    def _log_batch(self, **batch: Any) -> None:
        with uninterrupted():
            self._client.log_batch(self.id, **batch)

    @contextmanager
    def _artifact(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            yield path
            with uninterrupted():
                self._client.log_artifact(self.id, str(path))


@contextmanager
def open_run(
    name: str,
    *,
    stage: str,
    params: Mapping[str, object],
    tags: Mapping[str, object] | None = None,
    description: str = "",
    study: str = "",
    parent: str = "",
    system_metrics: bool = False,
) -> Iterator[Run]:
    """Open a run; under `mlflow run` the process's first run is the one that the project has made.

    The run ends FINISHED, KILLED (interrupted, terminated, or pruned) or FAILED (any other exception, whose
    message becomes the tag ``error``).

    Args:
        name: Shown in MLflow's lists and legends.
        stage: One of ``schema.STAGES``.
        params: Logged as they are.
        tags: Further tags.
        description: Shown on the run's page (Markdown).
        study: Id of the study's run that this run belongs to.
        parent: Id of the run to nest this one under.
        system_metrics: Sample processor, memory and disk while the run is open.

    Raises:
        StoreError: The tracking server or its store failed.
    """
    connect()
    optional = {Tag.DESCRIPTION: description, Tag.STUDY: study, Tag.PARENT_RUN: parent}
    all_tags: dict[str, object] = {Tag.STAGE: stage, **provenance_tags(), **(tags or {})}
    all_tags |= {tag: value for tag, value in optional.items() if value}
    run, status = None, "FAILED"
    with store_errors():
        try:
            with uninterrupted():
                run = _start(name, all_tags, parent or study, system_metrics)
            run.set_tags(all_tags)
            run.log_params(params)
            run.log_text(freeze(), File.ENVIRONMENT)
            yield run
            status = run.final_status
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except Exception as error:
            if run:
                run.set_tags({Tag.ERROR: " ".join(str(error).split())[:5000]})
            raise
        finally:
            if run:
                with uninterrupted():
                    mlflow.end_run(status)


def _start(name: str, tags: Mapping[str, object], surrounding: str, system_metrics: bool) -> Run:
    """Create a run in the experiment of the surrounding one, or adopt that of `mlflow run`; activate it."""
    run_id = os.environ.get("MLFLOW_RUN_ID", "")
    experiment_id = prepare_experiment(surrounding, adopted=run_id)
    os.environ.pop("MLFLOW_RUN_ID", None)
    if not run_id:
        resolved = resolve_tags({str(tag): str(value) for tag, value in tags.items()})
        run_id = mlflow.MlflowClient().create_run(experiment_id, run_name=name, tags=resolved).info.run_id
    return Run(mlflow.start_run(run_id, run_name=name, nested=True, log_system_metrics=system_metrics))
