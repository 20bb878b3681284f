"""``resume``: interrupted trainings go on where they were; ``reap``: runs whose process is gone are ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lenet_study.errors import JobError, UserError
from lenet_study.execution.inline import InlineExecutor
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.liveness import is_abandoned
from lenet_study.tracking.provenance import environment_tags
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import checkpoint_folder, connect, fail, find_runs
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.train import TrainingJob, TrainingResult

_STAGES = ("train", "recipe", "fold", "retrain", "confirm")  # a search trains its trials again itself
_SAME = (Tag.PYTHON, Tag.PACKAGES_SHA256)  # what bits depend on, beside the threads


def resume(
    run_id: str = "",
    *,
    force: bool = False,
    checkpoint_dir: str = "",
    data: DataFiles | None = None,
    reporter: Reporter = Reporter(),
) -> dict[str, TrainingResult]:
    """Go on with interrupted trainings, each in its own run; they end as if nothing had happened.

    Without a run's id, every training of this store goes on that was interrupted on this host; without data,
    with the images that its run names. ``force`` allows other packages, too; the bits may then differ.

    Raises:
        UserError: The run is no training, has finished, still runs, or was made by other packages.
        JobError: A training failed again.
    """
    connect()
    reap(reporter)
    trainings = [StoredTraining.load(run_id)] if run_id else interrupted(checkpoint_dir)
    if not trainings:
        reporter.message("There is no interrupted training to go on with.")
    jobs = []
    for training in trainings:
        reason = _refusal(training, force)
        if reason and run_id:
            raise UserError(f"run_id={run_id} {reason}")
        if reason:
            reporter.message(f"Run {training.run_id} {reason}")
        else:
            job = job_of(training, checkpoint_dir, force)
            jobs.append(replace(job, data=data) if data else job)
    executor = InlineExecutor(reporter)
    results = executor.results({job.name: executor.submit(job) for job in jobs})
    if executor.failed:
        raise JobError(f"Not resumed: {', '.join(executor.failed)}")
    return results


def interrupted(checkpoint_dir: str = "") -> list[StoredTraining]:
    """Return the trainings that have checkpoints here and did not finish, the earliest first."""
    runs = [run for status in ("KILLED", "FAILED") for run in find_runs([f"attributes.status = '{status}'"])]
    return [
        training
        for training in sorted(map(StoredTraining, runs), key=lambda training: training.start)
        if training.stage in _STAGES and checkpoint_folder(training.run_id, checkpoint_dir).is_dir()
    ]


def reap(reporter: Reporter = Reporter()) -> list[str]:
    """End every open run whose process is gone KILLED, and say so; return the ids of these runs."""
    connect()
    ended = []
    for run in find_runs(["attributes.status = 'RUNNING'"]):
        if is_abandoned(run.data.tags):
            fail(run.info.run_id, "its process is gone; `resume` goes on", status="KILLED")
            reporter.message(f"{run.info.run_name}: its process is gone; run {run.info.run_id} ended KILLED")
            ended.append(run.info.run_id)
    if not ended:
        reporter.message("Every open run has its process.")
    return ended


def job_of(training: StoredTraining, checkpoint_dir: str, force: bool) -> TrainingJob:
    """Return the job that goes on with a training, made of what its run holds."""
    stage: Any = training.stage
    device: Any = training.params["device"]
    threads = int(training.tag(Tag.THREADS) or training.params["threads"])
    return TrainingJob(
        recipe=training.recipe,
        stage=stage,
        hardware=Hardware(device=device, threads=threads),
        data=DataFiles(Path(training.params["data_dir"] or DataFiles.at().folder)),
        recipe_file=training.params.get("recipe", ""),
        study=training.tag(Tag.STUDY),
        parent=training.tag(Tag.PARENT_RUN),
        fold=int(training.tag(Tag.FOLD) or 0),
        folds=int(training.params.get("folds", 0)),
        tags={Tag.FORCED: "true"} if force else {},
        checkpoint_dir=checkpoint_dir,
        resume=training.run_id,
    )


def _refusal(training: StoredTraining, force: bool) -> str:
    """Return why a training cannot be resumed; empty if it can."""
    if training.stage not in _STAGES:
        return f"is no training but of stage {training.stage!r}: name one of {', '.join(_STAGES)}"
    if training.status == "FINISHED":
        return "has finished: there is nothing to resume"
    if training.status == "RUNNING":
        return "is being worked on by a process that is alive, or was lately on another host: wait for it"
    present = environment_tags()
    changed = [name for name in _SAME if training.tag(name) != present.get(name, "")]
    if changed and not force:
        return f"was made in another environment ({', '.join(changed)}): resume it there, or set force=true"
    return ""
