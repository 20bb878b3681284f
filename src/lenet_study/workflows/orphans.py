"""``reap``: runs whose process is gone are ended."""

from __future__ import annotations

from contextlib import suppress

from lenet_study.errors import UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.liveness import is_abandoned
from lenet_study.tracking.store import StoredRun, checkpoint_folder, connect, fail, find_runs
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.workflows.sync import deliver_left_behind


def reap(reporter: Reporter = Reporter()) -> list[str]:
    """End every open run whose process is gone, say what was found, and return the ids of these runs."""
    ended = end_abandoned(reporter)
    if not ended:
        reporter.message("Every open run has its process.")
    return ended


def end_abandoned(reporter: Reporter) -> list[str]:
    """End every open run whose process is gone KILLED, and say so; return the ids of these runs.

    Operations that processes have left behind are delivered first: the end of such a run may be among them.
    """
    connect()
    deliver_left_behind(reporter)
    ended = []
    for run in abandoned_runs():
        fail(run.info.run_id, "its process is gone; `resume` goes on", status="KILLED")
        reporter.message(f"{run.info.run_name}: its process is gone; run {run.info.run_id} ended KILLED")
        ended.append(run.info.run_id)
    _remove_checkpoints_of_finished()
    return ended


def abandoned_runs() -> list[StoredRun]:
    """Return the open runs whose process is gone."""
    return [run for run in find_runs(["attributes.status = 'RUNNING'"]) if is_abandoned(run.data.tags)]


def _remove_checkpoints_of_finished() -> None:
    """Remove the checkpoints of processes that were killed between their run's end and this removal."""
    for folder in checkpoint_folder("").glob("*"):
        with suppress(UserError):  # of another store
            if StoredTraining.load(folder.name).status == "FINISHED":
                Checkpoints(folder).remove()
