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

from bench.speed import images_of
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking
from lenet_study.training import fashion_mnist as data
from lenet_study.training import loop as training
from lenet_study.training.hardware import Hardware
from lenet_study.training.loop import Epoch, TrainingConfig
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


def environment_of(**variables: str) -> dict[str, str]:
    """That of a command of this project, wherever it is started."""
    root = Path(__file__).parents[1]
    data_dir = str(data.folder_of().resolve())
    return {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "LENET_STUDY_DATA": data_dir, **variables}


def seconds(action: Callable[[], object], times: int, before: Callable[[], object] = lambda: None) -> float:
    """Median of several, after one to warm up; ``before`` is done before each, and not timed."""
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
        script = (
            "from bench.growth import fit, peak_memory; "
            f"print(fit({variant!r}, {images}, {epochs}), peak_memory())"
        )
        output = subprocess.run(
            [sys.executable, "-c", script], env=environment_of(), capture_output=True, text=True, check=True
        ).stdout
        taken, memory = output.split()[-2:]
        rows.append(
            {
                "images": images,
                "epochs": epochs,
                "s": round(float(taken), 2),
                "ms per 1,000 images": round(1e6 * float(taken) / images / epochs, 1),
                "MiB": round(float(memory)),
            }
        )
    return pd.DataFrame(rows)


def fit(variant: str, images: int, epochs: int) -> float:
    """Seconds of a training."""
    device = Hardware(device="cpu").prepare()
    train, validation = images_of(images)
    model = LeNet(VARIANTS[variant], seed=0)
    start = time.perf_counter()
    training.fit(model, train, validation, VARIANTS[variant], TrainingConfig(epochs=epochs), device=device)
    return time.perf_counter() - start


def peak_memory() -> float:
    """The largest resident memory of this process, MiB; what `getrusage` gives counts the parent's, too."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


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
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            total += each.memory_full_info().pss
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
        command = partial(
            subprocess.run, promote, cwd=store, env=environment, check=True, capture_output=True
        )
        row["promote, s"] = round(seconds(command, rounds, before=_no_champion), 2)
        row["selection, s"] = round(seconds(lambda: registry.trainings(limit=20), rounds), 3)
        row["a run opened and closed, s"] = round(seconds(_open_and_close, rounds), 3)
        rows.append(row)
    return pd.DataFrame(rows)


def _use(database: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # MLflow leaves that of the store before


def _no_champion() -> None:
    mlflow.MlflowClient().delete_registered_model_alias(tracking.NAME, registry.CHAMPION)


def _open_and_close() -> None:
    with tracking.run("study", stage="study", params={}):
        pass


def fill(database: Path, count: int) -> None:
    """A store with one finished, registered training and copies of it: ``count`` finished runs in all.

    The copies are made in the database itself: through MLflow, 10,000 runs take an hour.
    """
    _use(database)
    with tracking.run("v4", stage="train", params={"epochs": 15}, tags={"variant": "v4"}) as run:
        for number in range(1, 16):
            run.log_epoch(replace(EPOCH, epoch=number))
        run.log_best(EPOCH)
        run.set_tags({"parity": "passed"})
    client = mlflow.MlflowClient()
    client.create_registered_model(tracking.NAME)
    client.create_model_version(tracking.NAME, f"runs:/{run.id}/model", run.id)
    client.log_metric(run.id, "best/val_accuracy", 0.95)
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
            "UPDATE latest_metrics SET value = ? WHERE run_uuid = ? AND key = 'best/val_accuracy'",
            [(0.9 + 0.04 * position / count, name) for position, name in enumerate(names)],
        )
