"""An open MLflow run and the ways to write to it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow import entities
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.time import get_current_time_millis

from lenet_study.errors import DiskError, StoreError, UserError, one_line
from lenet_study.evidence.export import file_digest
from lenet_study.tracking.delivery import Delivery
from lenet_study.tracking.liveness import HEARTBEAT_SECONDS, heartbeat, process_tags
from lenet_study.tracking.manifest import Manifest, load_manifest, sha256_of
from lenet_study.tracking.notes import neighbours, with_links
from lenet_study.tracking.operations import DeliveredModel
from lenet_study.tracking.provenance import provenance_files, provenance_tags
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.spool import Spool
from lenet_study.tracking.store import (
    adopted_run,
    connect,
    prepare_experiment,
    signals_held,
    spool_folder,
    store_address,
    store_errors,
    uninterrupted,
)
from lenet_study.tracking.system_metrics import sampled
from lenet_study.training.dataset import Split
from lenet_study.training.history import Epoch

SOURCE = "https://github.com/zalandoresearch/fashion-mnist"
PATIENCE = 60.0  # seconds that a run's end waits for a store that takes nothing
SIGNAL_PATIENCE = 5.0  # seconds after a signal that all ends wait: the process is to end within 10
LEAST_PATIENCE = 0.5  # seconds that each of them has for a store that answers
Message = Callable[[str], None]
_open: list[Run] = []  # the innermost last


def to_stderr(line: str) -> None:
    """Print a line for the user."""
    print(line, file=sys.stderr, flush=True)


class Run:
    """An open MLflow run.

    Operations that write go into a spool on disk; a thread delivers them to the store, for which the work
    never waits. A run whose operation the store has refused raises StoreError when it is written to next.
    """

    def __init__(
        self,
        run: mlflow.entities.Run,
        delivery: Delivery,
        message: Message = to_stderr,
        *,
        resumed: bool = False,
    ) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.resumed = resumed
        self.former_tags: Mapping[str, str] = run.data.tags  # as it was opened
        self.final_status = "FINISHED"  # once its work has ended without an exception
        self.steps: dict[str, set[int]] = {}  # that a resumed run has of each metric
        self.delivery = delivery
        self._message: Message = message
        self._told = False  # that the store is away
        self.manifest = Manifest(params={**run.data.params})
        self.manifest.add_tags(run.data.tags)
        self._summary: list[list[object]] = []  # rows of step 0

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params that have a value, in the order in which MLflow's page lists them.

        What the run has already stays: `mlflow run` has stored the user's spelling.
        """
        present = self.manifest.params
        valued = {str(name): str(value) for name, value in params.items() if value not in (None, "")}
        new = {name: value for name, value in valued.items() if name not in present}
        self._write(kind="batch", params=new)
        self.manifest.add_params(new)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; values become text."""
        texts = {str(name): str(value) for name, value in tags.items()}
        self._write(kind="batch", tags=texts)
        self.manifest.add_tags(texts)

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log all metrics of one step at once; None is left out, and what a resumed run has of that step."""
        now = get_current_time_millis()  # the delivery may be later, and happen twice
        rows: list[list[object]] = [
            [str(name), float(value), now, step]
            for name, value in metrics.items()
            if value is not None and step not in self.steps.get(name, ())
        ]
        self._summary += [] if step else rows
        self._write(kind="batch", metrics=rows)
        self.manifest.add_metrics(rows)

    @property
    def has_metrics(self) -> bool:
        """Whether it has logged a metric of its own work, which samples of the computer are not."""
        return bool(self.manifest.metrics)

    def log_result(self, metrics: Mapping[str, float | None]) -> None:
        """Log what a piece of work has found, as a further step in a run that had found something else."""
        new = {
            str(name): value
            for name, value in metrics.items()
            if value is not None and self.manifest.last(str(name)) != value
        }
        present = [step for name in new for step in self.steps.get(name, ())]
        self.log_metrics(new, step=max(present, default=-1) + 1)

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
        with self._adding(kind="artifact", name=name) as folder:
            figure.savefig(folder / name, dpi=150)

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as CSV among the run's artifacts."""
        self.log_text(table.to_csv(index=False), name)

    def log_text(self, text: str, name: str) -> None:
        """Save a text among the run's artifacts."""
        with self._adding(kind="artifact", name=name) as folder:
            (folder / name).write_text(text, encoding="utf-8")

    def log_dataset(self, split: Split, context: str) -> None:
        """Log a split as a dataset input.

        MLflow's digests hold 36 characters: they get the first 32 of the SHA-256, its tag gets all 64.
        """
        digest, name = split.digest(), f"fashion-mnist-{context}"
        dataset = mlflow.data.from_numpy(split.images.numpy(), source=SOURCE, name=name, digest=digest[:32])
        tags = {"mlflow.data.context": context, "sha256": digest}
        self._write(kind="dataset", dataset=dataset._to_mlflow_entity().to_dictionary(), tags=tags)
        self.manifest.add_dataset(name, digest[:32], tags)
        self.set_tags({Tag.DATASET_SHA256.format(context=context): digest})

    def log_model(
        self, files: Path, tags: Mapping[str, str], *, register: bool, patience: float = PATIENCE
    ) -> DeliveredModel | None:
        """Log a model, and wait for its delivery.

        Args:
            files: Folder of the saved model.
            tags: Of its registered version.
            register: Whether to make it a version of the registered model.
            patience: Seconds without a delivered operation after which not to wait any longer.

        Returns:
            Where the store has it; None if it is still to be delivered.
        """
        content = {
            "experiment_id": self.experiment_id,
            "params": self.manifest.params,
            "metrics": self._summary,
            "tags": tags,
            "register": register,
        }
        with self._adding(kind="model", **content) as folder:
            shutil.copytree(files, folder / File.MODEL)
        self.delivery.wait(patience)
        self.delivery.check()
        return self.delivery.model

    def prune(self, reason: str) -> None:
        """Write down why a search ended this training early; the run then ends KILLED."""
        self.final_status = "KILLED"
        self.set_tags({Tag.PRUNED: reason})

    def end(self, status: str, failure: Mapping[str, str], silence: float, total: float) -> None:
        """Write down how the run ended, and wait for its delivery; say what could not be delivered.

        Args:
            status: FINISHED, KILLED or FAILED.
            failure: Tags that tell why it did not finish.
            silence: Seconds without a delivered operation after which not to wait any longer.
            total: Seconds to wait at most.
        """
        content = {"kind": "end", "status": status, "end_time": get_current_time_millis()}
        spool = self.delivery.spool
        spool.free_reserve()
        try:
            with signals_held():  # or the run would have no end
                self._add_end({**content, "tags": {**failure, **self._add_manifest()}})
            self.delivery.finish(silence, total)
        except (KeyboardInterrupt, SystemExit):  # a signal that came later than the work
            self.delivery.finish(silence, SIGNAL_PATIENCE)
            raise
        finally:
            if count := len(spool):
                self._message(
                    f"{count} operations of run {self.id} wait in {spool.folder}, because the store took none"
                    f" ({self.delivery.outage or 'it is slow'}): `sync` delivers them"
                )

    def _add_manifest(self) -> dict[str, str]:
        """Add the manifest's file; return the tag that holds its sum, or nothing where there is no room."""
        if self.delivery.model:
            self.manifest.tags[Tag.MODEL_SHA256] = self.delivery.model.sha256
        text = self.manifest.dumps()
        try:
            with self.delivery.spool.add({"kind": "artifact", "name": File.MANIFEST}) as folder:
                (folder / File.MANIFEST).write_text(text, encoding="utf-8")
        except (OSError, StoreError):
            return {}
        return {Tag.MANIFEST_SHA256: sha256_of(text)}

    def _add_end(self, content: Mapping[str, object]) -> None:
        try:
            with self.delivery.spool.add(content):
                pass
        except OSError:  # no room for it: the store may be elsewhere
            with suppress(Exception):
                mlflow.MlflowClient().set_terminated(self.id, str(content["status"]))

    def _write(self, **content: object) -> None:
        with self._adding(**content):
            pass

    @contextmanager
    def _adding(self, **content: object) -> Iterator[Path]:
        """Add an operation to the spool; the files written into the folder yielded belong to it."""
        sums: dict[str, str] = {}
        with self.delivery.spool.add(content) as folder:
            yield folder
            if content["kind"] == "artifact":
                name = str(content["name"])
                sums[name] = file_digest(folder / name)
        self.manifest.files |= sums
        self.delivery.notify()
        in_main_thread = threading.current_thread() is threading.main_thread()  # reporters belong to it
        if in_main_thread and self.delivery.outage and not self._told:
            self._told = True
            self._message(
                f"The store is away ({self.delivery.outage}): the work goes on, and what it writes waits in "
                f"{self.delivery.spool.folder}"
            )


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
    message: Message = to_stderr,
    patience: float = PATIENCE,
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
        message: Hears of a store that is away.
        patience: Seconds that the run's end waits for a store that takes nothing.
    """
    connect()
    optional = {Tag.DESCRIPTION: description, Tag.STUDY: study, Tag.PARENT_RUN: parent}
    origin = provenance_tags()
    all_tags: dict[str, object] = {Tag.STAGE: stage, **origin, **process_tags(), **(tags or {})}
    all_tags |= {tag: value for tag, value in optional.items() if value}
    run, status, total = None, "FAILED", float("inf")
    failure: dict[str, str] = {}
    surrounding = parent or study or (_open[-1].id if _open else "")
    with store_errors():
        try:
            with uninterrupted():
                run = _start(name, all_tags, surrounding, resume, message)
                _open.append(run)  # before a signal that came meanwhile is raised
            run.log_params(params)
            for file, text in provenance_files(origin).items():
                run.log_text(text, file)
            sampling = sampled(run) if system_metrics else nullcontext()
            with keep_alive(run), sampling, store_errors():  # before the reason is written down
                yield run
            status = run.final_status
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            stopped = not isinstance(error, Exception)
            status = "KILLED" if stopped else "FAILED"
            if stopped or isinstance(error, DiskError):
                waited = monotonic() - getattr(error, "time", monotonic())  # by a run nested in this one
                total = max(LEAST_PATIENCE, SIGNAL_PATIENCE - waited)
            reason = "stopped by a signal; `resume` goes on" if stopped else one_line(error, 5000)
            failure = {Tag.FAILURE_KIND: type(error).__name__, Tag.FAILURE_REASON: reason}
            raise
        finally:
            if run:
                _open.remove(run)
                run.end(status, failure, patience, total)
        run.delivery.check()


def _start(name: str, tags: Mapping[str, object], surrounding: str, resume: str, message: Message) -> Run:
    """Create a run in the experiment of the surrounding one, adopt that of `mlflow run`, or resume one."""
    client = mlflow.MlflowClient()
    texts = {str(tag): str(value) for tag, value in tags.items()}
    adopted = None if resume else adopted_run(texts.get(Tag.FINGERPRINT, ""))
    if adopted and Tag.STAGE in adopted.data.tags:
        resume = adopted.info.run_id
    run_id = adopted.info.run_id if adopted else resume
    former: Manifest | None = None
    experiment_id = prepare_experiment(surrounding, adopted=run_id)
    if note := with_links(texts.get(Tag.DESCRIPTION, ""), neighbours(experiment_id, texts, run_id)):
        texts[Tag.DESCRIPTION] = note
    os.environ.pop("MLFLOW_RUN_ID", None)
    if not run_id:
        run = client.create_run(experiment_id, run_name=name, tags=resolve_tags(texts))
        delivery = _delivery(run.info.run_id, name)
    else:
        delivery = _delivery(run_id, name)
        while delivery.deliver_next():  # what an interrupted process has left
            pass
        former = _former_manifest(client, run_id) if resume else None  # before the tag of its sum goes
        run = _reopen(client, run_id, name, texts, resumed=bool(resume))
    opened = Run(run, delivery, message, resumed=bool(resume))
    if resume:
        opened.manifest.files |= former.files if former else {}
        names = [name for name in run.data.metrics if not name.startswith("system/")]
        for name in names:
            points = client.get_metric_history(run_id, name)
            opened.steps[name] = {point.step for point in points}
            # With their times: the model's rows are the run's own then, not further ones.
            rows = [[name, point.value, point.timestamp, point.step] for point in points]
            opened._summary += [row for row in rows if not row[-1]]
            opened.manifest.add_metrics(rows)
    delivery.start()
    return opened


def _former_manifest(client: mlflow.MlflowClient, run_id: str) -> Manifest | None:
    """Return the manifest that a run wrote when it was stopped; a damaged one is made anew."""
    with suppress(UserError):
        return load_manifest(client.get_run(run_id))
    return None


def _delivery(run_id: str, name: str) -> Delivery:
    """Return the delivery of a run's operations; without room for them, the run has failed."""
    try:
        return Delivery(
            Spool(spool_folder() / run_id, {"run_id": run_id, "name": name, "store": store_address()})
        )
    except OSError:
        mlflow.MlflowClient().set_terminated(run_id, "FAILED")
        raise


def _reopen(
    client: mlflow.MlflowClient, run_id: str, name: str, tags: dict[str, str], *, resumed: bool
) -> entities.Run:
    """Make a run of the store one that this process works on, at once: others must see whose it is."""
    former = client.get_run(run_id).data.tags
    if resumed:
        tags = {**tags, Tag.RESUMED: str(int(former.get(Tag.RESUMED, "0")) + 1)}
    client.log_batch(run_id, tags=[entities.RunTag(*row) for row in tags.items()])
    outdated = (Tag.FAILURE_KIND, Tag.FAILURE_REASON, Tag.FAILED, Tag.PROMOTION_REFUSED, Tag.MANIFEST_SHA256)
    for tag in outdated:
        if resumed and tag in former:
            client.delete_tag(run_id, tag)
    client.update_run(run_id, "RUNNING", name)
    return client.get_run(run_id)


@contextmanager
def keep_alive(run: Run, seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Renew a run's heartbeat every so many seconds: other hosts count a silent run as abandoned."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):  # the store is away; a heartbeat that is late is worth nothing
                mlflow.MlflowClient().set_tag(run.id, Tag.PROCESS_HEARTBEAT, heartbeat())

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
