"""Stores in folders of their own, and the project's commands in processes that work on them."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
from tests.toys import Command, toy_split, write_data_files

from bench.reliability.content import Content, read
from lenet_study.training.data_files import DataFiles

ROOT = Path(__file__).parents[2]
LIMIT = 600  # seconds after which a command is taken for one that hangs
_FOREIGN = ("MLFLOW_", "LENET_STUDY_")  # variables that would lead a command to another store or data


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: Its exit code as shells have it; None if it did not end within the limit and was killed.
        seconds: What it took.
        output: What it wrote to the terminal.
    """

    code: int | None
    seconds: float
    output: str

    def deviations(self, name: str, code: int = 0) -> list[str]:
        """Return in what it did not end as a command should that fails or succeeds in order.

        Args:
            name: What to call the command.
            code: The exit code that it should have.
        """
        if self.code is None:
            return [f"{name} did not end"]
        found = [f"{name} exited with {self.code}"] if self.code != code else []
        if "Traceback (most recent call last)" in self.output:
            found.append(f"{name} printed a traceback")
        return found


class ToyStore:
    """A store in a folder, which is also the folder that commands work in.

    Args:
        folder: Exists.
        files: The toy images.
        uri: Its address; empty for a SQLite file in the folder.
    """

    def __init__(self, folder: Path, files: DataFiles, uri: str = "") -> None:
        self.folder = folder
        self.database = folder / "mlflow.db"
        self.uri = uri or f"sqlite:///{self.database}"
        self.files = files

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a command that works on this store."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        # Absolute: the command and the processes that it starts work in the store's folder.
        return {**inherited, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "MLFLOW_TRACKING_URI": self.uri}

    def start(self, *arguments: str, **variables: str) -> Command:
        """Start a command; environment variables may be added or replaced."""
        # Not on a disk that is full, and new: what an earlier command has said would end a wait at once.
        descriptor, log = tempfile.mkstemp(".log", f"{self.folder.name}-", self.folder.parent)
        os.close(descriptor)
        return Command(arguments, self.files, Path(log), self.folder, self.environment | variables)

    def run(self, *arguments: str) -> Ended:
        """Run a command to its end."""
        return end_of(self.start(*arguments))

    def content(self) -> Content:
        """Return what the store holds now."""
        return read(self.uri)


class ToyStores:
    """Makes stores.

    Args:
        folder: For all of them.
        template: A database with MLflow's tables and nothing in them; None makes one, which takes seconds.

    Attributes:
        random: Draws the moments at which faults are injected.
    """

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        self.folder = folder
        self.random = random.Random(0)
        self.files = write_data_files(folder / "data", toy_split(200, seed=1), toy_split(60, seed=2))
        self._count = 0
        self.uninterrupted = cache(self._uninterrupted)
        self._template = template or self._make_template()

    def fresh(self) -> ToyStore:
        """Return a store that nobody has opened yet."""
        self._count += 1
        folder = self.folder / f"store-{self._count}"
        folder.mkdir()
        return ToyStore(folder, self.files)

    def new(self, folder: Path | None = None, uri: str = "") -> ToyStore:
        """Return an empty store with its tables, in a folder that exists or in one of its own."""
        store = ToyStore(folder, self.files, uri) if folder else self.fresh()
        shutil.copy(self._template, store.database)
        return store

    def _make_template(self) -> Path:
        store = self.fresh()
        ended = store.run("reap")  # any command opens the store
        assert ended.code == 0, ended.output
        return store.database

    def _uninterrupted(self, *arguments: str) -> tuple[Content, float]:
        """Return what a command leaves in a store if nothing happens to it, and the seconds it takes."""
        store = self.new()
        ended = store.run(*arguments)
        assert ended.code == 0, ended.output
        return store.content(), ended.seconds

    def discard(self, store: ToyStore) -> None:
        """Remove a store that ended as promised: fifty of them fill a disk."""
        shutil.rmtree(store.folder)

    def strike(
        self, arguments: tuple[str, ...], number: int
    ) -> tuple[ToyStore, Command, list[psutil.Process]]:
        """Send a signal to a command at a random moment of its life.

        Returns:
            Its store, the command, and the processes that it had. A moment after the command's end is no
            such moment: another is drawn, on another store.
        """
        _, seconds = self.uninterrupted(*arguments)
        while True:
            store = self.new()
            command = store.start(*arguments)
            command.wait(self.random.uniform(0, seconds))
            if command.poll() is None:
                children = children_of(command)
                os.kill(command.pid, number)
                return store, command, children
            self.discard(store)


def end_of(command: Command, limit: float = LIMIT) -> Ended:
    """Wait for a command's end; kill it after so many seconds."""
    start = time.monotonic()
    code = command.wait(limit)
    seconds = time.monotonic() - start
    if code is None:
        command.process.kill()
        command.wait()
    elif code < 0:
        code = 128 - code  # ended by a signal
    return Ended(code, seconds, command.log.read_text(errors="replace"))


def wait_for(command: Command, text: str) -> float:
    """Wait until a command that runs has written a text; return when that was."""
    deadline = time.monotonic() + LIMIT
    while text not in command.log.read_text() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return time.monotonic()


def children_of(command: Command) -> list[psutil.Process]:
    """Return all processes below a command's."""
    try:
        return psutil.Process(command.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
