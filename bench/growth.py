"""Time and memory as work grows: epochs, images, workers, runs in the store."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import mlflow
import pandas as pd
import psutil

from bench.memory import peak_memory
from bench.processes import call_in_process, environment_of
from bench.subject import images_of
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking.registry import CHAMPION
from lenet_study.tracking.run import open_run
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.store import NAME
from lenet_study.tracking.stored_training import finished_trainings
from lenet_study.training import loop
from lenet_study.training.hardware import Hardware
from lenet_study.training.history import Epoch
from lenet_study.training.model import LeNet

EPOCH = Epoch(
    epoch=1,
    learning_rate=0.001,
    train_loss=0.5,
    train_accuracy=0.8,
    val_loss=0.5,
    val_accuracy=0.8,
    seconds=1.0,
)


def seconds(action: Callable[[], object], times: int, before: Callable[[], object] = lambda: None) -> float:
    """Return the median of several, after one to warm up; ``before`` is called before each, and not timed."""
    taken = []
    for _ in range(times + 1):
        before()
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def of_training(variant: str) -> pd.DataFrame:
    """Seconds of ``fit`` against epochs and images; the largest resident memory of a process for each."""
    rows = []
    for images, epochs in ((6_400, 1), (6_400, 2), (6_400, 4), (12_800, 1), (25_600, 1)):
        taken, memory = call_in_process(fit, variant, images, epochs)
        rows.append(
            {
                "images": images,
                "epochs": epochs,
                "s": round(taken, 2),
                "ms per 1,000 images": round(1e6 * taken / images / epochs, 1),
                "MiB": round(memory),
            }
        )
    return pd.DataFrame(rows)


def fit(variant: str, images: int, epochs: int) -> tuple[float, float]:
    """Train on the default hardware; return the seconds, and the MiB of this process."""
    device = Hardware(device="cpu").prepare()
    train, validation = images_of(images)
    recipe = variant_recipes(TrainingConfig(epochs=epochs))[variant]
    model = LeNet(recipe.variant, seed=0)
    start = time.perf_counter()
    loop.fit(model, train, validation, recipe, device=device)
    return time.perf_counter() - start, peak_memory()


def of_workers(command: Sequence[str], workers: Sequence[int], folder: Path) -> pd.DataFrame:
    """Seconds of a command and the most memory that its processes held at once, against its workers."""
    rows = []
    for count in workers:
        store = folder / f"{command[0]}-{count}"
        store.mkdir()
        start, memory = time.perf_counter(), 0.0
        process = psutil.Popen(
            [sys.executable, "-m", "lenet_study", *command, "--threads", "1", "--workers", str(count)],
            cwd=store,
            env=environment_of(MLFLOW_TRACKING_URI=f"sqlite:///{store}/mlflow.db"),
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None:
            memory = max(memory, _proportional_memory(process))
            time.sleep(0.5)
        assert process.returncode == 0, f"{command[0]} with {count} workers failed"
        rows.append({"workers": count, "s": round(time.perf_counter() - start, 1), "MiB": round(memory)})
    return pd.DataFrame(rows)


def _proportional_memory(process: psutil.Process) -> float:
    """MiB of a process and its descendants; what they share is counted once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            total += member.memory_full_info().pss
    return total / 2**20


def of_store(counts: list[int], folder: Path, rounds: int) -> pd.DataFrame:
    """Seconds of what reads the store, against the finished runs that it holds."""
    rows = []
    for count in counts:
        store = folder / f"runs-{count}"
        store.mkdir()
        fill(store / "mlflow.db", count)
        row: dict[str, object] = {"runs": count}
        promote = [sys.executable, "-m", "lenet_study", "promote"]
        environment = environment_of(MLFLOW_TRACKING_URI=f"sqlite:///{store}/mlflow.db")
        _use(store / "mlflow.db")
        # It looks at the best, and passes them over: these runs have no files.
        command = partial(subprocess.run, promote, cwd=store, env=environment, capture_output=True)
        row["promote, s"] = round(seconds(command, rounds, before=_no_champion), 2)
        row["selection, s"] = round(seconds(lambda: finished_trainings(limit=20), rounds), 3)
        row["a run opened and closed, s"] = round(seconds(_open_and_close, rounds), 3)
        rows.append(row)
    return pd.DataFrame(rows)


def _use(database: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"


def _no_champion() -> None:
    mlflow.MlflowClient().delete_registered_model_alias(NAME, CHAMPION)


def _open_and_close() -> None:
    with open_run("study", stage="study", params={}):
        pass


def fill(database: Path, count: int) -> None:
    """Make a store with one finished, registered training and copies of it: ``count`` finished runs in all.

    The copies are made in the database itself: through MLflow, 10,000 runs take an hour.
    """
    _use(database)
    with open_run("v4", stage="train", params={"epochs": 15}, tags={Tag.VARIANT: "v4"}) as run:
        for number in range(1, 16):
            run.log_epoch(replace(EPOCH, epoch=number))
        run.log_best(EPOCH)
        run.set_tags({Tag.PARITY: "passed"})
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    client.create_model_version(NAME, f"runs:/{run.id}/model", run.id)
    client.log_metric(run.id, Metric.BEST_VAL_ACCURACY, 0.95)
    names = [uuid.uuid4().hex for _ in range(count - 1)]
    with sqlite3.connect(database) as connection:
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            others = ", ".join(name for name in columns if name != "run_uuid")
            copy = (
                f"INSERT INTO {table} (run_uuid, {others}) SELECT ?, {others} FROM {table} WHERE run_uuid = ?"
            )
            connection.executemany(copy, [(name, run.id) for name in names])
        connection.executemany(
            f"UPDATE latest_metrics SET value = ? WHERE run_uuid = ? AND key = '{Metric.BEST_VAL_ACCURACY}'",
            [(0.9 + 0.04 * position / count, name) for position, name in enumerate(names)],
        )
