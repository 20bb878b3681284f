"""Models in MLflow: logged with a proof, read back and checked, registered, and given aliases."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import ZipFile

import mlflow
import numpy as np
import requests
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from lenet_study.errors import StoreError, UserError, one_line
from lenet_study.evidence import export
from lenet_study.recipes.recipe_file import content_digest
from lenet_study.tracking import served_model
from lenet_study.tracking.champions import CHALLENGER, CHAMPION, PREVIOUS
from lenet_study.tracking.disk import require_room
from lenet_study.tracking.operations import model_digest, register_version
from lenet_study.tracking.run import Run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import (
    NAME,
    champion_lock,
    connect,
    failure_sentence,
    missing_ignored,
    store_call,
    uninterrupted,
)
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import CLASSES, SIDE, LeNet

Version: TypeAlias = ModelVersion
CHAMPION_URI = f"models:/{NAME}@{CHAMPION}"
_SERVED_CODE = "code.zip"
_SUM_OF_FIGURES = "sha256"  # among the figures of a confirmation
_SUMS = (Tag.WEIGHTS_SHA256, Tag.TORCHSCRIPT_SHA256, Tag.MODEL_SHA256, Tag.PARITY)
_CURE = (
    "the id of a finished training's run, an address such as "
    f"{CHAMPION_URI} (after `promote`), or the path of a TorchScript file"
)
_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, SIDE, SIDE))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(CLASSES)))]),
    params=ParamSchema([ParamSpec(served_model.ANSWER, DataType.string, served_model.LOGITS)]),
)


@dataclass(frozen=True)
class LoggedModel:
    """A model as it was logged."""

    uri: str  # empty if it is still to be delivered
    version: int | None  # of the registered model; None if it was not registered, or not yet
    weights_sha256: str
    tags: Mapping[str, str]  # of its version


@dataclass(frozen=True)
class LoadedModel:
    """A model read back, checked against the SHA-256 sum that was logged with it."""

    module: torch.jit.ScriptModule
    description: dict[str, object]
    reference: str
    run_id: str  # empty for a plain file
    torchscript_sha256: str
    weights_sha256: str  # empty for a foreign file

    @property
    def foreign(self) -> bool:
        """Whether another project made it, so that it neither describes itself nor normalises for sure."""
        return not export.is_exported(self.module)

    @property
    def name(self) -> str:
        """Name of the run that trained it; of a foreign file its own, without its ending."""
        return str(self.description.get("name", Path(self.reference).stem))

    @property
    def variant(self) -> str:
        """Name of the variant or searched model; empty if the file does not tell."""
        return str(self.description.get("variant", ""))

    def classify(self, images: np.ndarray) -> list[dict[str, Any]]:
        """Return class, probability and the probabilities of all classes of float32 images [N, 1, 28, 28].

        Raises:
            UserError: The model has diverged.
        """
        served = served_model.ServedModel(self.module, list(CLASSES))
        try:
            return list(served.predict(images, {served_model.ANSWER: served_model.CLASSES}))
        except MlflowException as error:
            raise UserError(f"model={self.reference}: {error}") from error


def log_model(
    run: Run,
    model: LeNet,
    normalisation: Normalisation,
    images: torch.Tensor,
    description: Mapping[str, object],
    *,
    register: bool,
) -> LoggedModel:
    """Export a model, prove the export, and log it; a resumed run that has logged it registers it alone.

    Args:
        run: The open run that made the model.
        model: The eager model.
        normalisation: Of the images it was trained on.
        images: uint8 [N, 28, 28], real images to prove the export on.
        description: Written into the file and, as tags, on the registered version.
        register: Whether to make it a version of the registered model.
    """
    if run.resumed and Tag.MODEL_SHA256 in run.former_tags:  # it was whole and proven
        return _registered(logged_model_of(StoredTraining.load(run.id)), register)
    exported = export.exportable(model, normalisation, dict(description))
    with tempfile.TemporaryDirectory() as folder:
        torchscript, program, files = (Path(folder, name) for name in ("model.pth", "model.pt2", "saved"))
        proof = Path(folder, "parity.json")
        # Both files, MLflow's copies, and what is read back of them.
        require_room(Path(folder), 2**20 + 6 * 4 * sum(weight.numel() for weight in model.parameters()))
        export.save_torchscript(exported, torchscript)
        export.save_program(exported, program)
        scripted = export.load_torchscript(torchscript)
        parity = export.parity(model, normalisation, scripted, images)
        twin = export.parity(model, normalisation, export.load_program(program), images)
        proof.write_text(json.dumps({"torchscript": asdict(parity), "pt2": asdict(twin)}, indent=2))
        _save(scripted, images, [str(program), str(proof)], files)
        saved = files / served_model.TORCHSCRIPT
        served = export.parity(model, normalisation, export.load_torchscript(saved), images)
        parities = (parity, twin, served)
        sums: dict[str, str] = {
            Tag.WEIGHTS_SHA256: export.weights_digest(model),
            Tag.TORCHSCRIPT_SHA256: export.file_digest(saved),
            Tag.PARITY: "passed" if all(parity.passed for parity in parities) else "failed",
        }
        run.log_metrics(
            {
                Metric.PARITY_DIFFERENCE: float(np.max([parity.max_abs_difference for parity in parities])),
                Metric.PARITY_AGREEMENT: min(parity.class_agreement for parity in parities),
            }
        )
        run.set_tags(sums)
        tags = {str(key): str(value) for key, value in {**description, **sums}.items()}
        delivered = run.log_model(files, tags, register=register)
    if delivered is None:
        return LoggedModel("", None, sums[Tag.WEIGHTS_SHA256], tags)
    tags[Tag.MODEL_SHA256] = delivered.sha256
    return LoggedModel(delivered.uri, delivered.version, sums[Tag.WEIGHTS_SHA256], tags)


def _save(scripted: torch.jit.ScriptModule, images: torch.Tensor, others: list[str], files: Path) -> None:
    """Save a model and other files to a new folder, as MLflow lays them out, with our own way to serve it."""
    model = Model()
    packages = {package: version(package).partition("+")[0] for package in ("torch", "mlflow", "numpy")}
    with warnings.catch_warnings():
        for message in (export.DEPRECATION, "'torch.load' received a zip file"):
            warnings.filterwarnings("ignore", message=message)
        mlflow.pytorch.save_model(
            scripted,
            str(files),
            mlflow_model=model,
            serialization_format="pickle",
            signature=_SIGNATURE,
            input_example=export.as_input(images[:2]).numpy(),
            pip_requirements=[f"{package}=={number}" for package, number in packages.items()],
            extra_files=others,
            metadata={served_model.CLASS_NAMES: list(CLASSES)},
        )
    # In place of mlflow.pytorch's own, which checks nothing and takes a pickle for a model. In an archive:
    # Python writes bytecode beside a plain file, in the store itself, and `model.sha256` would change.
    module = Path(served_model.__file__)
    with ZipFile(files / _SERVED_CODE, "w") as archive:
        archive.write(module, module.name)
    environments = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}
    mlflow.pyfunc.add_to_model(model, module.stem, code=_SERVED_CODE, **environments)
    model.save(str(files / MLMODEL_FILE_NAME))


def _registered(model: LoggedModel, register: bool = True) -> LoggedModel:
    """Return the model with its version, made if it has none yet and is to have one."""
    if model.version or not register:
        return model
    if not model.uri:
        raise StoreError("The store does not have the model yet: `sync` delivers it")
    client, model_id = mlflow.MlflowClient(), model.uri.removeprefix("models:/")
    with uninterrupted():
        run_id = client.get_logged_model(model_id).source_run_id
        return replace(model, version=register_version(client, run_id, model_id, dict(model.tags)))


def load_model(reference: str, keep: Path | None = None, *, foreign: bool = False) -> LoadedModel:
    """Read a model.

    Args:
        reference: A run id, a ``models:/…`` address, or the path of a TorchScript file.
        keep: Folder to make for the files of a logged model, once they are checked.
        foreign: Whether the file may be that of another project.

    Raises:
        UserError: There is no such model, or its file is not the one that was logged.
    """
    path = Path(reference)
    try:
        is_file, exists = path.is_file(), path.exists()
    except OSError as error:
        raise UserError(f"model={reference} cannot be read ({error.strerror}): name {_CURE}") from error
    if is_file:
        _check_manifest(path.resolve().parent.parent)
        return _read(path, reference, run_id="", foreign=foreign)
    is_address = reference.startswith(("models:/", "runs:/"))
    if exists or ("/" in reference and not is_address):
        raise UserError(f"model={reference} is no file: name {_CURE}")
    connect()
    try:
        uri = reference if is_address else f"runs:/{reference}/{File.MODEL}"
        run_id = _run_of(uri)
        tags = mlflow.MlflowClient().get_run(run_id).data.tags
        with tempfile.TemporaryDirectory() as folder:
            files = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
            stored = files / served_model.TORCHSCRIPT
            _check_manifest(files, f" of run {run_id}")
            _check(reference, run_id, export.file_digest(stored), tags.get(Tag.TORCHSCRIPT_SHA256))
            if keep or Tag.MODEL_SHA256 in tags:  # version 0.1 did not write it
                _check(reference, run_id, model_digest(files), tags.get(Tag.MODEL_SHA256))
            model = _read(stored, reference, run_id)
            if keep:
                shutil.copytree(files, keep)
            return model
    except (MlflowException, OSError) as error:
        if _is_outage(error):
            raise StoreError(failure_sentence(error)) from error
        reason = one_line(error, 200)
        raise UserError(f"model={reference} cannot be read ({reason}): name {_CURE}") from error


def _is_outage(error: Exception) -> bool:
    """Whether a store failed to answer: the model may be as it was logged."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code != HTTPStatus.NOT_FOUND)
    return isinstance(error, requests.RequestException) or any(
        words in str(error) for words in ("API request to", "is locked")
    )


