"""Which process works on a run, and whether it still does."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from lenet_study.tracking.schema import Tag

HEARTBEAT_SECONDS = 60  # between two signs of life
SILENCE_SECONDS = 600  # without one after which a run of another host counts as abandoned
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def process_tags() -> dict[str, str]:
    """Return the tags by which other processes can tell whether this one is alive."""
    return {
        Tag.PROCESS_HOST: socket.gethostname(),
        Tag.PROCESS_BOOT: boot_id(),
        Tag.PROCESS_PID: str(os.getpid()),
        Tag.PROCESS_START: f"{_start(os.getpid()):.2f}",
        Tag.PROCESS_HEARTBEAT: heartbeat(),
    }


def heartbeat() -> str:
    """Return a sign of life: now, in seconds since 1970."""
    return f"{time.time():.0f}"


def boot_id() -> str:
    """Return what tells this start of this kernel from others; containers of one host share it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def _start(pid: int) -> float:
    """Return when a process was started, in seconds since the boot: a step of the clock changes no such time.

    Raises:
        psutil.NoSuchProcess: There is none with this number.
    """
    return psutil.Process(pid).create_time() - psutil.boot_time()


def is_of_this_host(host: str) -> bool:
    """Return whether a process that told this host's name ran here."""
    return host == socket.gethostname()


def is_abandoned(tags: Mapping[str, str]) -> bool:
    """Return whether the process that wrote these tags is known to work no more.

    A process number means something on its own host alone, and until the next boot; host names are compared
    as well because containers share the kernel, not the numbers. A run of version 0.1 does not tell.
    """
    if not all(name in tags for name in (Tag.PROCESS_PID, Tag.PROCESS_HOST, Tag.PROCESS_BOOT)):
        return False
    if not is_of_this_host(tags[Tag.PROCESS_HOST]):
        return time.time() - float(tags[Tag.PROCESS_HEARTBEAT]) > SILENCE_SECONDS
    try:
        start = _start(int(tags[Tag.PROCESS_PID]))
    except psutil.NoSuchProcess:
        return True
    return tags[Tag.PROCESS_BOOT] != boot_id() or abs(start - float(tags[Tag.PROCESS_START])) >= 1
