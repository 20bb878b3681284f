"""Checks of `doctor`: the store, and what processes have left behind in it and beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lenet_study.errors import UserError
from lenet_study.tracking.disk import local_database
from lenet_study.tracking.half_made import is_half_made, set_aside
from lenet_study.tracking.relocation import moved_from
from lenet_study.tracking.store import checkpoint_folder, connect, store_address
from lenet_study.tracking.store_examination import (
    damage,
    file_store_experiments,
    is_locked,
    known_revisions,
    revision,
)
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.workflows.finding import Finding, guarded
from lenet_study.workflows.orphans import abandoned_runs
from lenet_study.workflows.sync import spools_of_this_store


def store_findings() -> Iterator[Finding]:
    """Examine the present store; what a problem makes pointless is left out."""
    yield guarded("former store", partial(former_store, Path("mlruns")))
    try:
        database = local_database()
    except ValueError:  # an address that names no store: `connect` says so
        database = None
    if database and not database.exists() and database.parent.is_dir():
        yield Finding(name="store", sentence=f"{database} is not there yet: the first command makes it")
        return
    if database and database.is_file():
        for name, check in {"store": lock, "database": whole, "making": making}.items():
            yield (finding := guarded(name, partial(check, database)))
            if finding.state == "problem":
                return
        if not database.exists():  # a half-made one was set aside
            return
        for name, check in {"tables": tables, "artifacts": artifacts}.items():
            yield (finding := guarded(name, partial(check, database)))
            if finding.state == "problem":
                return
    yield (finding := guarded("store", answers))
    if finding.state == "problem":
        return
    yield from (guarded("runs", orphans), guarded("spools", spools), guarded("checkpoints", checkpoints))


def former_store(folder: Path) -> Finding:
    """Look for MLflow's former store of files, which MLflow would take for the default store, and refuses."""
    experiments = file_store_experiments(folder)
    if not experiments:
        return Finding(name="former store", sentence="none")
    sentence = f"{folder} holds {len(experiments)} experiments of MLflow's store of files, which it refuses"
    names = " ".join(map(str, experiments))
    cure = f"`mkdir former-mlruns && mv {names} former-mlruns`; `mlflow migrate-filestore` converts them"
    return Finding(name="former store", state="problem", sentence=sentence, cure=cure)


def lock(database: Path) -> Finding:
    """Look whether a SQLite file can be written to."""
    if is_locked(database):
        cure = "end the program that uses it"
        return Finding(name="store", state="problem", sentence=f"{database} is locked", cure=cure)
    return Finding(name="store", sentence=f"{database} is not locked")


def whole(database: Path) -> Finding:
    """Let SQLite check a file."""
    if problem := damage(database):
        sentence, cure = f"{database} is damaged ({problem})", "put its last backup in its place"
        return Finding(name="database", state="problem", sentence=sentence, cure=cure)
    return Finding(name="database", sentence="whole")


def making(database: Path) -> Finding:
    """Look whether a store's making was cut off, and set one aside that holds nothing; raise as that."""
    if not is_half_made(database):
        return Finding(name="making", sentence="complete")
    sentence = f"was cut off, and nothing was in it: it is now {set_aside(database).name}"
    return Finding(name="making", sentence=f"{sentence}, and the next command makes another")


def tables(database: Path) -> Finding:
    """Compare the version of a store's tables with the installed MLflow's."""
    present, known = revision(database), known_revisions()
    if present in ("", known[0]):  # without tables it is another program's, or empty: `connect` says so
        return Finding(name="tables", sentence="of the installed MLflow's version")
    if present in known:
        cure = f"copy {database}, then `mlflow db upgrade sqlite:///{database}`"
        sentence = f"of an older MLflow's version ({present} instead of {known[0]})"
    else:
        cure = "install the MLflow that wrote it, or set MLFLOW_TRACKING_URI to another store"
        sentence = f"of a newer MLflow's version ({present}, which the installed one does not know)"
    return Finding(name="tables", state="problem", sentence=sentence, cure=cure)


def answers() -> Finding:
    """Open the store; raise as ``connect``."""
    connect()
    return Finding(name="store", sentence=f"{store_address()} answers")


def artifacts(database: Path) -> Finding:
    """Look whether a store's folder was moved: it names its artifacts' folders in full."""
    if not (former := moved_from(database)):
        return Finding(name="artifacts", sentence="where the store says")
    sentence = f"the store's addresses are those of {former}, from which its folder was moved"
    return Finding(name="artifacts", state="problem", sentence=sentence, cure="`lenet-study relocate`")


def orphans() -> Finding:
    """Look for open runs whose process is gone."""
    names = [run.info.run_id for run in abandoned_runs()]
    if not names:
        return Finding(name="runs", sentence="every open run has its process")
    sentence = f"RUNNING without a process: {', '.join(names)}"
    return Finding(name="runs", state="problem", sentence=sentence, cure="`lenet-study reap`")


def spools() -> Finding:
    """Look for what runs of this store have written and it does not have."""
    folders = spools_of_this_store()
    if not folders:
        return Finding(name="spools", sentence="nothing waits to be delivered")
    sentence = f"{', '.join(path.name for path in folders)} wait to be delivered"
    return Finding(name="spools", state="warning", sentence=sentence, cure="`lenet-study sync`")


def checkpoints() -> Finding:
    """Look for checkpoints without a run in this store."""
    lost = [folder for folder in sorted(checkpoint_folder("").glob("*")) if not _has_run(folder.name)]
    if not lost:
        return Finding(name="checkpoints", sentence="all have their run")
    names = shlex.join(map(str, lost))
    sentence = f"{len(lost)} folders without a run in this store"
    return Finding(
        name="checkpoints", state="warning", sentence=sentence, cure=f"`rm -r {names}`, unless needed"
    )


def _has_run(run_id: str) -> bool:
    try:
        StoredTraining.load(run_id)
    except UserError:
        return False
    return True
