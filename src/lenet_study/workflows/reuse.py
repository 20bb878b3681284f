"""Work is done once: a finished training with the same fingerprint is used again, by two studies at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lenet_study.tracking.liveness import is_abandoned
from lenet_study.tracking.provenance import environment_tags
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import StoredRun, checkpoint_folder, runs_with
from lenet_study.tracking.stored_training import StoredTraining

if TYPE_CHECKING:
    from lenet_study.workflows.train import TrainingResult

DECIDING = (Tag.CODE_SHA256, Tag.PYTHON, Tag.PACKAGES_SHA256)  # of an environment, for a training


def fingerprint(facts: Mapping[str, object]) -> str:
    """Return the SHA-256 sum of what a piece of work is, the code and the environment that do it.

    Args:
        facts: What tells this piece of work from others; values that JSON can hold.
    """
    environment = environment_tags()
    deciding: dict[str, str] = {tag: environment[tag] for tag in DECIDING}
    whole = {**facts, **deciding}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


class Former:
    """The runs that the store holds of a piece of work with a fingerprint.

    Attributes:
        finished: The trainings that have ended well, the earliest first; their files are still to be checked.
        running: The run whose process is at work on it, if there is one.
        interrupted: The run that can be gone on with, if there is one.
    """

    def __init__(self, fingerprint: str, checkpoint_dir: str) -> None:
        self.finished: list[StoredTraining] = []
        self.running: StoredRun | None = None
        self.interrupted: StoredRun | None = None
        for run in runs_with({Tag.FINGERPRINT: fingerprint}):
            status = run.info.status
            if Tag.FORCED in run.data.tags:  # some of its epochs are of other code or another processor
                continue
            if status == "RUNNING" and not is_abandoned(run.data.tags):
                self.running = run
            elif status == "FINISHED":
                self.finished.insert(0, StoredTraining(run))  # the store has the latest first
            elif status != "FINISHED" and checkpoint_folder(run.info.run_id, checkpoint_dir).is_dir():
                self.interrupted = run


def interrupted(fingerprint: str) -> str:
    """Return the id of the latest run of a study or cross-validation if it was interrupted, else nothing."""
    runs = sorted(runs_with({Tag.FINGERPRINT: fingerprint}), key=lambda run: run.info.start_time)
    return str(runs[-1].info.run_id) if runs and runs[-1].info.status in ("KILLED", "FAILED") else ""


def reused_tags(trained: Mapping[str, TrainingResult]) -> dict[str, str]:
    """Return the tag that names the runs whose results were used again; none if there are none."""
    reused = [f"{name}: {result.run_id}" for name, result in trained.items() if result.reused]
    return {Tag.REUSED: "; ".join(reused)} if reused else {}
