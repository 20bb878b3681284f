"""``backup``: a local store with its artifacts, searches and checkpoints as one archive."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lenet_study.errors import UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import archive, relocation
from lenet_study.tracking.spool import left_behind
from lenet_study.tracking.store import connect, local_store

KIND = "store"


def backup(to: Path | None = None, reporter: Reporter = Reporter()) -> None:
    """Write an archive of the present local store; others may go on writing to the store.

    The database is taken first, as it is at one moment: every file that it names was there then.

    Args:
        to: The archive, which does not exist; None is a file of this folder with the time in its name.
        reporter: Is told its size, and how many runs and versions it holds.

    Raises:
        UserError: The archive is there already, or there is no local store.
        DiskError: The archive's disk is full.
    """
    database = local_store()
    connect()
    folder = database.parent.resolve()
    to = to or Path(f"{database.stem}-{time.strftime('%Y%m%d-%H%M%S')}.tar")
    about: dict[str, Any] = {"kind": KIND, "database": database.name, "roots": {str(folder): "."}}
    with archive.writing(to, about) as writer, ExitStack() as stack:
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as copies:
            for path in (database, *relocation.search_databases(database)):
                copy = Path(copies, path.name)
                relocation.copy_database(path, copy)
                _add(writer, path.name, copy)
            about |= relocation.counts(Path(copies, database.name))
            foreign = sorted(relocation.foreign_addresses(Path(copies, database.name)))
            artifacts = relocation.artifact_folders(Path(copies, database.name))
        for number, path in enumerate([*artifacts, folder / "checkpoints", *_idle_spools(folder, stack)]):
            name = f"elsewhere/{number}"
            if path.is_relative_to(folder):
                name = str(path.relative_to(folder))
            else:
                about["roots"][str(path)] = name
            for file in _files(path):
                _add(writer, f"{name}/{file.relative_to(path)}", file)
    size = to.stat().st_size / 2**20
    if foreign:
        reporter.message(f"Artifacts at {', '.join(foreign)} are not in it: they need a backup of their own.")
    reporter.message(
        f"{to}: {about['runs']} runs and {about['versions']} versions in {len(writer.sums) - 2} files, "
        f"{size:.1f} MiB; `lenet-study restore` brings them back"
    )


def restore(source: Path, to: Path, reporter: Reporter = Reporter()) -> None:
    """Bring a store back from its archive, into a folder of its own, if all sums are right.

    Args:
        source: The archive.
        to: A folder that does not exist, or is empty.
        reporter: Is told the store's address.

    Raises:
        UserError: The folder is not empty, or the archive was damaged or is another thing's.
        DiskError: The folder's disk is full.
    """
    folder = Path(os.path.realpath(to))
    if "%" in str(folder):
        raise UserError(
            f"to={to} has a percent sign, which MLflow cannot keep runs below: name another folder"
        )
    with archive.filling(folder) as partial:
        about = archive.read(source, partial)
        if about.get("kind") != KIND:
            raise UserError(
                f"source={source} is no local store's backup: `make server-restore` takes a server's"
            )
        name = Path(about["database"]).name
        roots = {Path(former): folder / place for former, place in about["roots"].items()}
        relocation.move(partial / name, roots)
        former = next(iter(roots))  # the store's own folder is the first
        relocation.rewrite_spools(partial / "spool", {former / name: folder / name})
    reporter.message(
        f"{about['runs']} runs and {about['versions']} versions are in {folder}: "
        f"export MLFLOW_TRACKING_URI=sqlite:///{folder / name} (`mlflow ui` is to be started there)"
    )


def _add(writer: archive.Writer, name: str, path: Path) -> None:
    with suppress(FileNotFoundError), path.open("rb") as file:  # removed by the process that works on it
        writer.add(name, file)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _idle_spools(folder: Path, stack: ExitStack) -> Iterator[Path]:
    """Yield what processes that are gone have not delivered; nobody else delivers it while it is copied."""
    for spool in left_behind(folder / "spool"):
        with suppress(Timeout):  # of a process that works
            stack.enter_context(FileLock(spool / "lock", timeout=0))
            yield spool
