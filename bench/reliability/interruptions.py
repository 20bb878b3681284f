"""SIGTERM, SIGINT and SIGHUP: the right status and exit code, soon, and no process left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from tests.toys import Command

from bench.reliability.kills import TRAIN, kill
from bench.reliability.row import Row
from bench.reliability.stores import ToyStore, ToyStores, children_of, end_of
from lenet_study.tracking.schema import File

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
SECONDS = 10.0  # within which a command has to end
KFOLD = (
    "kfold",
    "--variant",
    "baseline",
    "--epochs",
    "5",
    "--folds",
    "2",
    "--workers",
    "2",
    "--device",
    "cpu",
)
BEFORE_PICTURES = (
    File.MODEL_SUMMARY,
    File.HISTORY,
)  # logged right before pictures are drawn: of the model, of curves
_DRAWING = 0.5  # seconds that these pictures take, at least


def interruptions(stores: ToyStores, tries: int) -> list[Row]:
    """Signal a training while it draws a picture, and a cross-validation with two workers at any moment.

    Args:
        stores: Makes stores.
        tries: Of each signal; the first and every other while a picture is drawn.
    """
    rows = []
    for number, code in CODES.items():
        drawing = Row(f"{number.name} to `train` while it draws a picture (timed to the end)")
        anywhere = Row(f"{number.name} to `kfold` with two workers at a random moment (timed to the end)")
        for attempt in range(tries):
            if attempt % 2:
                store, command, children = stores.strike(KFOLD, number)
            else:
                store, command, children = _strike_in_picture(stores, number, attempt // 2)
            _judge(anywhere if attempt % 2 else drawing, store, command, children, code)
        rows += [row for row in (drawing, anywhere) if row.tries]
    return rows


def _judge(row: Row, store: ToyStore, command: Command, children: list[psutil.Process], code: int) -> None:
    """Wait for a signalled command's end and count it."""
    start = time.monotonic()
    ended = end_of(command, limit=60)
    _, alive = psutil.wait_procs(children, timeout=max(1.0, start + SECONDS - time.monotonic()))
    statuses = store.content().statuses()
    deviations = [] if ended.code == code else [f"exit code {ended.code}"]
    deviations += [f"took over {SECONDS:.0f} s"] if ended.seconds > SECONDS else []
    deviations += [f"{_kind(process)} is left" for process in alive]
    deviations += [f"a run is {status}" for status in statuses if status not in ("KILLED", "FINISHED")]
    if statuses and "KILLED" not in statuses:
        deviations.append("no run is KILLED")
    kill(alive)
    row.count(deviations, ended.seconds, ended.output)


def _kind(process: psutil.Process) -> str:
    """Return what a process of a command is."""
    try:
        command = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "a process"
    kinds = {"forkserver": "the fork server or a worker", "resource_tracker": "the resource tracker"}
    return next((kind for name, kind in kinds.items() if name in command), "a process")


def _strike_in_picture(
    stores: ToyStores, number: int, attempt: int
) -> tuple[ToyStore, Command, list[psutil.Process]]:
    """Signal a training some time after the file before its pictures is there."""
    store = stores.new()
    command = store.start(*TRAIN)
    name = str(BEFORE_PICTURES[attempt % len(BEFORE_PICTURES)])
    while command.poll() is None and not _logged(store.folder, name):
        time.sleep(0.01)
    time.sleep(stores.random.uniform(0, _DRAWING))
    children = children_of(command)
    if command.poll() is None:
        os.kill(command.pid, number)
    return store, command, children


def _logged(folder: Path, name: str) -> bool:
    return any(folder.glob(f"mlruns/*/*/artifacts/{name}"))
