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
        self.damaged: list[Path] = []  # files that ``newest`` has passed over

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
        self.damaged = []
        for path in reversed(self._files()):
            content = path.read_bytes()
            if hashlib.sha256(content[_SUM:]).digest() == content[:_SUM]:
                return torch.load(io.BytesIO(content[_SUM:]), weights_only=True)
            self.damaged.append(path)
        return None

    def remove(self) -> None:
        """Remove all: the training has finished, or begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.checkpoint"))
