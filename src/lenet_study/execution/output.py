"""Output that nobody takes: `train | head -1`, or a log file on a full disk, must not end a training."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class _Lenient:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it; return its length."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, as far as it is taken."""
        with suppress(OSError):
            self._stream.flush()


def drop_unwritable_output() -> None:
    """Let this process's output and errors be dropped where they cannot be written."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 -- as long as the process lives
    sys.stdout, sys.stderr = (
        stream if isinstance(stream, _Lenient) else _Lenient(stream or nowhere)
        for stream in (sys.stdout, sys.stderr)  # None if the shell has closed it
    )
