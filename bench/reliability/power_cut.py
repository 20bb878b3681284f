"""Power cuts while checkpoints are written: one is always whole."""

from __future__ import annotations

import torch
from tests.forgetful_disk import Disk

from bench.reliability.row import Row
from bench.reliability.stores import ToyStores
from lenet_study.training.checkpoint import Checkpoints


def power_cuts(stores: ToyStores, tries: int) -> list[Row]:
    """Cut the power at every moment of writing so many checkpoints: what was not forced to disk is lost."""
    row = Row("power cut while a checkpoint is written: at each forced write, six states of the disk")
    folder = stores.new().folder
    disk = Disk(folder / "checkpoints")
    checkpoints = Checkpoints(disk.folder, disk.fsync)
    for epoch in range(1, tries + 1):
        checkpoints.write(epoch, {"epoch": epoch, "weights": torch.full((1000,), float(epoch))})
        disk.written = epoch
        disk.cut()
    cuts = folder / "cuts"
    cuts.mkdir()
    for restored, written in disk.restore(cuts):
        state = Checkpoints(restored).newest()
        newest = state["epoch"] if state else 0
        row.count(["the last checkpoint is lost"] if newest < written else [])
    return [row]
