"""What a process does with memory: page faults, what glibc keeps, and the peak."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def keep_freed_memory() -> None:
    """Make glibc keep this process's freed memory, as it does in a training.

    Cause: glibc gives the free end of the heap back to the kernel where it is longer than M_TRIM_THRESHOLD,
    and every freed block longer than M_MMAP_THRESHOLD; memory taken again faults on each of its pages. The
    first threshold follows twice the largest block freed so far, the second that block itself (mallopt(3)).
    A step alone frees more than twice its largest block, so that it faults up to 2,000 times; a training's
    chunks of augmented images are larger than any block of a step, and it faults 37 times a step.
    Consequence: without this call a loop of steps measures memory management that no training does, a
    quarter of its time. Setting one threshold ends the automatic raising of the other, which is worse.
    """
    libc = ctypes.CDLL("libc.so.6")
    for parameter, size in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, 2**31 - 1)):
        if not libc.mallopt(parameter, size):
            raise OSError(f"mallopt({parameter}, {size}) failed")


def page_faults() -> int:
    """Return how many minor page faults this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_memory() -> float:
    """Return the largest resident memory of this process, MiB; `getrusage` would count the parent's, too."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
