"""A disk that is full in mid-run: the run fails with a sentence, and goes on after room was made."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.reliability.kills import TRAIN
from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStores, end_of, wait_for

EPOCHS = 20  # of TRAIN
SIZE = "32m"  # of the disk


def full_disks(stores: ToyStores, tries: int) -> list[Row]:
    """Fill the disk of store and checkpoints after a random epoch; make room, and `resume`."""
    row = Row("disk full after a random epoch of `train`, room made, then `resume` (timed)")
    if os.geteuid():
        print("Disks can be filled by root alone: left out.")
        return []
    whole, _ = stores.uninterrupted(*TRAIN)
    for number in range(tries):
        with small_disk(stores.folder / f"disk-{number}") as folder:
            store = stores.new(folder)
            command = store.start(*TRAIN)
            wait_for(command, f"epoch {stores.random.randint(1, EPOCHS)}/{EPOCHS}")
            ballast = folder / "ballast"
            fill(ballast)
            failed = end_of(command)
            ballast.unlink()
            deviations = _failed_in_order(failed, folder, store.content().statuses())
            resumed = store.run("resume")
            content = store.content()
            steps = content.steps(whole)
            row.count_steps(steps.lost, steps.doubled)
            deviations += resumed.deviations("`resume`") + content.deviations(whole)
            row.count(deviations, resumed.seconds, failed.output + resumed.output)
    return [row]


def _failed_in_order(failed: Ended, disk: Path, statuses: list[str]) -> list[str]:
    """Return in what a command whose disk was full did not fail as promised."""
    deviations = failed.deviations("the command", code=1)
    if not re.search(rf"^Error: .*{re.escape(str(disk))}.*make room there", failed.output, re.MULTILINE):
        deviations.append("no sentence names the disk")
    return deviations + [f"the run is {status}" for status in statuses if status != "FAILED"]


@contextmanager
def small_disk(folder: Path, size: str = SIZE) -> Iterator[Path]:
    """Mount a small disk in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full, down to its last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
