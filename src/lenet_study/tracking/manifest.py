"""The manifest of a run: SHA-256 sums of its files, and its params, metrics, tags and data as it wrote them.

The manifest is a file of the run; its own sum is a tag. A byte that changes later, in the folder of artifacts
or in the database, is thereby told from what was logged.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import mlflow
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

from lenet_study.errors import UserError, one_line
from lenet_study.evidence.export import file_digest
from lenet_study.tracking.schema import File, Tag
from lenet_study.tracking.store import StoredRun, store_call

# Others change these, or the run itself goes on changing them until its last moment.
_CHANGING = (Tag.STUDY, Tag.MANIFEST_SHA256, Tag.RESUMED, Tag.FAILURE_KIND, Tag.FAILURE_REASON)
_CHANGING_FAMILIES = ("mlflow.", "process.")
_SYSTEM = "system/"  # samples of the computer, which no result depends on


@dataclass
class Manifest:
    """The content of one run."""

    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by path
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # step and value, as logged
    tags: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, dict[str, str]] = field(default_factory=dict)  # digest and tags by name

    @classmethod
    def loads(cls, text: str) -> Self:
        """Return the manifest that a file holds."""
        content = json.loads(text)
        points = {name: [(step, value) for step, value in rows] for name, rows in content["metrics"].items()}
        return cls(**{**content, "metrics": points})

    def dumps(self) -> str:
        """Return the content of the manifest's file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def add_metrics(self, rows: Iterable[Sequence[object]]) -> None:
        """Add rows of name, value, time and step."""
        for name, value, _, step in rows:
            if not str(name).startswith(_SYSTEM):
                self.metrics.setdefault(str(name), []).append((int(str(step)), _as_stored(float(str(value)))))

    def add_params(self, params: Mapping[str, str]) -> None:
        """Add params; MLflow cuts long values."""
        self.params |= {name: value[:MAX_PARAM_VAL_LENGTH] for name, value in params.items()}

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Add those tags that stay as they are once the run has ended."""
        self.tags |= {name: value[:MAX_TAG_VAL_LENGTH] for name, value in tags.items() if _stays(name)}

    def add_dataset(self, name: str, digest: str, tags: Mapping[str, str]) -> None:
        """Add a dataset input."""
        self.datasets[name] = {"digest": digest, **tags}

    def changes(self, run: StoredRun, points: Mapping[str, Sequence[tuple[int, float]]]) -> Iterator[str]:
        """Yield in words what a store holds otherwise; ``points`` are the step and value of each metric."""
        inputs = run.inputs.dataset_inputs if run.inputs else []
        datasets = {
            each.dataset.name: {"digest": each.dataset.digest, **{tag.key: tag.value for tag in each.tags}}
            for each in inputs
        }
        yield from _differences("param", self.params, run.data.params)
        yield from _differences("tag", self.tags, run.data.tags)
        yield from _differences("dataset", self.datasets, datasets)
        for name, stored in points.items():
            if sorted(map(repr, stored)) != sorted(map(repr, self.metrics.get(name, []))):
                yield f"metric {name} has other values than were logged"
            elif not _same(run.data.metrics.get(name), self.last(name)):  # that pages and filters show
                yield f"metric {name} is {run.data.metrics.get(name)}, and was logged as {self.last(name)}"

    def model_changes(self, model: LoggedModel) -> Iterator[str]:
        """Yield in words what the page of the run's model shows otherwise than the run has logged it."""
        logged = {name: value for name, value in self.params.items() if name in model.params}
        yield from _differences("param", logged, model.params)
        for metric in model.metrics or []:  # and what else was measured, such as system metrics
            if metric.key in self.metrics and not _same(metric.value, self.last(metric.key)):
                yield f"metric {metric.key} of its model is {metric.value}, not {self.last(metric.key)}"

    def last(self, metric: str) -> float | None:
        """Return a metric's value at its last step; None if there is no such metric."""
        points = self.metrics.get(metric)
        return max(points, key=lambda point: point[0])[1] if points else None


def load_manifest(run: StoredRun) -> Manifest | None:
    """Return the manifest of a run that has ended; None if it wrote none.

    Raises:
        UserError: The manifest is damaged or missing.
        StoreError: The store failed.
    """
    run_id = run.info.run_id
    if not (logged := run.data.tags.get(Tag.MANIFEST_SHA256)):
        if run.info.status == "FINISHED" and _has_manifest(run_id):
            raise UserError(
                f"Run {run_id} has lost the tag {Tag.MANIFEST_SHA256}: train again, or use a backup"
            )
        return None
    with TemporaryDirectory() as folder:
        path = fetch_file(run_id, File.MANIFEST, Path(folder), logged)
        return Manifest.loads(path.read_text(encoding="utf-8"))


def _has_manifest(run_id: str) -> bool:
    with store_call():
        return File.MANIFEST in {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}


def changes_of(run: StoredRun) -> Iterator[str]:
    """Yield in words what the store holds otherwise than a finished run has logged it.

    Raises:
        UserError: Its manifest is damaged or missing.
        StoreError: The store failed.
    """
    if not (manifest := load_manifest(run)):
        return
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    for name, sha256 in manifest.files.items():
        try:
            with TemporaryDirectory() as folder:
                fetch_file(run_id, name, Path(folder), sha256)
        except UserError as error:
            yield str(error)
    names = manifest.metrics.keys() | {name for name in run.data.metrics if not name.startswith(_SYSTEM)}
    outputs = run.outputs.model_outputs if run.outputs else []
    with store_call():
        histories = {name: client.get_metric_history(run_id, name) for name in sorted(names)}
        models = [client.get_logged_model(output.model_id) for output in outputs]
    points = {name: [(point.step, point.value) for point in rows] for name, rows in histories.items()}
    yield from manifest.changes(run, points)
    for model in models:
        yield from manifest.model_changes(model)


def fetch_file(run_id: str, name: str, folder: Path, sha256: str | None) -> Path:
    """Copy a file of a run into a folder, and check it against the sum that was logged, if one was.

    Raises:
        UserError: The file is missing, or is not the one that was logged.
        StoreError: The store failed.
    """
    cure = "train again, or bring the file back from a backup"
    with store_call():
        try:
            path = Path(mlflow.MlflowClient().download_artifacts(run_id, name, str(folder)))
        except (FileNotFoundError, MlflowException) as error:
            if isinstance(error, MlflowException) and error.get_http_status_code() not in (400, 404):
                raise
            raise UserError(f"{name} of run {run_id} is missing ({one_line(error, 200)}): {cure}") from error
    if sha256 and file_digest(path) != sha256:
        raise UserError(f"{name} of run {run_id} was changed since the run logged it: {cure}")
    return path


def sha256_of(text: str) -> str:
    """Return the SHA-256 sum of a manifest's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(kind: str, logged: Mapping[str, object], stored: Mapping[str, object]) -> Iterator[str]:
    for name, value in logged.items():
        if stored.get(name) != value:
            yield f"{kind} {name} is {stored.get(name, 'missing')!r}, and was logged as {value!r}"


def _same(stored: float | None, logged: float | None) -> bool:
    return repr(stored) == repr(logged)  # NaN, too


def _stays(tag: str) -> bool:
    return tag not in _CHANGING and not tag.startswith(_CHANGING_FAMILIES)


def _as_stored(value: float) -> float:
    """Return a metric's value as MLflow's databases hold it: an infinite one as the largest number."""
    # SQLite has one zero.
    return max(-sys.float_info.max, min(value + 0.0, sys.float_info.max)) if value == value else value
