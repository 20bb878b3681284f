"""Checkpoints: where a training stands after an epoch, each written whole or not at all.

A file is the SHA-256 sum of its payload, then the payload: ``torch.save`` of the loop's state. A new one is
written beside its place, forced to disk, and renamed; the folder is forced to disk after that. Whatever is
cut off, the newest whole file is a state that the training had.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lenet_study.errors import DiskError

KEPT = 2  # the newest may be damaged; the one before it then stands in
_SUM = 32  # bytes of a SHA-256 sum


class Checkpoints:
    """The checkpoints of one training, in a folder for them alone; ``fsync`` takes a descriptor."""

    def __init__(self, folder: Path, fsync: Callable[[int], None] = os.fsync) -> None:
        self.folder = folder
        self._fsync = fsync
        self.passed_over: list[Path] = []  # by ``newest``, because they are damaged

    def write(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after so many epochs, and remove all but the newest two.

        Raises:
            DiskError: The disk is full or cannot be written to; what was there is still whole.
        """
        try:
            self._write(epoch, state)
        except OSError as error:
            raise DiskError(
                f"The checkpoint of epoch {epoch} cannot be written to {self.folder} ({error.strerror}): "
                "make room there, then `resume` goes on after the epoch before"
            ) from error

    def _write(self, epoch: int, state: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getbuffer()
        path = self.folder / f"{epoch:05d}.checkpoint"
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(hashlib.sha256(payload).digest())
                file.write(payload)
                file.flush()
                self._fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)  # room for what else has to be written
            raise
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._fsync(descriptor)  # a rename is not on disk before
        finally:
            os.close(descriptor)
        for path in self._files()[:-KEPT]:
            path.unlink()

    def newest(self) -> dict[str, Any] | None:
        """Return the newest state that is whole; None if there is none."""
        self.passed_over = []
        for path in reversed(self._files()):
            if payload := _payload(path):
                return torch.load(io.BytesIO(payload), weights_only=True)
            self.passed_over.append(path)
        return None

    def damaged(self) -> list[Path]:
        """Return the files that are not as they were written."""
        return [path for path in self._files() if not _payload(path)]

    def remove(self) -> None:
        """Remove all: the training has finished, or begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.checkpoint"))


def _payload(path: Path) -> bytes:
    """Return what a checkpoint holds; nothing if it is damaged."""
    content = path.read_bytes()
    payload = content[_SUM:]
    return payload if hashlib.sha256(payload).digest() == content[:_SUM] else b""
