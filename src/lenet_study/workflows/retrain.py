"""``retrain``: one model on training and validation images, then evaluated beside its former self."""

from __future__ import annotations

from typing import Any

from lenet_study.execution.reporter import Reporter, Terminal
from lenet_study.recipes.recipe import chosen
from lenet_study.tracking import registry
from lenet_study.training.hardware import Machine
from lenet_study.training.loop import Protocol
from lenet_study.workflows.evaluate import Evaluated, evaluate, peek
from lenet_study.workflows.train import Job, Trained, train


def main(*, variant: str, spec: str, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Train one model on all 60,000 training images, keep the last epoch, and evaluate it.

    Its best training is evaluated beside it, if there is one.
    """
    machine = Machine(device=device, threads=threads)
    recipe = chosen(variant, spec, Protocol(**protocol))
    former = registry.best_training(recipe.name, "spec" if recipe.searched else "train")
    if former is None:
        print(f"There is no finished training of {recipe.name} to compare with; `train` makes one.")
    job = Job(stage="retrain", recipe=recipe, machine=machine, data_dir=data_dir, spec=spec)
    retrain(job, former.info.run_id if former else "", reporter=Terminal())


def retrain(job: Job, former: str, *, reporter: Reporter) -> tuple[Trained, Evaluated]:
    """Retrain, then evaluate beside the training whose run id is ``former``, if there is one."""
    before = peek(former, job.machine, job.data_dir) if former else None
    trained = train(job, reporter=reporter)
    place = (job.protocol.seed, job.machine, job.data_dir, job.study)
    return trained, evaluate(trained.run_id, *place, before, reporter=reporter)
