"""Models in MLflow: logging with a proof, fetching, promotion. Imports mlflow, as ``tracking`` does."""

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
from typing import Any, TypeAlias

import mlflow
import numpy as np
import torch
from mlflow.entities import Run as MLflowRun
from mlflow.entities import ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from lenet_study.cli.parameters import PARAMETERS
from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.recipes import recipe as specs
from lenet_study.recipes.recipe import Recipe
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import run as tracking
from lenet_study.tracking.run import NAME, Run, store_errors
from lenet_study.training.fashion_mnist import Normalisation
from lenet_study.training.loop import Protocol
from lenet_study.training.model import SIDE, LeNet

Training: TypeAlias = MLflowRun
Version: TypeAlias = ModelVersion
CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
_FILE = "data/model.pth"  # where mlflow.pytorch keeps a TorchScript file within a logged model
_ADDED = "registered_model_meta"
_PROOFS = ("weights.sha256", "torchscript.sha256", "model.sha256", "parity")  # tags of a logged model
_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, SIDE, SIDE))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10))]),
)


@dataclass(frozen=True)
class LoggedModel:
    """A model as it was logged."""

    uri: str
    version: int | None  # of the registered model; None if it was not registered
    weights: str  # SHA-256
    tags: Mapping[str, str]  # of its version


@dataclass(frozen=True)
class FetchedModel:
    """A model read back, checked against the SHA-256 sum that was logged with it."""

    module: torch.jit.ScriptModule
    description: dict[str, object]
    reference: str
    run_id: str  # empty for a plain file
    file_sha256: str
    weights_sha256: str

    @property
    def name(self) -> str:
        """What to call it: its training's run name."""
        return str(self.description.get("name", Path(self.reference).stem))


def log_model(
    run: Run,
    model: LeNet,
    normalisation: Normalisation,
    images: torch.Tensor,
    description: Mapping[str, object],
    *,
    register: bool,
) -> LoggedModel:
    """Export a model, prove the export, and log it.

    Args:
        run: The open run that made the model.
        model: The eager model.
        normalisation: Of the images it was trained on.
        images: uint8 [N, 28, 28], real images to prove the export on.
        description: Written into the file and, as tags, on the registered version.
        register: Whether to make it a version of the registered model.
    """
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
        with _expected_warnings():
            info = mlflow.pytorch.log_model(
                scripted,
                name="model",
                serialization_format="pickle",
                signature=_SIGNATURE,
                input_example=export.as_input(images[:2]).numpy(),
                pip_requirements=[_pin("torch"), _pin("mlflow"), _pin("numpy")],
                extra_files=[str(program), str(proof)],
            )
        logged = Path(folder, "logged")
        logged.mkdir()
        logged = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(logged)))
        stored = logged / _FILE
        served = export.parity(model, normalisation, export.load_torchscript(stored), images)
        proofs = (parity, twin, served)
        sums = {
            "weights.sha256": export.weights_digest(model),
            "torchscript.sha256": export.file_digest(stored),
            "model.sha256": _digest(logged),
            "parity": "passed" if all(each.passed for each in proofs) else "failed",
        }
    run.log_metrics(
        {
            "parity/max_abs_difference": float(np.max([each.max_abs_difference for each in proofs])),
            "parity/class_agreement": min(each.class_agreement for each in proofs),
        }
    )
    run.set_tags(sums)
    tags = {key: str(value) for key, value in {**description, **sums}.items()}
    version = int(mlflow.register_model(info.model_uri, NAME, tags=tags).version) if register else None
    return LoggedModel(info.model_uri, version, sums["weights.sha256"], tags)


def fetch(reference: str, keep: Path | None = None) -> FetchedModel:
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
    tracking.initialise()
    client = mlflow.MlflowClient()
    try:
        if reference.startswith(("models:/", "runs:/")):
            uri = reference
            run_id = str(mlflow.models.get_model_info(reference).run_id)
        else:
            uri, run_id = f"runs:/{reference}/model", reference
        tags = client.get_run(run_id).data.tags
        with tempfile.TemporaryDirectory() as folder:
            files = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
            model = _read(files / _FILE, reference, run_id, tags.get("torchscript.sha256", ""))
            if keep:
                _check(reference, run_id, _digest(files), tags.get("model.sha256", ""))
                shutil.copytree(files, keep)
            return model
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model={reference} cannot be read ({reason}): name {_CURE}") from error


_CURE = (
    "the id of a finished training's run, an address such as "
    f"models:/{NAME}@{CHAMPION} (after `promote`), or the path of a TorchScript file"
)


def _read(path: Path, reference: str, run_id: str, expected: str) -> FetchedModel:
    actual = export.file_digest(path)
    if run_id:
        _check(reference, run_id, actual, expected)
    module = export.load_torchscript(path)
    weights = export.weights_digest(module.model)
    return FetchedModel(module, export.description_of(module), reference, run_id, actual, weights)


def _digest(model: Path) -> str:
    """SHA-256 of a downloaded model's files, without the one that MLflow adds to some downloads."""
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


