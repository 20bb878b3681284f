"""An open MLflow run and the ways to write to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from sqlalchemy.exc import SQLAlchemyError

from lenet_study.errors import UserError
from lenet_study.tracking.liveness import HEARTBEAT_SECONDS, heartbeat, process_tags
from lenet_study.tracking.provenance import freeze, provenance_tags
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import connect, prepare_experiment, store_errors, uninterrupted
from lenet_study.training.dataset import Split
from lenet_study.training.history import Epoch

SOURCE = "https://github.com/zalandoresearch/fashion-mnist"


class Run:
    """An open MLflow run."""

    def __init__(self, run: mlflow.entities.Run, *, resumed: bool = False) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.resumed = resumed
        self.final_status = "FINISHED"  # once its work has ended without an exception
        self._client = mlflow.MlflowClient()
        self._param_names = set(run.data.params)
        self._steps: dict[str, set[int]] = {}  # that a resumed run has of each metric

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params that the run does not have yet: `mlflow run` has stored the user's spelling."""
        new = {name: value for name, value in params.items() if name not in self._param_names}
        self._log_batch(params=[entities.Param(str(name), str(value)) for name, value in new.items()])
        self._param_names |= new.keys()

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; values become text."""
        self._log_batch(tags=[entities.RunTag(str(name), str(value)) for name, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log all metrics of one step at once; None is left out, and what a resumed run has of that step."""
        now = mlflow.utils.time.get_current_time_millis()
        present = {
            str(name): value
            for name, value in metrics.items()
            if value is not None and not (self.resumed and step in self._steps_of(name))
        }
        self._log_batch(metrics=[entities.Metric(name, value, now, step) for name, value in present.items()])

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch's metrics; the step is the epoch."""
        metrics: dict[str, float | None] = {
            Metric.TRAIN_LOSS: epoch.train_loss,
            Metric.TRAIN_ACCURACY: epoch.train_accuracy,
            Metric.VAL_LOSS: epoch.val_loss,
            Metric.VAL_ACCURACY: epoch.val_accuracy,
            Metric.LEARNING_RATE: epoch.learning_rate,
            Metric.EPOCH_SECONDS: epoch.seconds,
        }
        self.log_metrics(metrics, step=epoch.epoch)

    def log_best(self, best: Epoch) -> None:
        """Log what the best epoch gave as summary metrics."""
        metrics: dict[str, float | None] = {
            Metric.BEST_EPOCH: best.epoch,
            Metric.BEST_VAL_ACCURACY: best.val_accuracy,
            Metric.BEST_VAL_LOSS: best.val_loss,
            Metric.BEST_TRAIN_ACCURACY: best.train_accuracy,
            Metric.BEST_TRAIN_LOSS: best.train_loss,
        }
        self.log_metrics(metrics)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Save a picture among the run's artifacts."""
        with uninterrupted():
            self._client.log_figure(self.id, figure, name, save_kwargs={"dpi": 150})

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as CSV among the run's artifacts."""
        self.log_text(table.to_csv(index=False), name)

    def log_text(self, text: str, name: str) -> None:
        """Save a text among the run's artifacts."""
        with uninterrupted():
            self._client.log_text(self.id, text, name)

    def log_dataset(self, split: Split, context: str) -> None:
        """Log a split as a dataset input.

        MLflow's digests hold 36 characters: they get the first 32 of the SHA-256, its tag gets all 64.
        """
        digest, name = split.digest(), f"fashion-mnist-{context}"
        dataset = mlflow.data.from_numpy(split.images.numpy(), source=SOURCE, name=name, digest=digest[:32])
        tags = [entities.InputTag("mlflow.data.context", context), entities.InputTag("sha256", digest)]
        logged = entities.DatasetInput(dataset._to_mlflow_entity(), tags)
        with uninterrupted():
            self._client.log_inputs(self.id, datasets=[logged])
        self.set_tags({Tag.DATASET_SHA256.format(context=context): digest})

    def _steps_of(self, metric: str) -> set[int]:
        """Return the steps that the store has of a metric: MLflow would store one logged twice twice."""
        if metric not in self._steps:
            self._steps[metric] = {point.step for point in self._client.get_metric_history(self.id, metric)}
        return self._steps[metric]

    def prune(self, reason: str) -> None:
        """Write down why a search ended this training early; the run then ends KILLED."""
        self.final_status = "KILLED"
        self.set_tags({Tag.PRUNED: reason})

    def _log_batch(self, **batch: Any) -> None:
        with uninterrupted():
            self._client.log_batch(self.id, **batch)


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
    resume: str = "",
) -> Iterator[Run]:
    """Open a run; under `mlflow run` the process's first run is the one that the project has made.

    The run ends FINISHED, KILLED (interrupted, terminated, or pruned) or FAILED (any other exception, whose
    message becomes the tag ``failure.reason``).

    Args:
        name: Shown in MLflow's lists and legends.
        stage: One of ``schema.STAGES``.
        params: Logged as they are.
        tags: Further tags.
        description: Shown on the run's page (Markdown).
        study: Id of the study's run that this run belongs to.
        parent: Id of the run to nest this one under.
        system_metrics: Sample processor, memory and disk while the run is open.
        resume: Id of an interrupted run to go on with; empty opens a new one.
    """
    connect()
    optional = {Tag.DESCRIPTION: description, Tag.STUDY: study, Tag.PARENT_RUN: parent}
    all_tags: dict[str, object] = {Tag.STAGE: stage, **provenance_tags(), **process_tags(), **(tags or {})}
    all_tags |= {tag: value for tag, value in optional.items() if value}
    run, status = None, "FAILED"
    with store_errors():
        try:
            with uninterrupted():
                run = _start(name, all_tags, parent or study, system_metrics, resume)
            run.set_tags(all_tags)
            run.log_params(params)
            run.log_text(freeze(), File.ENVIRONMENT)
            with keep_alive(run):
                yield run
            status = run.final_status
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            stopped = not isinstance(error, Exception)
            status = "KILLED" if stopped else "FAILED"
            if run:
                message = " ".join(str(error).split())[:5000]
                _record_failure(run, error, "stopped by a signal; `resume` goes on" if stopped else message)
            raise
        finally:
            if run:
                with uninterrupted():
                    mlflow.end_run(status)


