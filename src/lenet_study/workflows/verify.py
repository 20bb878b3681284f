"""``verify``: whether what a store holds is what was logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lenet_study.errors import IntegrityError, UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import registry
from lenet_study.tracking.champions import CHAMPION, Champions
from lenet_study.tracking.disk import local_database
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import NAME, checkpoint_folder, connect, find_runs
from lenet_study.tracking.store_examination import damage
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.training.data_files import DataFiles

ALL = "all"
_CHECKED = ("FINISHED", "KILLED")  # what was to be logged of a run that FAILED may have been refused


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
        except (UserError, IntegrityError) as error:
            sentences.append(str(error))
        for sentence in sentences:
            self.reporter.message(f"{name}: {sentence}")
        self.damaged += bool(sentences)


def verify(run_id: str = ALL, data: DataFiles | None = None, reporter: Reporter = Reporter()) -> None:
    """Compare a run, or all of a store and what lies beside it, with what was logged.

    Args:
        run_id: Id of a run; ``all`` for those that have finished or were stopped, their models and registered
            versions, the data, checkpoints and databases.
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
        runs = [
            StoredTraining(run)
            for status in _CHECKED
            for run in find_runs([f"attributes.status = '{status}'"])
        ]
    else:
        runs = [StoredTraining.load(run_id)]
    for stored in runs:
        report.look("runs", f"{stored.name} (run {stored.run_id})", _run_problems(stored))
    looked = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
    if report.damaged:
        raise IntegrityError(f"Of {looked}, {report.damaged} are damaged: the lines above say which, and how")
    reporter.message(f"{looked}: all as they were logged.")


def _run_problems(stored: StoredTraining) -> Iterator[str]:
    if stored.status not in _CHECKED:
        yield f"it is {stored.status}, and has not logged all of its sums"
        return
    yield from stored.changes()
    if stored.status == "FINISHED" and stored.tag(Tag.MODEL_SHA256):
        if version := registry.version_of(stored.run_id):
            registry.check_model(version, stored)
        else:
            registry.load_model(stored.run_id)


def _look_beside(report: _Report, data: DataFiles) -> None:
    """Look at what belongs to no run: databases, data, interrupted trainings' checkpoints, the history."""
    database = local_database()
    folder = database.parent if database else Path()
    for path in sorted(path for path in folder.glob("*.db") if path == database or _is_sqlite(path)):
        report.look("databases", str(path), _database_problems(path))
    if not data.missing():
        report.look("data sets", str(data.folder), _data_problems(data))
    for path in sorted(checkpoint_folder("").glob("*/")):
        report.look("folders of checkpoints", str(path), _checkpoint_problems(path))
    report.look("histories of the champion", NAME, _history_problems())


def _data_problems(data: DataFiles) -> Iterator[str]:
    data.verify()
    yield from ()


def _database_problems(path: Path) -> Iterator[str]:
    if problem := damage(path):
        yield f"SQLite finds it damaged ({problem}): restore a backup"


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def _history_problems() -> Iterator[str]:
    state = Champions().history()  # raises if an entry is damaged
    alias = state.aliases.get(CHAMPION, "")
    if state.changes and state.settled and state.champion != alias:
        yield f"its {CHAMPION} is {alias or 'none'}, {state.champion} in the history: `promote` settles it"


def _checkpoint_problems(folder: Path) -> Iterator[str]:
    for path in Checkpoints(folder).damaged():
        yield f"{path.name} is damaged: `resume` passes it over"
