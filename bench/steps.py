"""Single optimizer steps over a batch that is ready: their milliseconds and their page faults."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, median
from typing import TypedDict

import pandas as pd
import torch

from bench.memory import keep_freed_memory, page_faults
from bench.processes import call_in_process
from bench.subject import BATCH, images_of, order_as_published
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.training import loop
from lenet_study.training.hardware import Hardware
from lenet_study.training.history import Epoch
from lenet_study.training.model import SIDE, LeNet
from lenet_study.training.optimizer_step import make_optimizer, make_step

WARM_UP = 10  # steps; torch's libraries set themselves up in them
AS_BUILT = "as built"
CHANGES = (
    AS_BUILT,
    "contiguous",
    "pooling after ReLU",
    "Adam not fused",
    "fresh memory filled",
    "bfloat16",
    "torch.compile",
    "without oneDNN",
)


class StepTimes(TypedDict):
    """What a loop of steps took."""

    mean: float  # ms
    median: float  # ms
    faults: float  # minor page faults per step
    steps: int


def ready_step(variant: str, change: str = AS_BUILT) -> Callable[[], object]:
    """Return a training step of a new model over a batch of noise; ``change`` is one of ``CHANGES``."""
    config = TrainingConfig(precision="bfloat16" if change == "bfloat16" else "float32")
    recipe = variant_recipes(config)[variant]
    model = LeNet(recipe.variant, seed=0)
    if change == "pooling after ReLU":
        order_as_published(model)
    layout = torch.contiguous_format if change == "contiguous" else torch.channels_last
    model.to(memory_format=layout).train()
    if change == "Adam not fused":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    else:
        optimizer = make_optimizer(model, "adam", config.learning_rate, weight_decay=0.0)
    torch.utils.deterministic.fill_uninitialized_memory = change == "fresh memory filled"
    if change == "without oneDNN":
        torch.backends.mkldnn.set_flags(False)
    loss_fn = partial(loop.training_loss, model, recipe)
    step = make_step(torch.compile(loss_fn) if change == "torch.compile" else loss_fn, model, optimizer)
    images = torch.randn(BATCH, 1, SIDE, SIDE).contiguous(memory_format=layout)
    return partial(step, images, torch.randint(0, 10, (BATCH,)))


def time_steps(
    variant: str, threads: int, seconds: float, keep_memory: bool = True, change: str = AS_BUILT
) -> StepTimes:
    """Time steps in this process, which must have done nothing else.

    Args:
        variant: Which model.
        threads: Processor threads; 0: all cores.
        seconds: How long, after warming up.
        keep_memory: Whether freed memory is kept, as in a training; see ``keep_freed_memory``.
        change: How the step differs from the project's.
    """
    if keep_memory:
        keep_freed_memory()
    Hardware(device="cpu", threads=threads).prepare()
    step = ready_step(variant, change)
    for _ in range(WARM_UP):
        step()
    milliseconds: list[float] = []
    faults, end = page_faults(), time.perf_counter() + seconds
    while not milliseconds or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        milliseconds.append(1000 * (time.perf_counter() - start))
    return {
        "mean": mean(milliseconds),
        "median": median(milliseconds),
        "faults": (page_faults() - faults) / len(milliseconds),
        "steps": len(milliseconds),
    }


def training_faults(variant: str, threads: int, images: int) -> float:
    """Return the page faults per step of a training's second epoch, its validation included."""
    device = Hardware(device="cpu", threads=threads).prepare()
    train, validation = images_of(images)
    recipe = variant_recipes(TrainingConfig(epochs=2))[variant]
    after_epoch: list[int] = []

    def count(epoch: Epoch) -> None:
        after_epoch.append(page_faults())

    loop.fit(LeNet(recipe.variant, seed=0), train, validation, recipe, device=device, on_epoch=count)
    first, second = after_epoch
    return (second - first) / math.ceil(len(train) / BATCH)


def single_steps(variants: Sequence[str], seconds: float, rounds: int) -> pd.DataFrame:
    """Median milliseconds per step on one thread: as the project builds it, and with one change each."""
    medians: dict[tuple[str, str], list[float]] = {(name, way): [] for way in CHANGES for name in variants}
    for _ in range(rounds):
        for (name, way), values in medians.items():
            values.append(call_in_process(time_steps, name, 1, seconds, True, way)["median"])
    rows = [
        {"step": way} | {f"{name} ms": round(median(medians[name, way]), 2) for name in variants}
        for way in CHANGES
    ]
    return pd.DataFrame(rows)


def faults_per_step(variants: Sequence[str], images: int, seconds: float, rounds: int) -> pd.DataFrame:
    """Page faults and milliseconds of a step on one thread, in a loop alone and in a training.

    Figures are medians of rounds; the number of faults in a loop alone differs from process to process.
    """
    rows = []
    for variant in variants:
        loops: dict[bool, list[StepTimes]] = {False: [], True: []}  # by whether freed memory is kept
        trainings = []
        for _ in range(rounds):
            for keep_memory, times in loops.items():
                times.append(call_in_process(time_steps, variant, 1, seconds, keep_memory))
            trainings.append(call_in_process(training_faults, variant, 1, images))
        alone = [times["faults"] for times in loops[False]]
        rows.append(
            {
                "variant": variant,
                "loop": round(median(alone)),
                "of rounds": f"{min(alone):.0f}–{max(alone):.0f}",
                "loop, memory kept": round(median(times["faults"] for times in loops[True])),
                "training": round(median(trainings)),
                "loop, ms": round(median(times["mean"] for times in loops[False]), 2),
                "loop, memory kept, ms": round(median(times["mean"] for times in loops[True]), 2),
            }
        )
    return pd.DataFrame(rows)
