"""SQLite stores whose making was cut off, as by several `mlflow run` at once: MLflow opens them no more."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from lenet_study.errors import UserError
from lenet_study.tracking.disk import sqlite_file

QUIET_SECONDS = 10.0  # without a change, after which no process makes it any more
_LEFTOVER = "_alembic_tmp_"  # tables that a migration of MLflow makes and removes


def is_half_made(database: Path) -> bool:
    """Return whether a migration of MLflow in a SQLite file was cut off."""
    try:
        tables = _tables(database)
    except sqlite3.DatabaseError:  # no database, or locked by another program
        return False
    return "alembic_version" in tables and (
        any(table.startswith(_LEFTOVER) for table in tables) or not _filled(tables)
    )


def set_aside(database: Path) -> Path:
    """Rename a half-made store that holds nothing, so that a new one can be made; return its new path.

    Raises:
        UserError: It holds something, or a process may still make it.
    """
    if filled := _filled(_tables(database)):
        raise UserError(
            f"An upgrade of {database} was cut off, and it holds rows ({', '.join(filled)}): put the copy "
            "back that was made before `mlflow db upgrade`, or set MLFLOW_TRACKING_URI to another store"
        )
    if time.time() - database.stat().st_mtime < QUIET_SECONDS:
        raise UserError(f"{database} was changed a moment ago: try again in {QUIET_SECONDS:.0f} s")
    aside = database.with_name(f"{database.name}.half-made-{time.strftime('%Y%m%d-%H%M%S')}")
    return database.rename(aside)


def _filled(tables: dict[str, bool]) -> list[str]:
    return sorted(table for table, has_rows in tables.items() if has_rows and table != "alembic_version")


def _tables(database: Path) -> dict[str, bool]:
    """Return the tables, and whether each has rows; not how many, which takes long in a large store."""
    with sqlite_file(database, timeout=5.0) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {name: connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for (name,) in names}
        return {name: row is not None for name, row in rows.items()}
