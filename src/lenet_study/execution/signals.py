"""SIGTERM and SIGHUP as exceptions, so that an open run is closed before its process ends."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit with code 143, and the end of the terminal (SIGHUP) with 129.

    A second signal is ignored; so is SIGHUP where it was before, as `nohup` does.
    """
    signal.signal(signal.SIGTERM, _exit)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # once: the open run must be closed in peace
    sys.exit(128 + signum)
