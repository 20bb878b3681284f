"""Models in MLflow: logged with a proof, read back and checked, registered, and given aliases."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import mlflow
import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.tracking.run import Run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import NAME, connect, store_call, uninterrupted
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import SIDE, LeNet

Version: TypeAlias = ModelVersion
CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
CHAMPION_URI = f"models:/{NAME}@{CHAMPION}"
_TORCHSCRIPT = "data/model.pth"  # where mlflow.pytorch keeps it within a logged model
_ADDED = "registered_model_meta"  # a file that MLflow adds to some downloads
_SUMS = (Tag.WEIGHTS_SHA256, Tag.TORCHSCRIPT_SHA256, Tag.MODEL_SHA256, Tag.PARITY)
_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, SIDE, SIDE))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10))]),
)


@dataclass(frozen=True)
class LoggedModel:
    """A model as it was logged."""

    uri: str
    version: int | None  # of the registered model; None if it was not registered
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
    weights_sha256: str

    @property
    def name(self) -> str:
        """Name of the run that trained it."""
        return str(self.description.get("name", Path(self.reference).stem))

    @property
    def variant(self) -> str:
        """Name of the variant or searched model; empty if the file does not tell."""
        return str(self.description.get("variant", ""))


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
    if run.resumed and (logged_before := _logged_before(run, register)):
        return logged_before
    exported = export.exportable(model, normalisation, dict(description))
    with tempfile.TemporaryDirectory() as folder:
        torchscript, program = Path(folder, "model.pth"), Path(folder, "model.pt2")
        proof = Path(folder, "parity.json")
        export.save_torchscript(exported, torchscript)
        export.save_program(exported, program)
        scripted = export.load_torchscript(torchscript)
        parity = export.parity(model, normalisation, scripted, images)
        twin = export.parity(model, normalisation, export.load_program(program), images)
        proof.write_text(json.dumps({"torchscript": asdict(parity), "pt2": asdict(twin)}, indent=2))
        with _expected_warnings(), uninterrupted():
            info = mlflow.pytorch.log_model(
                scripted,
                name=File.MODEL,
                serialization_format="pickle",
                signature=_SIGNATURE,
                input_example=export.as_input(images[:2]).numpy(),
                pip_requirements=[_pin("torch"), _pin("mlflow"), _pin("numpy")],
                extra_files=[str(program), str(proof)],
            )
        logged = Path(folder, "logged")
        logged.mkdir()
        logged = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(logged)))
        stored = logged / _TORCHSCRIPT
        served = export.parity(model, normalisation, export.load_torchscript(stored), images)
        parities = (parity, twin, served)
        sums: dict[str, str] = {
            Tag.WEIGHTS_SHA256: export.weights_digest(model),
            Tag.TORCHSCRIPT_SHA256: export.file_digest(stored),
            Tag.MODEL_SHA256: _model_digest(logged),
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
    with uninterrupted():
        version = int(mlflow.register_model(info.model_uri, NAME, tags=tags).version) if register else None
    return LoggedModel(info.model_uri, version, sums[Tag.WEIGHTS_SHA256], tags)


def _logged_before(run: Run, register: bool) -> LoggedModel | None:
    """Return the model that a run has logged before it was interrupted, registered if it is to be."""
    training = StoredTraining.load(run.id)
    if not training.tag(Tag.MODEL_SHA256):  # set once the model is whole and proven
        return None
    model = logged_model_of(training)
    if register and model.version is None:
        version = int(mlflow.register_model(model.uri, NAME, tags=model.tags).version)
        return replace(model, version=version)
    return model


def load_model(reference: str, keep: Path | None = None) -> LoadedModel:
    """Read a model.

    Args:
        reference: A run id, a ``models:/…`` address, or the path of a TorchScript file.
        keep: Folder to make for the files of a logged model, once they are checked.

    Raises:
        UserError: There is no such model, or its file is not the one that was logged.
    """
    path = Path(reference)
    if path.is_file():
        return _read(path, reference, run_id="", expected="")
    if path.exists() or ("/" in reference and not reference.startswith(("models:/", "runs:/"))):
        raise UserError(f"model={reference} is no file: name {_CURE}")
    connect()
    try:
        if reference.startswith(("models:/", "runs:/")):
            uri = reference
            run_id = str(mlflow.models.get_model_info(reference).run_id)
        else:
            uri, run_id = f"runs:/{reference}/{File.MODEL}", reference
        tags = mlflow.MlflowClient().get_run(run_id).data.tags
        with tempfile.TemporaryDirectory() as folder:
            files = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
            model = _read(files / _TORCHSCRIPT, reference, run_id, tags.get(Tag.TORCHSCRIPT_SHA256, ""))
            if keep:
                _check(reference, run_id, _model_digest(files), tags.get(Tag.MODEL_SHA256, ""))
                shutil.copytree(files, keep)
            return model
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model={reference} cannot be read ({reason}): name {_CURE}") from error


_CURE = (
    "the id of a finished training's run, an address such as "
    f"{CHAMPION_URI} (after `promote`), or the path of a TorchScript file"
)


def _read(path: Path, reference: str, run_id: str, expected: str) -> LoadedModel:
    actual = export.file_digest(path)
    if run_id:
        _check(reference, run_id, actual, expected)
    module = export.load_torchscript(path)
    weights = export.weights_digest(module.model)
    return LoadedModel(module, export.description_of(module), reference, run_id, actual, weights)


def _model_digest(model: Path) -> str:
    """Return the SHA-256 sum of a downloaded model's files, without the one that MLflow adds to some."""
    (model / _ADDED).unlink(missing_ok=True)
    return export.folder_digest(model)