def best_training(variant: str, stage: str = "train") -> Training | None:
    """The finished training of a variant or searched model with the highest validation accuracy."""
    runs = trainings(limit=1, variant=variant, stage=stage)
    return runs[0] if runs else None


def trainings(limit: int, variant: str = "", stage: str = "train") -> list[Training]:
    """Finished trainings in any experiment, highest validation accuracy first.

    On a tie the variant that comes first, then the earliest.

    Args:
        limit: How many.
        variant: Of this variant or searched model only.
        stage: ``train``, the trainings of the five variants, or ``spec``, those of spec files.
    """
    conditions = [
        "attributes.status = 'FINISHED'",
        f"tags.stage = '{stage}'",
        "metrics.`best/val_accuracy` >= 0",
    ]
    conditions += [f"tags.variant = '{variant}'"] if variant else []
    tracking.initialise()
    with store_errors():
        client = mlflow.MlflowClient()
        runs = client.search_runs(
            _experiments(client),
            " and ".join(conditions),
            order_by=["metrics.`best/val_accuracy` DESC", "attributes.start_time ASC"],
            max_results=limit,
        )

    def rank(run: Training) -> tuple[float, str]:
        return -run.data.metrics["best/val_accuracy"], run.data.tags.get("variant", "")

    return sorted(runs, key=rank)  # in the query, ordering by a tag takes seconds over 10,000 runs


def version_of(run_id: str) -> Version | None:
    """The registered version that a run made."""
    with store_errors():
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'")
    return versions[0] if versions else None


def holder(alias: str) -> Version | None:
    """The version that has an alias."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(NAME, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def recipe_of(version: Version) -> Recipe:
    """What a registered version is, and how it was trained; its run has the seed as a parameter."""
    with store_errors(), tempfile.TemporaryDirectory() as folder:
        client = mlflow.MlflowClient()
        run = client.get_run(version.run_id)
        if any(file.path == "spec.json" for file in client.list_artifacts(version.run_id)):
            path = Path(client.download_artifacts(version.run_id, "spec.json", folder))
            recipe = specs.parse(
                json.loads(path.read_text(encoding="utf-8")), f"spec.json of {version.run_id}"
            )
        else:  # a training of one of the five, from before spec files
            name = run.data.tags["variant"]
            known = {key: run.data.params[key] for key in specs.PROTOCOL if key in run.data.params}
            values: Any = {key: PARAMETERS[key].type.convert(known[key], None, None) for key in known}
            recipe = Recipe(name=name, spec=VARIANTS[name], protocol=Protocol(**values))
    return replace(recipe, protocol=replace(recipe.protocol, seed=int(run.data.params["seed"])))


def model_of(training: Training) -> LoggedModel:
    """The model of a finished training, as ``log_model`` returned it.

    Raises:
        UserError: Its file is not the one that was logged.
    """
    run_id, kept = training.info.run_id, training.data.tags
    tags = {name: str(value) for name, value in fetch(run_id).description.items()}
    tags |= {name: kept[name] for name in _PROOFS if name in kept}
    (logged,) = training.outputs.model_outputs
    version = version_of(run_id)
    number = int(version.version) if version else None
    return LoggedModel(f"models:/{logged.model_id}", number, kept["weights.sha256"], tags)


def challenge(model: LoggedModel, evidence: Mapping[str, object]) -> Version:
    """Make a model the challenger, with the evidence for it in its tags; register it if it is not yet."""
    client = mlflow.MlflowClient()
    with store_errors():
        number = model.version or mlflow.register_model(model.uri, NAME, tags=model.tags).version
        for name, value in evidence.items():
            client.set_model_version_tag(NAME, str(number), name, str(value))
        client.set_registered_model_alias(NAME, CHALLENGER, str(number))
        return client.get_model_version(NAME, str(number))


def drop_challenger() -> None:
    """Take the challenger's alias away: it has become the champion."""
    with store_errors():
        mlflow.MlflowClient().delete_registered_model_alias(NAME, CHALLENGER)


def runs_with(tags: Mapping[str, str]) -> list[Training]:
    """The runs with these tags in any experiment, whatever their status."""
    conditions = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    with store_errors():
        client = mlflow.MlflowClient()
        experiments = _experiments(client)
        found, token = [], None
        while token != "":
            page = client.search_runs(experiments, conditions, page_token=token)
            found += list(page)
            token = page.token or ""
    return found


def _experiments(client: mlflow.MlflowClient) -> list[str]:
    return [each.experiment_id for each in client.search_experiments(ViewType.ACTIVE_ONLY)]


def crown(version: Version, reason: str, by_run: str) -> None:
    """Make a version the champion, its predecessor ``previous``, and write down why."""
    client = mlflow.MlflowClient()
    with store_errors():
        former = holder(CHAMPION)
        client.set_model_version_tag(NAME, version.version, "promoted.reason", reason)
        client.set_model_version_tag(NAME, version.version, "promoted.by_run", by_run)
        if former:
            client.set_registered_model_alias(NAME, PREVIOUS, former.version)
        client.set_registered_model_alias(NAME, CHAMPION, version.version)


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
