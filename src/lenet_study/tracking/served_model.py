"""The model behind MLflow's ``python_function``: checks its files, checks each request, answers in JSON.

Every logged model carries a copy of this file, so that it imports nothing of the project. Its files' sums
are in ``manifest.json``; TorchScript alone is read, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

MANIFEST = "manifest.json"  # path of every other file of the model: its SHA-256 sum
TORCHSCRIPT = "data/model.pth"  # where mlflow.pytorch keeps it
CLASS_NAMES = "classes"  # name in the model's metadata
ANSWER, LOGITS, CLASSES = "answer", "logits", "classes"  # the parameter of a request, and its values
SHAPE = (1, 28, 28)  # of an image
BLOCK = 100  # images computed at once, as in an evaluation, for the same bits; all 10,000 took 1.6 GB


class RefusedRequest(MlflowException):  # type: ignore[misc]  # MLflow is untyped
    """A request that the client can cure: the answer has status 400 and one sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """Return the answer's body, without the excerpt of the images that MLflow puts into the message."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class ServedModel:
    """A TorchScript model that answers with logits or with class names.

    Args:
        module: Takes float32 images [N, 1, 28, 28] in [0, 1], returns logits [N, number of classes].
        classes: Their names.
    """

    def __init__(self, module: torch.jit.ScriptModule, classes: list[str]) -> None:
        self._module, self._classes = module, classes

    def predict(
        self, images: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray | list[dict[str, object]]:
        """Return the logits [N, 10], or, with ``answer`` = ``classes``, a dictionary for each image.

        Raises:
            RefusedRequest: The images or the parameter are not what the model takes.
            MlflowException: The model has diverged.
        """
        answer = (params or {}).get(ANSWER, LOGITS)
        if answer not in (LOGITS, CLASSES):
            raise RefusedRequest(f"{ANSWER}={answer!r} is unknown: ask for '{LOGITS}' or '{CLASSES}'")
        checked = check_images(images)
        with torch.inference_mode():
            starts = range(0, len(checked), BLOCK)
            logits = torch.cat([self._module(torch.tensor(checked[at : at + BLOCK])) for at in starts])
        if not logits.isfinite().all():
            sentence = "The model has diverged, its logits are not finite: use another version"
            raise MlflowException(sentence, error_code=INTERNAL_ERROR)
        return logits.numpy() if answer == LOGITS else [self._named(row) for row in logits.softmax(1)]

    def _named(self, probabilities: torch.Tensor) -> dict[str, object]:
        by_name = dict(zip(self._classes, probabilities.tolist(), strict=True))
        best = max(by_name, key=by_name.__getitem__)
        return {"class": best, "probability": by_name[best], "probabilities": by_name}


def check_images(images: object) -> np.ndarray:
    """Return a batch as float32 [N, 1, 28, 28]; refuse what is no such batch from 0 (black) to 1 (white)."""
    wanted = f"send numbers [N, {', '.join(map(str, SHAPE))}] from 0 (black) to 1 (white)"
    try:
        batch = np.asarray(images)
        if batch.dtype.kind in "bSU":  # truth values and text, which NumPy would turn into numbers
            raise TypeError
        batch = batch.astype(np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise RefusedRequest(f"The input is no array of numbers: {wanted}") from error
    if not len(np.atleast_1d(batch)):
        raise RefusedRequest("The batch holds no image: send at least one")
    if batch.shape[1:] != SHAPE:
        raise RefusedRequest(f"The input's shape is {list(batch.shape)}: {wanted}")
    low, high = batch.min(axis=(1, 2, 3)), batch.max(axis=(1, 2, 3))
    for number in np.flatnonzero(~((low >= 0) & (high <= 1)))[:1]:  # NaN compares as neither
        if np.isfinite(batch[number]).all():
            problem = f"values from {low[number]:.8g} to {high[number]:.8g}: divide grey levels by 255"
        else:
            problem = "a value that is not finite (null, NaN, inf)"
        raise RefusedRequest(f"Image {number} holds {problem}; {wanted}")
    return batch


def write_manifest(folder: Path) -> None:
    """Write the sums of all files of a model's folder into its manifest, which appears whole."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    renewed = folder.with_name(f"{folder.name}.{MANIFEST}")
    renewed.write_text(json.dumps(sums, indent=2), encoding="utf-8")
    renewed.replace(folder / MANIFEST)


def check_files(folder: Path) -> None:
    """Refuse a model of which a file is missing, cannot be read, or is not the one that was logged.

    Raises:
        MlflowException: One sentence that names the file and the cure.
    """
    name = MANIFEST
    try:
        sums = json.loads((folder / MANIFEST).read_bytes())
        for name, sha256 in sums.items():
            if _sha256(folder / name) != sha256:
                raise ValueError(f"its SHA-256 is not the one in {MANIFEST}")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        raise MlflowException(
            f"{folder / name} was damaged since the model was logged ({reason}): "
            "fetch the model again, or train it again",
            error_code=INTERNAL_ERROR,
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_pyfunc(path: str) -> ServedModel:
    """Read the model of a folder; MLflow calls this."""
    folder = Path(path)
    check_files(folder)
    metadata = Model.load(path).metadata
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated.*")
        module = torch.jit.load(str(folder / TORCHSCRIPT), map_location="cpu").eval()
    return ServedModel(module, metadata[CLASS_NAMES])
