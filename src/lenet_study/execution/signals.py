"""SIGTERM, SIGHUP and Ctrl-C end a process in order: its open run is closed before.

A handler that only raises is not enough: Python drops an exception that falls into a weakref callback, as
happens while matplotlib draws. So one that was dropped is raised again, a moment later; and the handler also
remembers the signal, which ``check`` raises between steps. A handler that only remembers is not enough
either: a store that is away blocks for minutes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

_HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_AGAIN_SECONDS = 0.01  # after which an exception that was dropped is raised again
_print_dropped = sys.unraisablehook
_state = {"requested": 0, "deferrals": 0}  # the signal that came, if one did; contexts of ``deferred``


class Stopped(SystemExit):
    """A signal asks this process to end; the exit code is 128 and the signal's number, as shells have it.

    Attributes:
        time: When it came, by the monotonic clock.
    """

    code: int

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.time = monotonic()


def stop_on_signals() -> None:
    """Make SIGTERM, SIGHUP and SIGINT raise ``Stopped``.

    A second Ctrl-C ends the process at once, any other second signal is ignored. So is SIGHUP where it was
    before, as `nohup` does.
    """
    _state["requested"] = 0
    for signum in _HANDLED:
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _handle)
    sys.unraisablehook = _raise_again


def check() -> None:
    """Raise ``Stopped`` if a signal has come; to be called between steps."""
    if _state["requested"]:
        signal.setitimer(signal.ITIMER_REAL, 0)  # or an alarm would strike while the open run is closed
        raise Stopped(_state["requested"])


@contextmanager
def deferred() -> Iterator[None]:
    """Let a step be finished: a signal that comes within it is raised at its end."""
    _state["deferrals"] += 1
    try:
        yield
    finally:
        _state["deferrals"] -= 1
    if not _state["deferrals"]:
        check()


def _handle(signum: int, frame: FrameType | None) -> None:
    if _state["requested"]:
        if signum == signal.SIGINT:
            os._exit(128 + signum)
        return
    _state["requested"] = signum
    if not _state["deferrals"]:
        raise Stopped(signum)


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    """Raise ``Stopped`` again, by an alarm, if Python has dropped it; print any other exception."""
    if not isinstance(dropped.exc_value, Stopped):
        _print_dropped(dropped)
        return
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    if not _state["deferrals"]:  # whose end looks itself
        check()
