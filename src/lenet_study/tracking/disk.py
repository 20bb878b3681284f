"""Where a local store lies; disks without room: which one failed, and a look before what cannot fail well."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from lenet_study.errors import DiskError

_NO_ROOM = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full")  # the last is SQLite's


def database_file(uri: str) -> Path | None:
    """Return the file of a store in SQLite; None for every other store.

    Raises:
        ValueError: It is no address, or names no file.
    """
    if not uri.startswith("sqlite"):
        return None
    try:
        database = make_url(uri).database
    except ArgumentError as error:
        raise ValueError(str(error)) from error
    if database in (None, "", ":memory:"):
        raise ValueError("it would be lost with this process")
    return Path(database)


@contextmanager
def sqlite_file(database: Path, mode: str = "rw", timeout: float = 20.0) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file, which is not made; transactions begin where they are said to.

    Args:
        database: The file.
        mode: ``ro`` to read alone; what a killed process has left half done is undone by ``rw`` alone.
        timeout: Seconds for another program that has locked it.
    """
    address = f"{database.resolve().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=timeout)) as connection:
        yield connection


def local_database() -> Path | None:
    """Return the file of the present store in SQLite; None for every other store."""
    return database_file(mlflow.get_tracking_uri())


def store_folder() -> Path:
    """Return the folder of a store in SQLite; for every other store, this one."""
    database = local_database()
    return database.parent if database else Path()


def full_folder(error: Exception) -> Path | None:
    """Return the folder that had no room for what was written; None if an error is about another thing."""
    text = str(error)
    if not any(words in text for words in _NO_ROOM):
        return None
    # Python names a file that cannot be opened or copied, the copy's name last, but not one that was open.
    if files := re.findall(r"'(/[^']*)'", text):
        return next(folder for folder in Path(files[-1]).parents if folder.is_dir())  # some are gone by now
    temporary = Path(tempfile.gettempdir())
    return min(store_folder().resolve(), temporary, key=lambda folder: shutil.disk_usage(folder).free)


def no_room(folder: Path) -> DiskError:
    """Return the error of a disk without room."""
    return DiskError(f"The disk of {folder} is full: make room there, then `resume` goes on")


def require_room(folder: Path, size: int) -> None:
    """Refuse to write so many bytes to a folder that has no room for them.

    torch's writer of models ends the whole process when a disk is full.

    Raises:
        OSError: The disk has fewer free bytes.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