def _check(reference: str, run_id: str, actual: str, expected: str) -> None:
    if not expected:
        raise UserError(
            f"model={reference} cannot be checked: run {run_id} has logged no SHA-256 of it; train it again"
        )
    if actual != expected:
        raise UserError(
            f"model={reference} was changed since run {run_id} logged it (SHA-256 {actual[:12]}…, "
            f"logged {expected[:12]}…): train it again"
        )


def logged_model_of(training: StoredTraining) -> LoggedModel:
    """Return the model of a finished training, as ``log_model`` returned it.

    Raises:
        UserError: Its file is not the one that was logged.
    """
    tags = {name: str(value) for name, value in load_model(training.run_id).description.items()}
    tags |= {name: training.tag(name) for name in _SUMS if training.tag(name)}
    version = version_of(training.run_id)
    number = int(version.version) if version else None
    return LoggedModel(training.model_uri, number, training.tag(Tag.WEIGHTS_SHA256), tags)


def version_of(run_id: str) -> Version | None:
    """Return the registered version that a run made, if it made one."""
    with store_call():
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'")
    return versions[0] if versions else None


def version_with_alias(alias: str) -> Version | None:
    """Return the version that has an alias, if one has it."""
    try:
        with uninterrupted():
            return mlflow.MlflowClient().get_model_version_by_alias(NAME, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def set_champion(version: Version, reason: str, by_run: str) -> None:
    """Make a version the champion, its predecessor ``previous``, and write down why."""
    client = mlflow.MlflowClient()
    with store_call():
        former = version_with_alias(CHAMPION)
        client.set_model_version_tag(NAME, version.version, Tag.PROMOTED_REASON, reason)
        client.set_model_version_tag(NAME, version.version, Tag.PROMOTED_BY_RUN, by_run)
        if former:
            client.set_registered_model_alias(NAME, PREVIOUS, former.version)
        client.set_registered_model_alias(NAME, CHAMPION, version.version)


def set_challenger(model: LoggedModel, evidence: Mapping[str, object]) -> Version:
    """Make a model, registered if need be, the challenger, with the figures of its confirmation as tags."""
    client = mlflow.MlflowClient()
    with store_call():
        number = model.version or mlflow.register_model(model.uri, NAME, tags=model.tags).version
        for figure, value in evidence.items():
            name = Tag.CONFIRMED.format(figure=figure)
            client.set_model_version_tag(NAME, str(number), name, str(value))
        client.set_registered_model_alias(NAME, CHALLENGER, str(number))
        return client.get_model_version(NAME, str(number))


def confirmation_of(version: Version) -> dict[str, str]:
    """Return the figures of a version's confirmation by a search; empty if it was never confirmed."""
    prefix = Tag.CONFIRMED.format(figure="")
    tags: Mapping[str, str] = version.tags
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def drop_challenger() -> None:
    """Take the challenger's alias away: it has become the champion."""
    with store_call():
        mlflow.MlflowClient().delete_registered_model_alias(NAME, CHALLENGER)


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Keep three warnings from the user: what they warn of is what the study asks for."""
    logger = logging.getLogger("mlflow.pytorch")  # TorchScript counts as pickle there
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=export.DEPRECATION)
            warnings.filterwarnings("ignore", message="'torch.load' received a zip file")
            yield
    finally:
        logger.setLevel(level)


def _pin(package: str) -> str:
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"
