"""What a checkpoint after each epoch costs."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from bench.subject import images_of
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.training import loop
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.training.hardware import Hardware
from lenet_study.training.model import LeNet

PROMISED = 1.0  # per cent of an epoch of v4
EPOCH_IMAGES = 48_000  # of a training on the training split


class TimedCheckpoints(Checkpoints):
    """Measures the seconds of each write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seconds: list[float] = []

    def write(self, epoch: int, state: dict[str, object]) -> None:
        """Write a state as a training does."""
        start = time.perf_counter()
        super().write(epoch, state)
        self.seconds.append(time.perf_counter() - start)


def checkpoints(variants: list[str], images: int, rounds: int, folder: Path) -> pd.DataFrame:
    """One row per variant: seconds of an epoch, scaled to all images, and of the checkpoint after it."""
    device = Hardware(device="cpu").prepare()
    train, validation = images_of(images)
    rows = []
    for variant in variants:
        recipe = variant_recipes(TrainingConfig(epochs=rounds + 1))[variant]
        written = TimedCheckpoints(folder / variant)
        model = LeNet(recipe.variant, seed=0)
        fit = loop.fit(model, train, validation, recipe, device=device, checkpoints=written)
        # The first epoch and its checkpoint warm up; the medians of the others count.
        epoch = pd.Series([epoch.seconds for epoch in fit.history[1:]]).median() * EPOCH_IMAGES / len(train)
        write = pd.Series(written.seconds[1:]).median()
        rows.append(
            {
                "variant": variant,
                "epoch s": round(epoch, 2),
                "checkpoint ms": round(1000 * write, 1),
                "checkpoint MiB": round(next((folder / variant).iterdir()).stat().st_size / 2**20, 1),
                "of the epoch %": round(100 * write / epoch, 2),
                "promised %": PROMISED if variant == "v4" else "",
            }
        )
    return pd.DataFrame(rows)