def _start(name: str, tags: Mapping[str, object], surrounding: str, system_metrics: bool, resume: str) -> Run:
    """Create a run in the experiment of the surrounding one, adopt that of `mlflow run`, or resume one."""
    client = mlflow.MlflowClient()
    run_id = resume or _adopted(client)
    experiment_id = prepare_experiment(surrounding, adopted=run_id)
    os.environ.pop("MLFLOW_RUN_ID", None)
    if not run_id:
        resolved = resolve_tags({str(tag): str(value) for tag, value in tags.items()})
        run_id = client.create_run(experiment_id, run_name=name, tags=resolved).info.run_id
    active = mlflow.start_run(run_id, run_name=name, nested=True, log_system_metrics=system_metrics)
    run = Run(active, resumed=bool(resume))
    if resume:
        run.set_tags({Tag.RESUMED: int(active.data.tags.get(Tag.RESUMED, "0")) + 1})
        for tag in (Tag.FAILURE_KIND, Tag.FAILURE_REASON):
            if tag in active.data.tags:
                client.delete_tag(run_id, tag)
    return run


@contextmanager
def keep_alive(run: Run, seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Renew a run's heartbeat every so many seconds: other hosts count a silent run as abandoned."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):  # the store is away: the work itself finds out and says so
                run.set_tags({Tag.PROCESS_HEARTBEAT: heartbeat()})

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _record_failure(run: Run, error: BaseException, reason: str) -> None:
    """Write down why a run did not finish, unless the store itself has failed."""
    with suppress(MlflowException, SQLAlchemyError):
        run.set_tags({Tag.FAILURE_KIND: type(error).__name__, Tag.FAILURE_REASON: reason})


def _adopted(client: mlflow.MlflowClient) -> str:
    """Return the id of the run that `mlflow run` has made for this process; empty if there is none."""
    if not (run_id := os.environ.get("MLFLOW_RUN_ID", "")):
        return ""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"MLFLOW_RUN_ID={run_id} names no run of this store: unset it") from error
    if Tag.STAGE in run.data.tags or run.info.status != "RUNNING":
        raise UserError(
            f"MLFLOW_RUN_ID={run_id} names a run that has been used already: unset it, or let `resume` go on "
            "with that run, if it was interrupted"
        )
    return run_id