def _run_of(uri: str) -> str:
    """Return the id of the run that logged a model; its files, which may be damaged, are not asked."""
    client = mlflow.MlflowClient()
    if uri.startswith("runs:/"):
        return uri.removeprefix("runs:/").partition("/")[0]
    model = get_model_name_and_version(client, uri)
    if len(model) == 1:
        return str(client.get_logged_model(*model).source_run_id)
    return str(client.get_model_version(*model).run_id)


def _read(path: Path, reference: str, run_id: str, *, foreign: bool = False) -> LoadedModel:
    module, sum_of_file = export.read_torchscript(path), export.file_digest(path)
    if foreign and not export.is_exported(module):
        return LoadedModel(module, {}, reference, run_id, sum_of_file, weights_sha256="")
    export.require_exported(module, path)
    weights = export.weights_digest(module.model)
    return LoadedModel(module, export.description_of(module), reference, run_id, sum_of_file, weights)


def _check_manifest(folder: Path, of_run: str = "") -> None:
    """Refuse a damaged file of a logged model; a plain file's folder, and an old model, have no manifest."""
    if (folder / served_model.MANIFEST).is_file() and (folder / MLMODEL_FILE_NAME).is_file():
        try:
            served_model.check_files(folder)
        except MlflowException as error:
            damage = str(error).replace(f"{folder}/", "").rpartition(": ")[0]
            damage = damage.replace(" was damaged", f"{of_run} was damaged", 1)
            raise UserError(f"{damage}: bring it back from a backup, or train it again") from error


