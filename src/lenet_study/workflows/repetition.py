"""A training by itself: what `reproduce` starts in a process of its own, from the code that is to train.

It reads a folder's ``job.json`` and writes ``result.json`` and ``model.pth`` there; no store is touched.
`reproduce` starts this module as it was at a run's commit: the job's fields and the files must stay readable.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lenet_study.errors import StudyError
from lenet_study.evidence import export
from lenet_study.recipes import recipe_file
from lenet_study.tracking.environment import deciding
from lenet_study.tracking.schema import Tag
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.train import TrainingJob, hardware_tags

JOB, RESULT, MODEL = "job.json", "result.json", "model.pth"  # names of the files in the folder
EPOCH, PROGRESS = "epoch", "progress"  # keys of the lines that tell how far the training is


@dataclass(frozen=True, kw_only=True)
class RepetitionJob:
    """A training as JSON can hold it."""

    recipe: str  # content of recipe.json
    seed: int
    precision: Any
    stage: Any
    fold: int
    folds: int
    device: Any
    threads: int
    data_dir: str
    data_sha256: Mapping[str, str]
    description: dict[str, object]  # that the exported file holds: of the run that is repeated

    def training(self) -> TrainingJob:
        """Return the job of the training."""
        recipe = recipe_file.loads(self.recipe, JOB)
        config = replace(recipe.config, seed=self.seed, precision=self.precision)
        return TrainingJob(
            recipe=replace(recipe, config=config),
            stage=self.stage,
            hardware=Hardware(device=self.device, threads=self.threads),
            data=DataFiles(Path(self.data_dir), self.data_sha256),
            fold=self.fold,
            folds=self.folds,
        )


def repeat(folder: Path, announce: Callable[[str, object], None]) -> None:
    """Train what a folder's job says, and write the result there.

    Args:
        folder: Holds the job.
        announce: Hears of epochs and progress, under the keys ``EPOCH`` and ``PROGRESS``.
    """
    repetition = RepetitionJob(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    job = repetition.training()
    device = job.hardware.prepare()
    images, validation = job.images()
    seams = {"on_epoch": partial(announce, EPOCH), "on_progress": partial(announce, PROGRESS)}
    model, fit = job.fit(images, validation, device, **seams)
    exported = export.exportable(model, fit.normalisation, repetition.description)
    _export(exported, folder)
    result = {
        "history": [asdict(epoch) for epoch in fit.history],
        "weights_sha256": export.weights_digest(model),
        "facts": facts(device),
    }
    (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")


def facts(device: torch.device) -> dict[str, str]:
    """Return all that decides the bits of a training on a device in this process, by names for people."""
    hardware = {str(name): str(value) for name, value in hardware_tags(device).items()}
    return {**deciding(), "device": hardware[Tag.DEVICE], "processor": hardware[Tag.PROCESSOR]}


def _export(exported: export.ExportedLeNet, folder: Path) -> None:
    """Write the TorchScript file as a run does, which logs what it has read back."""
    first = folder / "first" / MODEL  # the file's name is within it, too
    first.parent.mkdir()
    export.save_torchscript(exported, first)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=export.DEPRECATION)
        torch.jit.save(export.load_torchscript(first), str(folder / MODEL))


def main(folder: Path) -> int:
    """Repeat a training and print a line of JSON at each epoch; return the exit code."""

    def announce(key: str, value: Any) -> None:
        print(json.dumps({key: asdict(value)}), flush=True)

    try:
        repeat(folder, announce)
    except StudyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
