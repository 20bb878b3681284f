"""Runs, metrics and artifacts in MLflow. Only this module and ``registry`` import mlflow."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import mlflow
import pandas as pd
import requests
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from sqlalchemy.exc import SQLAlchemyError

from lenet_study.errors import Pruned, StoreError, UserError
from lenet_study.tracking import provenance as environment
from lenet_study.training.fashion_mnist import Split
from lenet_study.training.loop import Epoch

NAME = "fashion-mnist-lenet"  # of the experiment and of the registered model
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"
LOCAL_UI = "http://127.0.0.1:5000"  # where a bare `mlflow ui` listens
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # pages for models, not prompts
_ABOUT = {
    "mlflow.note.content": "Five LeNet-5 variants on Fashion-MNIST: each is its parent plus one change."
}


class Run:
    """An open MLflow run and the ways to write to it."""

    def __init__(self, run: mlflow.entities.Run) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._client = mlflow.MlflowClient()
        self._logged = set(run.data.params)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters that the run does not have yet: `mlflow run` has stored the user's spelling."""
        new = {name: value for name, value in params.items() if name not in self._logged}
        self._client.log_batch(self.id, params=[Param(k, str(v)) for k, v in new.items()])
        self._logged |= new.keys()

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; values become text."""
        self._client.log_batch(self.id, tags=[RunTag(k, str(v)) for k, v in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log all metrics of one step at once; None is left out."""
        now = mlflow.utils.time.get_current_time_millis()
        given = [Metric(k, v, now, step) for k, v in metrics.items() if v is not None]
        self._client.log_batch(self.id, metrics=given)

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch's metrics; the step is the epoch."""
        self.log_metrics(
            {
                "train/loss": epoch.train_loss,
                "train/accuracy": epoch.train_accuracy,
                "val/loss": epoch.val_loss,
                "val/accuracy": epoch.val_accuracy,
                "learning_rate": epoch.learning_rate,
                "epoch_seconds": epoch.seconds,
            },
            step=epoch.epoch,
        )

    def log_best(self, best: Epoch) -> None:
        """Log what the best epoch gave as summary metrics."""
        values = asdict(best)
        names = ("epoch", "val_accuracy", "val_loss", "train_accuracy", "train_loss")
        self.log_metrics({f"best/{name}": values[name] for name in names})

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
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", digest)]
        logged = DatasetInput(dataset._to_mlflow_entity(), tags)
        self._client.log_inputs(self.id, datasets=[logged])
        self.set_tags({f"dataset.{context}.sha256": digest})

    @contextmanager
    def _artifact(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            yield path
            self._client.log_artifact(self.id, str(path))


@contextmanager
def run(
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

    The run ends FINISHED, KILLED (interrupted, terminated, or pruned, whose reason becomes the tag
    ``pruned``) or FAILED (any other exception, whose message becomes the tag ``error``).

    Args:
        name: Shown in MLflow's lists and legends.
        stage: train, spec, kfold, fold, retrain, evaluate, study, search, trial, confirm or promote.
        params: Logged as they are.
        tags: Further tags.
        description: Shown on the run's page (Markdown).
        study: Id of the study's run that this run belongs to.
        parent: Id of the run to nest this one under.
        system_metrics: Sample processor, memory and disk while the run is open.

    Raises:
        StoreError: The tracking server or its store failed.
    """
    initialise()
    all_tags = {"stage": stage, **_git_tags(), **environment.tags(), **(tags or {})}
    if description:
        all_tags["mlflow.note.content"] = description
    if study:
        all_tags["study"] = study
    if parent:
        all_tags["mlflow.parentRunId"] = parent
    with store_errors():
        client = mlflow.MlflowClient()
        experiment_id = _prepare_experiment(parent or study)
        run_id = os.environ.pop("MLFLOW_RUN_ID", "")
        if not run_id:
            resolved = resolve_tags({k: str(v) for k, v in all_tags.items()})
            run_id = client.create_run(experiment_id, run_name=name, tags=resolved).info.run_id
        active = mlflow.start_run(run_id, run_name=name, nested=True, log_system_metrics=system_metrics)
        status = "FAILED"
        try:
            opened = Run(active)
            opened.set_tags(all_tags)
            opened.log_params(params)
            opened.log_text(environment.freeze(), "environment.txt")
            yield opened
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except Pruned as reason:
            status = "KILLED"
            client.set_tag(active.info.run_id, "pruned", str(reason))
            raise
        except Exception as error:
            client.set_tag(active.info.run_id, "error", " ".join(str(error).split())[:5000])
            raise
        finally:
            mlflow.end_run(status)


def read_table(run_id: str, name: str) -> pd.DataFrame:
    """Read a table that ``Run.log_table`` has saved, its numbers exactly as they were."""
    with store_errors(), tempfile.TemporaryDirectory() as folder:
        path = mlflow.MlflowClient().download_artifacts(run_id, name, folder)
        return pd.read_csv(path)


def fail(run_id: str, reason: str) -> None:
    """End a run whose process died; one that has ended stays as it is."""
    with store_errors():
        client = mlflow.MlflowClient()
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, "error", reason)
            client.set_terminated(run_id, "FAILED")


def explain(run_id: str, reason: str) -> None:
    """Tell a run that `mlflow run` has made why its command was refused."""
    with suppress(MlflowException, SQLAlchemyError, UserError, StoreError):
        initialise()  # MLflow itself would try for minutes to reach a store that is not there
        mlflow.MlflowClient().set_tag(run_id, "error", reason)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn a failure of MLflow's server or store into one sentence."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        message = " ".join(str(error).split())
        message = message.replace(uri := mlflow.get_tracking_uri(), public(uri))
        if "disk is full" in message or "No space left" in message:
            raise StoreError(f"The disk of MLflow's store {public(uri)} is full: make room there") from error
        if "error code 401" in message:
            raise StoreError(
                f"MLflow at {public(uri)} refuses this user and password: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD (the server's docker/secrets/client.sh does)"
            ) from error
        raise StoreError(f"MLflow at {public(uri)} failed: {message[:500]}") from error


def study_addresses(experiment_id: str, study: str, run_ids: list[str]) -> dict[str, str]:
    """The addresses in MLflow's UI that show a study's trainings.

    Args:
        experiment_id: Experiment of the study.
        study: Id of the study's run.
        run_ids: The trainings.

    Returns:
        ``curves`` (overlaid) and ``comparison`` (side by side).
    """
    query = urllib.parse.urlencode(
        {
            "searchFilter": f"tags.study = '{study}' and tags.stage = 'train'",
            "orderByKey": "tags.`variant`",
            "orderByAsc": "true",
            "compareRunsMode": "CHART",
            "workflowType": "machine_learning",
        },
        quote_via=urllib.parse.quote,
    )
    compared = urllib.parse.urlencode(
        {
            "runs": json.dumps(run_ids, separators=(",", ":")),
            "experiments": json.dumps([experiment_id]),
            "workflowType": "machine_learning",
        }
    )
    return {
        "curves": f"{_ui()}/#/experiments/{experiment_id}/runs?{query}",
        "comparison": f"{_ui()}/#/compare-runs?{compared}",
    }


def run_address(opened: Run) -> str:
    """The run's address in MLflow's UI."""
    return f"{_ui()}/#/experiments/{opened.experiment_id}/runs/{opened.id}?workflowType=machine_learning"


def how_to_look() -> str:
    """What to start before an address of the UI opens."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return "in MLflow's UI:"
    local = uri == f"sqlite:///{Path('mlflow.db').resolve()}"
    command = "mlflow ui" if local else f"mlflow ui --backend-store-uri {public(uri)}"
    return f"in MLflow's UI (start it with `{command}`):"


def initialise() -> None:
    """Make sure the store answers and its tables exist.

    Several processes that open a fresh SQLite store at once break it for good, so one at a time does.

    Raises:
        StoreError: The server or its store cannot be reached.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # each run's address is said here
    # A server may be away for a minute; MLflow's own patience is four minutes for each call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    uri = mlflow.get_tracking_uri().rstrip("/")
    if uri.startswith("http"):
        try:  # MLflow itself would retry for minutes
            with suppress(requests.exceptions.SSLError):  # it answers; MLflow knows its certificate,
                answer = requests.get(f"{uri}/health", timeout=10)
                if answer.status_code not in (401, 403):  # and the password or token that it wants
                    answer.raise_for_status()
        except requests.RequestException as error:
            raise StoreError(
                f"The MLflow server at {public(uri)} does not answer ({type(error).__name__}): "
                "start it (`make server`), or unset MLFLOW_TRACKING_URI to use ./mlflow.db"
            ) from error
    elif uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.parent.is_dir():
            raise UserError(f"MLFLOW_TRACKING_URI={uri} is in no existing folder: make it first")
        if not os.access(database.parent, os.W_OK):
            raise UserError(
                f"The folder {database.parent} of the store {database.name} cannot be written to: "
                "work in another folder, or set MLFLOW_TRACKING_URI"
            )
        with store_errors(), FileLock(f"{database}.lock"):
            mlflow.MlflowClient().search_experiments(max_results=1)
    else:
        try:
            with store_errors():
                mlflow.MlflowClient().search_experiments(max_results=1)
        except ImportError as error:
            raise StoreError(f"MLFLOW_TRACKING_URI={public(uri)} needs a package: {error}") from error


def _prepare_experiment(surrounding: str) -> str:
    """The experiment of the next run: its surrounding run's, else the environment's, else ours."""
    client = mlflow.MlflowClient()
    active = mlflow.active_run()
    if active:
        return str(active.info.experiment_id)
    if surrounding:  # open in the process that started this one
        return str(client.get_run(surrounding).info.experiment_id)
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted:
        experiment_id = client.get_run(adopted).info.experiment_id
    if experiment_id:
        experiment = client.get_experiment(experiment_id)
    else:
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME))
    for key, value in (_EXPERIMENT_TAGS | (_ABOUT if experiment.name == NAME else {})).items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _git_tags() -> dict[str, str]:
    if built_from := os.environ.get(environment.COMMIT):
        known = built_from != "unknown"
        dirty = str(built_from.endswith("-dirty")).lower()
        return {"git.commit": built_from.removesuffix("-dirty"), "git.dirty": dirty} if known else {}
    root = Path(__file__).resolve().parents[3]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return result.stdout.strip()

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    if commit is None or changes is None:
        return {}
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()}


def _ui() -> str:
    if told := os.environ.get("LENET_STUDY_UI"):
        return told.rstrip("/")
    uri = public(mlflow.get_tracking_uri())
    return uri.rstrip("/") if uri.startswith("http") else LOCAL_UI


def public(uri: str) -> str:
    """The address without the user's name and passwords."""
    parts = urllib.parse.urlsplit(uri)
    asked = [each for each in parts.query.split("&") if "password" not in each.partition("=")[0].lower()]
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(asked))
    return uri if shown == parts else shown.geturl()
