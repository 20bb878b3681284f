"""Seconds per epoch: ours, the report's pipeline, Lightning and the compute limit, one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from threading import Barrier

import pandas as pd

from bench.contenders import BATCH, LIGHTNING_PYTHON, Contender, Lightning, Limit, Ours, Report
from lenet_study.execution.processes import Pool
from lenet_study.execution.reporter import Reporter, Terminal
from lenet_study.training import fashion_mnist as data
from lenet_study.training.dataset import Split
from lenet_study.training.hardware import Hardware

EPOCH_IMAGES = 48_000  # of a real epoch; shorter ones are scaled to it


def images_of(count: int) -> tuple[Split, Split]:
    """The first ``count`` images of the training split, and a quarter as many to validate on."""
    images = data.load_train(data.folder_of())
    train, validation = (images.subset(rows) for rows in data.split(images.labels, seed=0))
    count = count // BATCH * BATCH
    return Split(train.images[:count], train.labels[:count]), Split(
        validation.images[: count // 4], validation.labels[: count // 4]
    )


def versus(variants: Sequence[str], images: int, rounds: int, folder: Path) -> pd.DataFrame:
    """Interleaved epochs on all cores; ratios are of medians, with the lowest and highest of a round.

    Without Lightning's environment, which `make bench` makes, Lightning is left out.
    """
    train, validation = images_of(images)
    scale = EPOCH_IMAGES / len(train)
    rows = []
    for variant in variants:
        kinds = (Ours, Report, *([Lightning] if Path(LIGHTNING_PYTHON).exists() else []), Limit)
        contenders = [kind(variant, train, validation, folder) for kind in kinds]
        seconds: dict[str, list[float]] = {type(each).__name__: [] for each in contenders}
        for number in range(rounds + 1):
            for each in contenders:
                taken = each.epoch() * scale
                if number:  # the first round warms up
                    seconds[type(each).__name__].append(taken)
        for each in contenders:
            each.close()
        rows.append(_row(variant, seconds))
        print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    return pd.DataFrame(rows)


def _row(variant: str, seconds: dict[str, list[float]]) -> dict[str, object]:
    middle = {name: median(values) for name, values in seconds.items()}
    row: dict[str, object] = {"variant": variant} | {
        f"{name.lower()} s": round(value, 2) for name, value in middle.items()
    }
    for name in [name for name in seconds if name not in ("Ours", "Limit")]:
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["Ours"], strict=True)]
        row[f"{name.lower()}/ours"] = round(middle[name] / middle["Ours"], 2)
        row[f"{name.lower()} spread"] = f"{min(ratios):.2f}–{max(ratios):.2f}"
    row["of the limit"] = round(middle["Limit"] / middle["Ours"], 3)
    return row


def epochs_alone(
    contender: type[Contender], variant: str, images: int, epochs: int, folder: str, *, reporter: Reporter
) -> tuple[float, float]:
    """One thread's epochs in this process: when the first began and the last ended."""
    Hardware(device="cpu", threads=1).prepare()
    training = contender(variant, *images_of(images), Path(folder))
    training.epoch()
    reporter.say("ready")  # answered when all are
    start = time.monotonic()
    for _ in range(epochs):
        training.epoch()
    return start, time.monotonic()


class _StartTogether(Terminal):
    """Answers the jobs' only line when all of them have said it."""

    def __init__(self, jobs: int) -> None:
        super().__init__()
        self._barrier = Barrier(jobs)

    def say(self, line: str) -> None:
        self._barrier.wait()


def side_by_side(
    variants: Sequence[str], images: int, epochs: int, workers: int, folder: Path
) -> pd.DataFrame:
    """Seconds per epoch of one training when ``workers`` run at a time, one thread each.

    That is the time from the first's start to the last's end, divided by the epochs of all.
    """
    scale = EPOCH_IMAGES / (images // BATCH * BATCH)
    rows = []
    for variant in variants:
        row: dict[str, object] = {"variant": variant, "workers": workers}
        for contender in (Ours, Report):
            place = folder / f"{variant}-{contender.__name__}"
            with Pool(workers, _StartTogether(workers), lambda run_id, reason: None) as pool:
                jobs = [
                    pool.submit(epochs_alone, contender, variant, images, epochs, _made(place, number))
                    for number in range(workers)
                ]
                spans = [job.result() for job in jobs]
            seconds = max(end for _, end in spans) - min(start for start, _ in spans)
            row[f"{contender.__name__.lower()} s"] = round(seconds / epochs / workers * scale, 2)
        rows.append(row)
    return pd.DataFrame(rows)


def _made(folder: Path, number: int) -> str:
    place = folder / str(number)
    place.mkdir(parents=True)
    return str(place)
