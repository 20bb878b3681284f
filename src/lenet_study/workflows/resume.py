"""``resume``: interrupted trainings, cross-validations and studies go on where they were."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lenet_study.errors import DivergenceError, StoreError, StudyError, UserError
from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Reporter
from lenet_study.execution.signals import Stopped
from lenet_study.recipes.recipe import Recipe, TrainingConfig
from lenet_study.recipes.recipe_file import RecipeChoice
from lenet_study.tracking.liveness import is_of_this_host
from lenet_study.tracking.provenance import environment_tags
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import checkpoint_folder, connect, find_runs
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware, processor
from lenet_study.workflows import reuse
from lenet_study.workflows.kfold import kfold_side_by_side
from lenet_study.workflows.orphans import end_abandoned
from lenet_study.workflows.retrain import retrain
from lenet_study.workflows.study import study
from lenet_study.workflows.train import TrainingJob, TrainingResult

_TRAININGS = ("train", "recipe", "fold", "retrain", "confirm")  # a search trains its trials again itself
_PARENTS = ("study", "kfold")
_STOPPED = (Stopped.__name__, KeyboardInterrupt.__name__)


def resume(
    run_id: str = "",
    *,
    force: bool = False,
    checkpoint_dir: str = "",
    data: DataFiles | None = None,
    reporter: Reporter = Reporter(),
) -> dict[str, TrainingResult]:
    """Go on with interrupted work, each piece in its own run; it ends as if nothing had happened.

    Args:
        run_id: Id of a training, cross-validation or study; empty for all that were interrupted on this host.
        force: Go on although code, packages or processor have changed; the bits may then differ.
        checkpoint_dir: Folder of all runs' checkpoints; empty for one beside a local store.
        data: The images; None takes those that the run names.
        reporter: Receives progress.

    Returns:
        The results of all trainings, by their names.

    Raises:
        UserError: The run is nothing that can be resumed, has finished, still runs, or was made otherwise.
        StudyError: Some of the work failed again.
    """
    connect()
    end_abandoned(reporter)
    work = [StoredTraining.load(run_id)] if run_id else interrupted(checkpoint_dir)
    if not work:
        reporter.message("There is nothing interrupted to go on with.")
    options = _Options(force, checkpoint_dir, data, reporter)
    results: dict[str, TrainingResult] = {}
    refused: list[str] = []
    for stored in work:
        try:
            results |= options.go_on(stored)
        except StudyError as error:  # one that cannot go on stops no other
            if run_id:
                raise
            refused.append(stored.name)
            reporter.message(f"{stored.name}: {error}")
    if refused:
        raise UserError(f"Not resumed: {', '.join(refused)}; the lines above say why and what to do")
    return results


def interrupted(checkpoint_dir: str = "") -> list[StoredTraining]:
    """Return the work that did not finish, the earliest first; parts of such work are not listed themselves.

    A training counts if it has checkpoints here, or was killed on this host, be it before its first
    checkpoint; a study or cross-validation if it was killed.
    """
    ended = [
        StoredTraining(run)
        for status in ("KILLED", "FAILED")
        for run in find_runs([f"attributes.status = '{status}'"])
    ]
    parents = [
        stored
        for stored in ended
        if _was_stopped(stored) and stored.stage in _PARENTS and stored.params and stored.tag(Tag.FINGERPRINT)
    ]
    trainings = [
        stored
        for stored in ended
        if stored.stage in _TRAININGS
        and stored.tag(Tag.FAILURE_KIND) != DivergenceError.__name__  # it would end in the same way
        and (
            checkpoint_folder(stored.run_id, _checkpoint_dir(stored, checkpoint_dir)).is_dir()
            or (_was_stopped(stored) and stored.params and is_of_this_host(stored.tag(Tag.PROCESS_HOST)))
        )
    ]
    ids = {parent.run_id for parent in parents}
    wholes = [
        stored
        for stored in [*parents, *trainings]
        if not ids & ({stored.tag(Tag.PARENT_RUN), *stored.tag(Tag.STUDY).split()} - {stored.run_id})
    ]
    return sorted(wholes, key=lambda stored: stored.start)


def _was_stopped(stored: StoredTraining) -> bool:
    """Return whether work was killed or told to end; MLflow makes it FAILED if `mlflow run` had begun it."""
    return stored.status == "KILLED" or stored.tag(Tag.FAILURE_KIND) in _STOPPED


@dataclass(frozen=True)
class _Options:
    """The arguments that all pieces of work to resume have in common; see ``resume``."""

    force: bool
    checkpoint_dir: str
    data: DataFiles | None
    reporter: Reporter

    def go_on(self, stored: StoredTraining) -> dict[str, TrainingResult]:
        """Go on with a training, cross-validation or study.

        Raises:
            UserError: It cannot be gone on with.
        """
        if reason := self._refusal(stored):
            raise UserError(f"run_id={stored.run_id} {reason}")
        if stored.stage == "study":
            result = study(
                _config_of(stored.params),
                folds=int(stored.params["folds"]),
                repeats=int(stored.params.get("repeats", 1)),  # a study before version 0.4 had one seed
                hardware=_hardware_of(stored.params),
                workers=int(stored.params["workers"]),
                variants=stored.params["variants"].split(","),
                data=self._data_of(stored),
                checkpoint_dir=_checkpoint_dir(stored, self.checkpoint_dir),
                resume=stored.run_id,
                reporter=self.reporter,
            )
            return result.trainings
        job = self._job_of(stored)
        if stored.stage == "kfold":
            return kfold_side_by_side(job, int(stored.params.get("workers", 0)), self.reporter)
        changed = [stored.tag(Tag.FINGERPRINT), job.fingerprint()]
        if not self.force and changed[0] and changed[0] != changed[1]:
            raise UserError(f"run_id={stored.run_id} was made of other data: set force=true")
        if stored.stage == "retrain" and not job.study:  # a study evaluates it itself
            return {job.name: retrain(job, self.reporter)[0]}
        return {job.name: job.run(self.reporter, Monitor())}

    def _job_of(self, stored: StoredTraining) -> TrainingJob:
        """Return the job that goes on with a training or cross-validation, made of what its run holds."""
        whole = stored.stage == "kfold"
        hardware = _hardware_of(stored.params)
        if threads := stored.tag(Tag.THREADS):
            hardware = replace(hardware, threads=int(threads))
        return TrainingJob(
            recipe=_recipe_of(stored),
            stage=_stage(stored),
            hardware=hardware,
            data=self._data_of(stored),
            recipe_file=stored.params.get("recipe", ""),
            study=stored.tag(Tag.STUDY),
            parent=stored.tag(Tag.PARENT_RUN),
            fold=int(stored.tag(Tag.FOLD) or 0),
            folds=int(stored.params.get("folds", 0)),
            tags={Tag.FORCED: "true"} if self.force else {},
            checkpoint_dir=_checkpoint_dir(stored, self.checkpoint_dir),
            resume=stored.run_id,
            once=whole,
        )

    def _data_of(self, stored: StoredTraining) -> DataFiles:
        return self.data or DataFiles.at(stored.params["data_dir"])

    def _refusal(self, stored: StoredTraining) -> str:
        """Return why work cannot be resumed; empty if it can."""
        if stored.stage not in (*_TRAININGS, *_PARENTS):
            return f"is of stage {stored.stage!r}: name one of {', '.join((*_TRAININGS, *_PARENTS))}"
        if not stored.params:
            return "was interrupted before it had begun: issue its command again"
        if stored.status == "FINISHED":
            return "has finished: there is nothing to resume"
        if stored.status == "RUNNING":
            return "is being worked on by a process that is alive, or was lately on another host: wait for it"
        present: dict[str, str] = environment_tags()
        names = [*reuse.DECIDING]
        if stored.stage in _TRAININGS:
            present[Tag.PROCESSOR] = processor(_hardware_of(stored.params).prepare())
            names.append(Tag.PROCESSOR)
        changed = [name for name in names if stored.tag(name) != present[name]]
        if changed and not self.force:
            return (
                f"was made in another environment ({', '.join(changed)}): resume it there, or set force=true"
            )
        return ""


def _checkpoint_dir(stored: StoredTraining, chosen: str) -> str:
    """Return the folder of checkpoints that was chosen, else the one that the run was told."""
    folder = stored.params.get("checkpoint_dir", "")  # as the user has typed it
    return chosen or (str(Path(folder).expanduser()) if folder else "")


def _stage(stored: StoredTraining) -> Any:
    """Return the stage of a job: a recipe file's training is of stage ``train`` with a searched recipe."""
    return {"recipe": "train", "kfold": "fold"}.get(stored.stage, stored.stage)


def _recipe_of(stored: StoredTraining) -> Recipe:
    """Return what is trained: of a cross-validation, or if it was killed very early, as the params say."""
    with suppress(StoreError):  # the run holds no recipe file
        return stored.recipe
    choice = RecipeChoice(variant=stored.params["variant"], recipe=stored.params.get("recipe", ""))
    return choice.load(_config_of(stored.params))


def _config_of(params: Mapping[str, str]) -> TrainingConfig:
    """Return the training configuration among a run's params, which are text."""
    names = [field.name for field in fields(TrainingConfig)]
    return TypeAdapter(TrainingConfig).validate_strings({name: params[name] for name in names})


def _hardware_of(params: Mapping[str, str]) -> Hardware:
    """Return the hardware among a run's params."""
    return TypeAdapter(Hardware).validate_strings({name: params[name] for name in ("device", "threads")})
