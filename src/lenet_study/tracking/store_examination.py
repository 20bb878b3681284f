"""What can be told about a store on this disk without MLflow, which would make or upgrade its tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory

_MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations"


def is_locked(database: Path, timeout: float = 2.0) -> bool:
    """Return whether another program keeps a SQLite file from being written to for so many seconds."""
    try:
        with closing(_open(database, "rw", timeout)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    return False


def damage(database: Path) -> str:
    """Return the first thing that SQLite finds damaged in a file; empty if it is whole."""
    try:
        with closing(_open(database)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if answer == "ok" else str(answer)


def revision(database: Path) -> str:
    """Return the version of the tables of MLflow in a SQLite file; empty if it has none."""
    with closing(_open(database)) as connection:
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall() if tables else []
    return rows[0][0] if rows else ""


def known_revisions() -> list[str]:
    """Return the versions of tables that the installed MLflow knows, its own first."""
    return [script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()]


def lost_artifact_folders(database: Path) -> list[Path]:
    """Return the folders of artifacts that a SQLite store names, that are gone and lie beside it instead."""
    beside = database.resolve().parent / "mlruns"
    with closing(_open(database)) as connection:
        query = "SELECT DISTINCT artifact_location FROM experiments JOIN runs USING (experiment_id)"
        folders = {Path(row[0].removeprefix("file://")).parent for row in connection.execute(query)}
    absolute = sorted(folder for folder in folders if folder.is_absolute() and not folder.is_dir())
    return absolute if beside.is_dir() else []


def file_store_experiments(folder: Path) -> list[Path]:
    """Return the experiments of MLflow's former store of files in a folder: it would be the default store."""
    return sorted(path.parent for path in folder.glob("*/meta.yaml") if path.parent.name.isdigit())


def _open(database: Path, mode: str = "ro", timeout: float = 2.0) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.resolve().as_uri()}?mode={mode}", uri=True, timeout=timeout)
