"""SIGKILL at random moments: the work goes on, and ends as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress

import psutil

from bench.reliability.content import Content
from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores

TRAIN = ("train", "--variant", "baseline", "--epochs", "20", "--device", "cpu")
STUDY = ("study", "--epochs", "2", "--folds", "2", "--workers", "2", "--device", "cpu")


def training_kills(stores: ToyStores, tries: int) -> list[Row]:
    """Kill a training, also within a save of a checkpoint or the logging of the model; then `resume`."""
    row = Row("SIGKILL of `train` at a random moment, then `resume` (timed)")
    whole, _ = stores.uninterrupted(*TRAIN)
    for _ in range(tries):
        store, command, _ = stores.strike(TRAIN, signal.SIGKILL)
        command.wait()
        ended = store.run("resume")
        if not store.content().has_begun():  # killed before its run had any params: nothing is to resume
            ended = store.run(*TRAIN)
        _compare(row, stores, store, whole, ended)
    return [row]


def study_kills(stores: ToyStores, tries: int) -> list[Row]:
    """Kill a study with two workers, every other time the workers as well; then issue it again."""
    row = Row("SIGKILL of `study` with two workers at a random moment, then `study` again (timed)")
    whole, _ = stores.uninterrupted(*STUDY)
    for number in range(tries):
        store, command, children = stores.strike(STUDY, signal.SIGKILL)
        if number % 2:
            kill(children)
        command.wait()
        _compare(row, stores, store, whole, store.run(*STUDY))
    return [row]


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, some of which may have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _compare(row: Row, stores: ToyStores, store: ToyStore, whole: Content, ended: Ended) -> None:
    """Count a try: what its store holds after the second command, beside an uninterrupted one."""
    content = store.content()
    steps = content.steps(whole)
    row.count_steps(steps.lost, steps.doubled)
    deviations = ended.deviations("the second command") + content.deviations(whole)
    row.count(deviations, ended.seconds, ended.output)
    if not deviations:
        stores.discard(store)
