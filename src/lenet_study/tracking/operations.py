"""The operations of a spool, done in the store; a second time, each changes nothing.

A delivery may be cut off after the store has done what it was asked and before the spool knows. MLflow
ignores a metric's row that it has, and params, tags, files and inputs replace themselves; a model is looked
for before it is made.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import entities
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from lenet_study.errors import StoreError
from lenet_study.evidence.export import folder_digest
from lenet_study.tracking.schema import File, Tag
from lenet_study.tracking.served_model import write_manifest
from lenet_study.tracking.spool import Operation
from lenet_study.tracking.store import NAME

INDEPENDENT = ("batch", "artifact", "dataset")  # kinds whose order among each other does not matter
_ADDED = "registered_model_meta"  # a file that MLflow adds to some downloads


@dataclass(frozen=True)
class DeliveredModel:
    """Where the store has a model."""

    uri: str
    version: int | None  # None if it was not to be registered
    sha256: str  # over all its files


def carry_out(
    run_id: str, operations: Sequence[Operation], *, refused: bool = False
) -> DeliveredModel | None:
    """Do in the store what operations say, side by side: a server that is far away takes its time for each.

    Args:
        run_id: The run that they belong to.
        operations: Several only if all are of an independent kind.
        refused: Whether the store has refused an earlier one, so that the run ends FAILED.

    Returns:
        The model, if it was one.

    Raises:
        MlflowException: The store is away or refuses it.
        StoreError: What the store holds is not what it was given.
        OSError: The store's folder of artifacts failed.
    """
    client = mlflow.MlflowClient()
    metrics: list[entities.Metric] = []
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    calls: list[Callable[[], object]] = []
    for folder, content in ((operation.folder, operation.content) for operation in operations):
        kind = content["kind"]
        if kind == "batch":  # all of them are one request
            metrics += [entities.Metric(*row) for row in content.get("metrics", ())]
            params |= content.get("params", {})
            tags |= content.get("tags", {})
        elif kind == "artifact":
            calls.append(partial(client.log_artifact, run_id, str(folder / content["name"])))
        elif kind == "dataset":
            about = [entities.InputTag(*row) for row in content["tags"].items()]
            dataset = entities.DatasetInput(entities.Dataset(**content["dataset"]), about)
            calls.append(partial(client.log_inputs, run_id, datasets=[dataset]))
        elif kind == "end":
            if content["tags"]:
                client.log_batch(run_id, tags=_tags(content["tags"]))
            client.set_terminated(run_id, "FAILED" if refused else content["status"], content["end_time"])
        elif kind == "model":
            return _log_model(client, run_id, folder / File.MODEL, content)
        else:
            raise StoreError(
                f"{folder} holds an operation of a newer version, {kind!r}: deliver it with that"
            )
    if metrics or params or tags:
        rows = [entities.Param(*row) for row in params.items()]
        calls.append(partial(client.log_batch, run_id, metrics, rows, _tags(tags)))
    _side_by_side(calls)
    return None


def _side_by_side(calls: Iterable[Callable[[], object]]) -> None:
    """Make calls, each in a thread; raise what the first one failed with."""
    errors: list[Exception] = []

    def make(call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _tags(tags: Mapping[str, str]) -> list[entities.RunTag]:
    return [entities.RunTag(*row) for row in tags.items()]


def model_digest(model: Path) -> str:
    """Return the SHA-256 sum of a downloaded model's files, without the one that MLflow adds to some."""
    (model / _ADDED).unlink(missing_ok=True)
    return folder_digest(model)


def _log_model(
    client: mlflow.MlflowClient, run_id: str, files: Path, content: Mapping[str, Any]
) -> DeliveredModel:
    """Log a saved model, compare what the store holds, and register it.

    Not by ``Model.log``: it asks for every metric's history, and would list a model twice that was half done.
    """
    experiment_id, params = content["experiment_id"], content["params"]
    present = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    if present:  # an earlier delivery was cut off
        model, outputs = present[0], client.get_run(run_id).outputs
    else:
        model, outputs = client.create_logged_model(experiment_id, File.MODEL, run_id, params=params), None
    _name(files, run_id, model)
    paths = [path for path in files.rglob("*") if path.is_file()]
    calls = [
        partial(client.log_model_artifact, model.model_id, str(path), _folder_within(files, path))
        for path in paths
    ]
    if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else ())]:
        calls.append(partial(client.log_outputs, run_id, [LoggedModelOutput(model.model_id, step=0)]))
    _side_by_side(calls)
    sha256 = _digest_in_store(model, [path.relative_to(files).as_posix() for path in paths])
    if sha256 != folder_digest(files):
        raise StoreError(f"The store holds another model than run {run_id} gave it: train it again")
    metrics = [entities.Metric(*row, model_id=model.model_id) for row in content["metrics"]]
    _side_by_side(
        [
            partial(client.finalize_logged_model, model.model_id, LoggedModelStatus.READY),
            partial(client.log_batch, run_id, metrics, tags=_tags({Tag.MODEL_SHA256: sha256})),
        ]
    )
    version = None
    if content["register"]:
        versions = client.search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'") if present else []
        tags = {**content["tags"], str(Tag.MODEL_SHA256): sha256}
        version = (
            int(versions[0].version) if versions else register_version(client, run_id, model.model_id, tags)
        )
    return DeliveredModel(f"models:/{model.model_id}", version, sha256)


def _digest_in_store(model: LoggedModel, paths: Sequence[str]) -> str:
    """Return the SHA-256 sum of a model's files as the store holds them.

    Each is fetched by its path: MLflow's download of a whole model asks for its folders one after another,
    and one repository fetches few files at a time.
    """
    repositories = [get_artifact_repository(model.artifact_location) for _ in paths]
    with tempfile.TemporaryDirectory() as folder:
        _side_by_side(
            [
                partial(repository.download_artifacts, path, folder)
                for repository, path in zip(repositories, paths, strict=True)
            ]
        )
        return folder_digest(Path(folder))


def _name(files: Path, run_id: str, model: LoggedModel) -> None:
    """Write into a saved model its id, as MLflow does, and then its manifest: the id is known only now."""
    metadata = Model.load(str(files))
    metadata.run_id, metadata.artifact_path = run_id, model.artifact_location
    metadata.model_id = metadata.model_uuid = model.model_id
    renewed = files.with_name(f"{files.name}.MLmodel")
    metadata.save(str(renewed))
    renewed.replace(files / "MLmodel")  # whole, should this process be killed
    write_manifest(files)


def _folder_within(files: Path, path: Path) -> str | None:
    """Return the folder of a file within a model, as MLflow wants it: None for the model's own."""
    folder = path.parent.relative_to(files).as_posix()
    return None if folder == "." else folder


def register_version(client: mlflow.MlflowClient, run_id: str, model_id: str, tags: dict[str, str]) -> int:
    """Make a model a version of the registered model, which is made with the first."""
    make = partial(client.create_model_version, NAME, f"models:/{model_id}", run_id, tags, model_id=model_id)
    try:
        made = make()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        with suppress(MlflowException):  # another process makes it, too
            client.create_registered_model(NAME)
        made = make()
    # The model's page links to its version by this tag, as after `mlflow.register_model`.
    link = json.dumps([{"name": NAME, "version": made.version}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: link})
    return int(made.version)