def _check(reference: str, run_id: str, actual: str, logged: str | None) -> None:
    """Refuse a file whose SHA-256 sum is not the one that its run logged."""
    if not logged:
        raise UserError(
            f"model={reference} cannot be checked: run {run_id} has logged no SHA-256 of it; train it again"
        )
    if actual != logged:
        raise UserError(
            f"model={reference} was changed since run {run_id} logged it (SHA-256 {actual[:12]}…, "
            f"logged {logged[:12]}…): train it again"
        )


def logged_model_of(training: StoredTraining) -> LoggedModel:
    """Return the model of a finished training, as ``log_model`` returned it; see ``load_model``."""
    tags = {name: str(value) for name, value in load_model(training.run_id).description.items()}
    tags |= {name: training.tag(name) for name in _SUMS if training.tag(name)}
    registered = version_of(training.run_id)
    number = int(registered.version) if registered else None
    return LoggedModel(training.model_uri, number, training.tag(Tag.WEIGHTS_SHA256), tags)


def version_of(run_id: str) -> Version | None:
    """Return the registered version that a run made, if it made one."""
    with store_call():
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'")
    return versions[0] if versions else None


def run_of_version(reference: str) -> str:
    """Return the id of the run that made a version; empty if it is written as none.

    Args:
        reference: A version's number, an alias such as ``champion``, or a ``models:/…`` address.

    Raises:
        UserError: There is no such version.
        StoreError: The store failed.
    """
    if re.fullmatch("[1-9][0-9]{0,8}", reference):
        version = version_numbered(reference)
    elif reference in (CHAMPION, PREVIOUS, CHALLENGER):
        version = version_with_alias(reference)
    elif reference.startswith("models:/"):
        with store_call():
            try:
                return _run_of(reference)
            except MlflowException as error:
                if _is_outage(error):
                    raise
                raise UserError(f"names no registered model ({one_line(error, 200)})") from error
    else:
        return ""
    if not version:
        raise UserError(f"{NAME} has no such version")
    return str(version.run_id)


