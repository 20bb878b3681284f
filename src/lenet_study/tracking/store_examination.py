"""What can be told about a store on this disk without MLflow, which would make or upgrade its tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory

from lenet_study.errors import StoreError
from lenet_study.tracking.disk import sqlite_file

_MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations"


def is_locked(database: Path, timeout: float = 2.0) -> bool:
    """Return whether another program keeps a SQLite file from being written to for so many seconds."""
    try:
        with sqlite_file(database, timeout=timeout) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    return False


def damage(database: Path) -> str:
    """Return the first thing that SQLite finds damaged in a file; empty if it is whole.

    Raises:
        StoreError: Another program keeps it locked.
    """
    try:  # not read-only: what a killed process has left half done is undone first
        with sqlite_file(database) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise StoreError(f"{database} is locked: see which program uses it") from error
        return str(error)
    return "" if answer == "ok" else str(answer)


def revision(database: Path) -> str:
    """Return the version of the tables of MLflow in a SQLite file; empty if it has none."""
    with sqlite_file(database, "ro", timeout=2.0) as connection:
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall() if tables else []
    return rows[0][0] if rows else ""


def known_revisions() -> list[str]:
    """Return the versions of tables that the installed MLflow knows, its own first."""
    return [script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()]


def file_store_experiments(folder: Path) -> list[Path]:
    """Return the experiments of MLflow's former store of files in a folder: it would be the default store."""
    return sorted(path.parent for path in folder.glob("*/meta.yaml") if path.parent.name.isdigit())
