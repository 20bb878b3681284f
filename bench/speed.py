"""Seconds per epoch: ours, the report's pipeline, Lightning and the compute limit, one after the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

import mlflow
import pandas as pd

from bench.processes import LIMITED_SPINNING, environment_of
from bench.subject import BATCH

EPOCH_IMAGES = 48_000  # of a real epoch; shorter ones are scaled to it
LIGHTNING_PYTHON = (
    ".venv-bench/bin/python"  # an environment of its own: MLflow imports Lightning where it can
)


@dataclass(frozen=True)
class Entry:
    """One column of the comparison.

    Attributes:
        command: What starts it; see ``bench.contenders``.
        threads: Processor threads; 0: all cores.
        environment: Variables for it alone.
    """

    command: tuple[str, ...]
    threads: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


CONTENDER = (sys.executable, "-m", "bench.contenders")
ENTRIES = {
    "ours": Entry((*CONTENDER, "ours"), environment=LIMITED_SPINNING),
    "ours, one thread": Entry((*CONTENDER, "ours"), threads=1),  # the default, for the sake of equal bits
    "report": Entry((*CONTENDER, "report")),
    "lightning": Entry((LIGHTNING_PYTHON, "-m", "bench.lightning", "lightning")),
    "limit": Entry((*CONTENDER, "limit"), environment=LIMITED_SPINNING),
}


class ContenderProcess:
    """A contender in a process of its own, where it trains an epoch whenever it is asked to.

    Args:
        entry: Which contender.
        variant: Which model.
        images: Images of an epoch.
        threads: Processor threads; 0: all cores.
        folder: To make for its store, a copy of an empty one: MLflow takes 2 s to make a store.
    """

    def __init__(self, entry: Entry, variant: str, images: int, threads: int, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(_empty_store(folder.parent), folder / "mlflow.db")
        self._process = subprocess.Popen(
            [*entry.command, variant, str(images), str(threads), str(folder)],
            env=environment_of(**entry.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_epoch(self) -> None:
        """Ask for one epoch more."""
        print(file=self._process.stdin, flush=True)

    def seconds(self) -> float:
        """Wait for the end of an epoch and return its seconds."""
        assert self._process.stdout
        return float(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its standard input, which ends it


def _empty_store(folder: Path) -> Path:
    """Return a SQLite store of MLflow without runs; it is made at the first call."""
    path = folder / "empty.db"
    if not path.exists():
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def versus(variants: Sequence[str], images: int, rounds: int, folder: Path) -> pd.DataFrame:
    """Interleaved epochs; ratios are of medians, with the lowest and highest of a round.

    Without Lightning's environment, which `make bench` makes, Lightning is left out.
    """
    scale = EPOCH_IMAGES / (images // BATCH * BATCH)
    entries = dict(ENTRIES)
    if not Path(LIGHTNING_PYTHON).exists():
        del entries["lightning"]
    rows = []
    for variant in variants:
        seconds: dict[str, list[float]] = {name: [] for name in entries}
        with ExitStack() as stack:
            contenders = {
                name: stack.enter_context(
                    ContenderProcess(entry, variant, images, entry.threads, folder / f"{variant}-{name}")
                )
                for name, entry in entries.items()
            }
            for number in range(rounds + 1):
                for name, contender in contenders.items():
                    contender.start_epoch()
                    taken = contender.seconds() * scale
                    if number:  # the first round warms up
                        seconds[name].append(taken)
        rows.append(_row(variant, seconds))
        print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    return pd.DataFrame(rows)


def _row(variant: str, seconds: dict[str, list[float]]) -> dict[str, object]:
    medians = {name: median(values) for name, values in seconds.items()}
    row: dict[str, object] = {"variant": variant}
    row |= {f"{name} s": round(value, 2) for name, value in medians.items()}
    for name in [name for name in ("report", "lightning") if name in seconds]:
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["ours"], strict=True)]
        row[f"{name}/ours"] = round(medians[name] / medians["ours"], 2)
        row[f"{name} spread"] = f"{min(ratios):.2f}–{max(ratios):.2f}"
    row["of the limit"] = round(medians["limit"] / medians["ours"], 3)
    return row


def side_by_side(
    variants: Sequence[str], images: int, epochs: int, workers: int, folder: Path
) -> pd.DataFrame:
    """Seconds per epoch of one training when ``workers`` run at a time, one thread each.

    That is the time until the last one's end, divided by the epochs of all.
    """
    scale = EPOCH_IMAGES / (images // BATCH * BATCH)
    rows = []
    for variant in variants:
        row: dict[str, object] = {"variant": variant, "workers": workers}
        for name in ("ours", "report"):
            with ExitStack() as stack:
                contenders = [
                    stack.enter_context(
                        ContenderProcess(
                            ENTRIES[name], variant, images, 1, folder / f"{variant}-{name}-{number}"
                        )
                    )
                    for number in range(workers)
                ]
                _train_together(contenders, 1)  # warms up
                start = time.perf_counter()
                _train_together(contenders, epochs)
                seconds = time.perf_counter() - start
            row[f"{name} s"] = round(seconds / epochs / workers * scale, 2)
        rows.append(row)
    return pd.DataFrame(rows)


def _train_together(contenders: Sequence[ContenderProcess], epochs: int) -> None:
    """Train epochs in all processes at a time, and wait for the last one."""
    for contender in contenders:
        for _ in range(epochs):
            contender.start_epoch()
    for contender in contenders:
        for _ in range(epochs):
            contender.seconds()
