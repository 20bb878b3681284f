"""``retrain``: one variant on training and validation images, then evaluated beside its former self."""

from __future__ import annotations

from typing import Any

from lenet_study import registry
from lenet_study.commands.evaluate import evaluate, peek
from lenet_study.commands.train import Job, train
from lenet_study.device import Machine
from lenet_study.training import Protocol


def main(*, variant: str, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Train one variant on all 60,000 training images, keep the last epoch, and evaluate it.

    The variant's best training is evaluated beside it, if there is one.
    """
    machine = Machine(device=device, threads=threads)
    settings = Protocol(**protocol)
    former = registry.best_training(variant)
    if former is None:
        print(f"There is no finished training of {variant} to compare with; `train` makes one.")
    before = peek(registry.fetch(former.info.run_id), machine, data_dir) if former else None
    job = Job(stage="retrain", variant=variant, protocol=settings, machine=machine, data_dir=data_dir)
    trained = train(job)
    evaluate(registry.fetch(trained.run_id), settings.seed, machine, data_dir, before=before)
