"""Steps beside busy processes: what one thread, several, and their spinning cost there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import mean, median

import pandas as pd

from bench.processes import LIMITED_SPINNING, call_in_process
from bench.steps import StepTimes, time_steps
from lenet_study.training.hardware import SPIN_COUNT

ALIKE = ("v1", "v3")  # v1 computes what baseline does, and v3 nearly what v2 does
SETTINGS: Mapping[str, tuple[int, Mapping[str, str]]] = {  # threads (0: all cores) and environment
    "one thread": (1, {}),
    "all cores, libgomp's own spinning": (0, {}),
    f"all cores, GOMP_SPINCOUNT={SPIN_COUNT}": (0, LIMITED_SPINNING),
}
# PR_SET_PDEATHSIG (1): the kernel ends the process with the bench, in whatever way that ends.
BUSY = """
import ctypes, os, signal, sys
ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit()
while True:
    pass
"""


@contextmanager
def busy_processes(count: int) -> Iterator[list[int]]:
    """Keep ``count`` processes computing; yields their ids."""
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())])
            stack.enter_context(process)  # waits for its end
            stack.callback(process.kill)
            processes.append(process.pid)
        yield processes


def beside_neighbours(
    variants: Sequence[str], neighbours: Sequence[int], seconds: float, rounds: int
) -> pd.DataFrame:
    """Milliseconds per step, idle and beside busy processes; every measurement has a process of its own.

    The mean is what counts for a training: one step of many that waits for a thread without a core takes as
    long as a hundred others, and a median does not see it.

    Args:
        variants: Which models.
        neighbours: Numbers of busy processes.
        seconds: Length of one measurement.
        rounds: Of all measurements in turn; the mean of their means, with the lowest and the highest, and
            the median of their medians.
    """
    cells = [(variant, setting) for variant in variants for setting in SETTINGS]
    measured: dict[tuple[str, str, int], list[StepTimes]] = {
        (variant, setting, count): [] for variant, setting in cells for count in neighbours
    }
    for _ in range(rounds):
        for count in neighbours:
            with busy_processes(count):
                for variant, setting in cells:
                    threads, environment = SETTINGS[setting]
                    times = call_in_process(time_steps, variant, threads, seconds, environment=environment)
                    measured[variant, setting, count].append(times)
    rows = []
    for variant, setting in cells:
        row: dict[str, object] = {"variant": variant, "threads": setting}
        for count in neighbours:
            times_of_rounds = measured[variant, setting, count]
            means = [times["mean"] for times in times_of_rounds]
            row[f"{count} busy: mean ms"] = round(mean(means), 1)
            row[f"{count} busy: of rounds"] = f"{min(means):.1f}–{max(means):.1f}"
            row[f"{count} busy: median ms"] = round(median(times["median"] for times in times_of_rounds), 1)
        rows.append(row)
    return pd.DataFrame(rows)
