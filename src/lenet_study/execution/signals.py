"""SIGTERM and SIGHUP as exceptions, so that an open run is closed before its process ends."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit with code 143, and the end of the terminal (SIGHUP) with 129.

    A second signal is ignored; so is SIGHUP where it was before, as `nohup` does.
    """
    signal.signal(signal.SIGTERM, leave)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, leave)


def leave(signum: int, frame: FrameType | None = None) -> NoReturn:
    """Raise SystemExit as the end of a process by this signal; what comes later does not disturb it."""
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + signum)
