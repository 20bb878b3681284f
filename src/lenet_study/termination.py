"""SIGTERM as an exception, so that an open run is closed before its process ends."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def exit_on_sigterm() -> None:
    """From now on SIGTERM raises SystemExit with code 143; a second one is ignored."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the open run must be closed in peace
    sys.exit(128 + signum)
