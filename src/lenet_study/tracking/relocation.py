"""A SQLite store whose folder was moved: the absolute addresses that MLflow keeps then lead nowhere."""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lenet_study.errors import DiskError, StoreError, UserError
from lenet_study.tracking.disk import full_folder, sqlite_file
from lenet_study.tracking.liveness import is_abandoned
from lenet_study.tracking.schema import Tag

PATIENCE = 60.0  # seconds for another process that opens the store
# Every column in which MLflow keeps an address of artifacts: table, column, and which of its rows.
_ADDRESSES = (
    ("experiments", "artifact_location", "1"),
    ("runs", "artifact_uri", "1"),
    ("logged_models", "artifact_location", "1"),
    ("model_versions", "source", "1"),
    ("model_versions", "storage_location", "1"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
)


@dataclass(frozen=True, kw_only=True)
class Relocation:
    """What was changed: former folders, how many addresses, and the database as it was before."""

    roots: tuple[Path, ...] = ()
    addresses: int = 0
    copy: Path | None = None


def moved_from(database: Path) -> Path | None:
    """Return the folder that a store was moved from; None if it was not, or if it cannot be read.

    One query of the experiments, each with a folder of artifacts: a store without artifacts has none of them.
    """
    with suppress(sqlite3.Error), sqlite_file(database) as connection:
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        return next(iter(_former_roots((value for (value,) in rows), database.parent.resolve())), None)
    return None


def relocate(database: Path) -> Relocation:
    """Make a moved store's addresses those of its present folder; a copy of the database stays beside it.

    Addresses that exist are left as they are, and so are those of other stores, such as s3://.

    Raises:
        UserError: It is no store of MLflow, or a process works on one of its runs.
        StoreError: Another process holds the store.
        DiskError: There is no room for the copy.
    """
    folder = database.parent.resolve()
    with _alone(database), _readable(database), sqlite_file(database) as connection:
        roots = _former_roots((value for *_, value in _addresses(connection)), folder)
        if not roots:
            return Relocation()
        if busy := _busy_runs(connection):
            raise UserError(f"A process works on run {busy[0]} of {database}: wait for its end, or end it")
        copy = database.with_name(f"{database.name}.before-relocate-{time.strftime('%Y%m%d-%H%M%S')}")
        copy_database(database, copy)
        moves = dict.fromkeys(roots, folder)
        # First: once no address leads nowhere, nothing is done any more.
        rewrite_spools(folder / "spool", {root / database.name: database.resolve() for root in roots})
        count = _rewrite(connection, moves, keep_existing=True)
    return Relocation(roots=roots, addresses=count, copy=copy)


def copy_database(database: Path, copy: Path) -> None:
    """Copy a SQLite database as it is at one moment, though others write to it; whole or not at all.

    Raises:
        DiskError: The disk is full.
    """
    partial = copy.with_name(f".{copy.name}.partial")
    try:
        with sqlite_file(database) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(copy)
    except sqlite3.Error as error:
        if full_folder(error):
            raise DiskError(f"The disk of {copy.parent} is full: make room there") from error
        raise
    finally:
        for leftover in copy.parent.glob(f"{partial.name}*"):  # with a journal, perhaps
            leftover.unlink()


def artifact_folders(database: Path) -> list[Path]:
    """Return the folders of this computer that hold the artifacts of a store, none below another."""
    with _readable(database), sqlite_file(database) as connection:
        paths = {path for *_, value in _addresses(connection) if (path := _local_path(value))}
    return sorted(path for path in paths if path.is_dir() and not paths & set(path.parents))


def search_databases(database: Path) -> list[Path]:
    """Return the databases of searches that lie beside a store."""
    beside = (path for path in sorted(database.parent.glob("*.db")) if path.name != database.name)
    return [path for path in beside if _is_searches(path)]


def counts(database: Path) -> dict[str, int]:
    """Return how many runs and registered versions a store holds."""
    tables = {"runs": "runs", "versions": "model_versions"}
    with _readable(database), sqlite_file(database) as connection:
        return {
            name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for name, table in tables.items()
        }


def move(database: Path, moves: Mapping[Path, Path]) -> None:
    """Change all addresses below former folders, given with the new ones, in a store that nobody uses yet."""
    with _readable(database), sqlite_file(database) as connection:
        _rewrite(connection, moves, keep_existing=False)


def foreign_addresses(database: Path) -> set[str]:
    """Return the beginnings of addresses that lead to no folder of this computer, such as ``s3:``."""
    with _readable(database), sqlite_file(database) as connection:
        found = {value.partition(":")[0] for *_, value in _addresses(connection) if not _local_path(value)}
    return {f"{scheme}:" for scheme in found - {"runs", "models"}}


def rewrite_spools(spools: Path, databases: Mapping[Path, Path]) -> None:
    """Make what runs have left undelivered belong to a store's present file, given by its former one."""
    new = {f"sqlite:///{former}": f"sqlite:///{database}" for former, database in databases.items()}
    for path in spools.glob("*/about.json"):
        about = json.loads(path.read_text())
        if about.get("store") in new:
            partial = path.with_name(".about.partial")
            partial.write_text(json.dumps({**about, "store": new[about["store"]]}))
            partial.replace(path)


def _rewrite(connection: sqlite3.Connection, moves: Mapping[Path, Path], *, keep_existing: bool) -> int:
    """Change all addresses below the former folders in one transaction, and return how many were.

    Args:
        connection: Of the store.
        moves: New folders by former ones.
        keep_existing: Leave an address as it is if its file or folder exists.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        changes = [
            (table, column, row, new)
            for table, column, row, value in _addresses(connection)
            if (new := _moved(value, moves, keep_existing)) != value
        ]
        for table, column, row, new in changes:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
    return len(changes)


def _is_searches(path: Path) -> bool:
    with suppress(sqlite3.Error), sqlite_file(path) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {"studies", "trials"} <= {name for (name,) in rows}
    return False


def _addresses(connection: sqlite3.Connection) -> Iterator[tuple[str, str, int, str]]:
    """Yield table, column, number of the row, and value of every address."""
    for table, column, condition in _ADDRESSES:
        query = f"SELECT rowid, {column} FROM {table} WHERE {condition} AND {column} IS NOT NULL"
        yield from ((table, column, row, value) for row, value in connection.execute(query).fetchall())


def _former_roots(addresses: Iterator[str], folder: Path) -> tuple[Path, ...]:
    """Return the folders below which addresses do not exist that do exist below another folder."""
    found = {_former_root(path, folder) for value in addresses if (path := _local_path(value))}
    return tuple(sorted(root for root in found if root))


def _former_root(path: Path, folder: Path) -> Path | None:
    # At least the last two names must be there: `data` alone, of a disk that is not mounted, tells nothing.
    if path.exists():
        return None
    return next(
        (root for root in path.parents[:0:-1] if (folder / path.relative_to(root)).is_dir()),
        None,
    )


def _local_path(address: str) -> Path | None:
    """Return the path that an address names; None if it is one of another store.

    >>> _local_path("file:///a%20b/mlruns/1"), _local_path("/a/mlruns/1"), _local_path("s3://bucket/1")
    (PosixPath('/a b/mlruns/1'), PosixPath('/a/mlruns/1'), None)
    """
    if address.startswith("file:"):
        address = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    return Path(address) if address.startswith("/") else None


def _moved(address: str, moves: Mapping[Path, Path], keep_existing: bool) -> str:
    """Return what an address becomes."""
    path = _local_path(address)
    root = path and next((root for root in moves if path.is_relative_to(root)), None)
    if not path or not root or (keep_existing and path.exists()):
        return address
    new = moves[root] / path.relative_to(root)
    return new.as_uri() if address.startswith("file:") else str(new)


def _busy_runs(connection: sqlite3.Connection) -> list[str]:
    """Return the runs that name the process that works on them, and that process lives."""
    query = "SELECT run_uuid FROM runs WHERE status = 'RUNNING'"
    tags_of = "SELECT key, value FROM tags WHERE run_uuid = ?"
    tags = {run_id: dict(connection.execute(tags_of, (run_id,))) for (run_id,) in connection.execute(query)}
    named = {run_id: values for run_id, values in tags.items() if Tag.PROCESS_PID in values}
    return [run_id for run_id, values in named.items() if not is_abandoned(values)]


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    """Hold the locks under which processes open the store, and claim work in it."""
    try:
        with (
            FileLock(f"{database}.claims", timeout=PATIENCE),
            FileLock(f"{database}.lock", timeout=PATIENCE),
        ):
            yield
    except Timeout as error:
        raise StoreError(f"Another process holds {error.lock_file}: wait for its end") from error


@contextmanager
def _readable(database: Path) -> Iterator[None]:
    """Turn a file's refusal to be read as a store into one sentence."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise UserError(f"{database} is no store of MLflow ({error}): set MLFLOW_TRACKING_URI") from error
        raise StoreError(f"{database} failed ({error}): see which program uses it") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{database} cannot be read ({error}): bring it back from a backup") from error
