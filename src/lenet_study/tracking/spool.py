"""The operations by which a run writes, on disk and in order, until the store has them.

An operation is a folder: ``operation.json`` and the files that belong to it. The folder is filled under
another name, forced to disk, and renamed to its number, so that whatever is cut off, a numbered operation is
whole. The spool is locked while a process adds to it or delivers it; the kernel drops the lock of a process
that dies.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from lenet_study.errors import StoreError

LIMIT = 2**30  # bytes of one run's spool
RESERVE = 2**21  # bytes; what a store on the same disk needs to hold the last operations and the run's end
_CONTENT, _ABOUT, _LOCK, _RESERVE = "operation.json", "about.json", "lock", "reserve"


@dataclass(frozen=True)
class Operation:
    """One write operation as it lies on disk."""

    folder: Path
    content: Mapping[str, Any]


class Spool:
    """The operations of one run that the store does not have yet.

    Args:
        folder: For this run alone; made if need be.
        about: Written down for who delivers it later: the store's address, the run's id and name.
        limit: Bytes that it may hold.
        reserve: Bytes to occupy until ``free_reserve``, so that a run whose disk is full can still end.
        patience: Seconds to wait for another process that delivers it.
        fsync: Forces a file or folder, given by its descriptor, to disk.

    Raises:
        StoreError: Another process works with it.
        OSError: The disk is full or cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, str],
        *,
        limit: int = LIMIT,
        reserve: int = RESERVE,
        patience: float = 10,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.about, self._limit, self._fsync = folder, about, limit, fsync
        self._lock = FileLock(folder / _LOCK, thread_local=False)  # the delivering thread gives it back
        try:
            self._lock.acquire(timeout=patience)
        except Timeout as error:
            raise StoreError(f"Another process writes or delivers {folder}: wait for its end") from error
        (folder / _ABOUT).write_text(json.dumps(about))
        numbers = self._numbers()
        self._next = numbers[-1] + 1 if numbers else 1
        self._bytes = sum(_size(folder / f"{number:08d}") for number in numbers)
        if reserve:
            (folder / _RESERVE).write_bytes(bytes(reserve))
        self._adding = threading.Lock()

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Open a spool that a process has left behind.

        Raises:
            StoreError: A process works with it.
        """
        return cls(folder, json.loads((folder / _ABOUT).read_text()), patience=0, reserve=0)

    @contextmanager
    def add(self, content: Mapping[str, object]) -> Iterator[Path]:
        """Add an operation at the end; files written into the folder yielded belong to it.

        Raises:
            StoreError: The spool would hold more than its limit.
            OSError: The disk is full or cannot be written to; what was there is still whole.
        """
        partial = Path(tempfile.mkdtemp(dir=self.folder, prefix="partial-"))
        try:
            yield partial
            (partial / _CONTENT).write_text(json.dumps(content))
            self._sync(partial)
            with self._adding:
                self._bytes += _size(partial)
                if self._bytes > self._limit and content["kind"] != "end":
                    self._bytes -= _size(partial)
                    raise StoreError(
                        f"MLflow's store is away, and {self.folder} has reached its limit of "
                        f"{self._limit / 2**20:.0f} MiB: see to the store, then `resume`"
                    )
                partial.rename(self.folder / f"{self._next:08d}")
                self._next += 1
            self._sync(self.folder, files=False)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def leading(self, together: Collection[str] = (), limit: int = 1) -> list[Operation]:
        """Return the operation to deliver next, and those that may go with it; none if the store has all.

        Args:
            together: Kinds whose order among each other does not matter, unless they name the same file.
            limit: How many at most.
        """
        operations: list[Operation] = []
        names: set[str] = set()
        for number in self._numbers()[:limit]:
            folder = self.folder / f"{number:08d}"
            content = json.loads((folder / _CONTENT).read_text())
            alone = content["kind"] not in together or content.get("name") in names
            if not (alone and operations):
                operations.append(Operation(folder, content))
            if alone:
                break
            names |= {content["name"]} if "name" in content else set()
        return operations

    def remove(self, operation: Operation) -> None:
        """Forget an operation: the store has it."""
        with self._adding:
            self._bytes -= _size(operation.folder)
        # Renamed first: a folder that lost its files half would be no whole operation.
        done = operation.folder.rename(self.folder / f"partial-{operation.folder.name}")
        shutil.rmtree(done)

    def free_reserve(self) -> None:
        """Make room for the end of the run."""
        (self.folder / _RESERVE).unlink(missing_ok=True)

    def __len__(self) -> int:
        """Return how many operations the store does not have yet."""
        return len(self._numbers())

    def close(self) -> None:
        """Let other processes have it; nothing is left of one that is empty."""
        if not len(self):
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # other runs have theirs
                self.folder.parent.rmdir()
        self._lock.release()

    def _numbers(self) -> list[int]:
        with suppress(FileNotFoundError):
            return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
        return []

    def _sync(self, folder: Path, *, files: bool = True) -> None:
        """Force a folder's entries to disk, and the files within it."""
        for path in [*(folder.rglob("*") if files else ()), folder]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                self._fsync(descriptor)
            finally:
                os.close(descriptor)


def left_behind(root: Path) -> list[Path]:
    """Return the folders of all runs' spools below a folder."""
    return sorted(path.parent for path in root.glob(f"*/{_ABOUT}"))


def about(folder: Path) -> dict[str, str]:
    """Return what is written down about a spool; empty if another process has just removed it."""
    try:
        content: dict[str, str] = json.loads((folder / _ABOUT).read_text())
    except (OSError, ValueError):
        return {}
    return content


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
