"""Processes that open a fresh store at once."""

from __future__ import annotations

import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tests.toys import process_context, start_process

from bench.reliability.row import Row
from bench.reliability.stores import LIMIT, ROOT, ToyStore, ToyStores
from lenet_study.tracking.half_made import QUIET_SECONDS
from lenet_study.tracking.run import open_run

OURS, MLFLOWS = 8, 4  # processes at once
_PROMOTE = ("run", str(ROOT), "-e", "promote", "--env-manager", "local")


def fresh_stores(stores: ToyStores, tries: int) -> list[Row]:
    """Open a run in eight processes at once on a store that does not exist yet."""
    row = Row(f"{OURS} processes open a run in a fresh store at once (timed to the last one's end)")
    for _ in range(tries):
        store, together = stores.fresh(), process_context().Barrier(OURS)
        surroundings = {"folder": store.folder, "environment": store.environment}
        processes = [start_process(_open_run, number, together, **surroundings) for number in range(OURS)]
        start = time.monotonic()
        for process in processes:
            process.join(LIMIT)
        failed = [process for process in processes if process.exitcode != 0]
        for process in failed:
            process.kill()
        seconds = time.monotonic() - start
        deviations = [f"{len(failed)} processes failed"] if failed else []
        if not failed and store.content().statuses() != ["FINISHED"] * OURS:
            deviations.append("a run is missing or did not finish")
        row.count(deviations, seconds)
    return [row]


def fresh_stores_of_mlflow(stores: ToyStores, tries: int) -> list[Row]:
    """Run `mlflow run` four times at once, on a fresh store and on one that a command has opened before.

    A fresh store that is broken by that is given to `doctor`.

    MLflow opens the store before any line of the project runs, so that the first cannot be prevented here.
    """
    rows = [
        Row(f"{MLFLOWS} × `mlflow run . -e promote` at once on a fresh store (not promised)"),
        Row(f"{MLFLOWS} × `mlflow run . -e promote` at once after `reap` has opened the store"),
    ]
    mended = Row("a store that was broken so, then `doctor` (timed)")
    for _ in range(tries):
        for row, store in zip(rows, (stores.fresh(), stores.new()), strict=True):
            start = time.monotonic()
            processes = [_promote(store) for _ in range(MLFLOWS)]
            errors = [process.communicate(timeout=LIMIT)[1] for process in processes]
            seconds = time.monotonic() - start
            died = sum("sqlalchemy" in error or "alembic" in error for error in errors)
            deviations = [f"{died} of {MLFLOWS} died in MLflow's migrations"] if died else []
            if store.run("reap").code:
                deviations.append("the store is broken")
                time.sleep(QUIET_SECONDS)
                doctor = store.run("doctor")
                opened = store.run("reap").deviations("`reap`")
                mended.count(doctor.deviations("`doctor`") + opened, doctor.seconds, doctor.output)
            row.count(deviations, seconds)
    return [*rows, mended] if mended.tries else rows


def _open_run(number: int, together: Barrier) -> None:
    together.wait()
    with open_run(f"toy {number}", stage="train", params={"seed": number}):
        pass


def _promote(store: ToyStore) -> subprocess.Popen[str]:
    """Start `mlflow run . -e promote`, which the project refuses as there is no training to promote."""
    programs = Path(sys.executable).parent
    environment = store.environment
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    return subprocess.Popen(
        [programs / "mlflow", *_PROMOTE],
        cwd=store.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