def version_numbered(number: str) -> Version | None:
    """Return a version by its number; None if there is none, or it was deleted."""
    with missing_ignored(), uninterrupted():
        return mlflow.MlflowClient().get_model_version(NAME, number)
    return None


def check_version(version: Version) -> None:
    """Refuse a version whose model, or whose run, is not as it was logged.

    Raises:
        UserError: A file, figure or tag was changed, or is missing; the message names it and the cure.
        StoreError: The store failed.
    """
    run = StoredTraining.load(version.run_id)
    if changes := list(run.changes()):
        raise UserError(f"Run {version.run_id} is not as it was logged: {changes[0]}")
    check_model(version, run)


def check_model(version: Version, run: StoredTraining) -> None:
    """Refuse a version that is not as ``run``, or its confirmation, logged it; raise as ``check_version``."""
    confirmation_of(version)
    load_model(f"models:/{NAME}/{version.version}")
    for tag in (Tag.MODEL_SHA256, Tag.TORCHSCRIPT_SHA256):
        if run.tag(tag) != version.tags.get(tag, run.tag(tag)):
            raise UserError(f"Version {version.version} names another model than run {run.run_id}: delete it")


def version_with_alias(alias: str) -> Version | None:
    """Return the version that has an alias, if one has it."""
    with missing_ignored(), uninterrupted():
        return mlflow.MlflowClient().get_model_version_by_alias(NAME, alias)
    return None


def set_challenger(model: LoggedModel, evidence: Mapping[str, object]) -> Version:
    """Make a model, registered if need be, the challenger, with the figures of its confirmation as tags."""
    client, figures = mlflow.MlflowClient(), {name: str(value) for name, value in evidence.items()}
    figures[_SUM_OF_FIGURES] = content_digest(figures)
    with champion_lock(), store_call():
        number = str(_registered(model).version)
        for figure, value in figures.items():
            client.set_model_version_tag(NAME, number, Tag.CONFIRMED.format(figure=figure), value)
        client.set_registered_model_alias(NAME, CHALLENGER, number)
        return client.get_model_version(NAME, number)


def confirmation_of(version: Version) -> dict[str, str]:
    """Return the figures of a version's confirmation by a search; empty if it was never confirmed.

    Raises:
        UserError: They are not those that the search has written.
    """
    prefix = Tag.CONFIRMED.format(figure="")
    tags: Mapping[str, str] = version.tags
    figures = {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}
    logged = figures.pop(_SUM_OF_FIGURES, "")  # older versions have none
    if logged and logged != content_digest(figures):
        raise UserError(
            f"The figures of version {version.version}'s confirmation were changed since its search wrote "
            "them: restore a backup, or delete the version and search again"
        )
    return figures
