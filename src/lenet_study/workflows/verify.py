"""``verify``: whether what a store holds is what was logged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lenet_study.errors import IntegrityError, UserError, one_line
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import registry
from lenet_study.tracking.disk import local_database
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import checkpoint_folder, connect, find_runs
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.training.data_files import DataFiles

ALL = "all"


@dataclass
class _Report:
    """What was looked at, by kind, and what is wrong with it."""

    reporter: Reporter
    counts: dict[str, int] = field(default_factory=dict)
    damaged: int = 0

    def look(self, kind: str, name: str, problems: Iterator[str]) -> None:
        """Count a thing, and say what is wrong with it; what ``problems`` raises is a problem, too."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        sentences: list[str] = []
        try:
            sentences.extend(problems)
        except UserError as error:
            sentences.append(str(error))
        for sentence in sentences:
            self.reporter.message(f"{name}: {sentence}")
        self.damaged += bool(sentences)


def verify(run_id: str = ALL, data: DataFiles | None = None, reporter: Reporter = Reporter()) -> None:
    """Compare a run, or all finished runs and what lies beside them, with what was logged.

    Args:
        run_id: Id of a run; ``all`` for those that have finished, their models and registered versions, the
            data, checkpoints and databases.
        data: The images; None takes those that a command would.
        reporter: Receives a line for whatever is damaged, and a summary.

    Raises:
        IntegrityError: Something is damaged.
        UserError: The store has no such run.
        StoreError: The store failed.
    """
    connect()
    report = _Report(reporter)
    if run_id == ALL:
        _look_beside(report, data or DataFiles.at())
        runs = [StoredTraining(run) for run in find_runs(["attributes.status = 'FINISHED'"])]
    else:
        runs = [StoredTraining.load(run_id)]
    for stored in runs:
        report.look("runs", f"{stored.name} (run {stored.run_id})", _run_problems(stored))
    looked = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
    if report.damaged:
        raise IntegrityError(f"Of {looked}, {report.damaged} are damaged: the lines above say which, and how")
    reporter.message(f"{looked}: all as they were logged.")


def _run_problems(stored: StoredTraining) -> Iterator[str]:
    if stored.status != "FINISHED":
        yield f"it is {stored.status}, and has not logged all of its sums"
        return
    yield from stored.changes()
    if stored.tag(Tag.MODEL_SHA256):
        if version := registry.version_of(stored.run_id):
            registry.check_model(version)
        else:
            registry.load_model(stored.run_id)


def _look_beside(report: _Report, data: DataFiles) -> None:
    """Look at what belongs to no run: databases, data, and the checkpoints of interrupted trainings."""
    database = local_database()
    folder = database.parent if database else Path()
    for path in sorted(folder.glob("*.db")):
        report.look("databases", str(path), _database_problems(path))
    if not data.missing():
        report.look("data sets", str(data.folder), _data_problems(data))
    for path in sorted(checkpoint_folder("").glob("*/")):
        report.look("folders of checkpoints", str(path), _checkpoint_problems(path))


def _data_problems(data: DataFiles) -> Iterator[str]:
    data.verify()
    yield from ()


def _database_problems(path: Path) -> Iterator[str]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = [row for (row,) in connection.execute("PRAGMA integrity_check(5)") if row != "ok"]
    except sqlite3.DatabaseError as error:
        rows = [str(error)]
    if rows:
        yield f"SQLite finds it damaged ({one_line(Exception(rows[0]))}): restore a backup"


def _checkpoint_problems(folder: Path) -> Iterator[str]:
    checkpoints = Checkpoints(folder)
    checkpoints.newest()
    for path in checkpoints.damaged:
        yield f"{path.name} is damaged: `resume` passes it over"
