"""``retrain``: one variant on training and validation images, then evaluated beside its former self."""

from __future__ import annotations

from typing import Any

from lenet_study import data, registry, tracking
from lenet_study.commands.evaluate import evaluate, peek
from lenet_study.commands.train import (
    Trained,
    describe,
    fit_and_log,
    parameters,
    report,
    variant_tags,
)
from lenet_study.device import Machine
from lenet_study.training import Protocol


def main(*, variant: str, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Retrain one variant, evaluate it, and compare it with the variant's best training."""
    machine = Machine(device=device, threads=threads)
    settings = Protocol(**protocol)
    trained = retrain(variant, settings, machine, data_dir)
    former = registry.best_training(variant)
    if former is None:
        print(f"There is no finished training of {variant} to compare with; `train` makes one.")
    before = peek(registry.fetch(former.info.run_id), data_dir) if former else None
    model = registry.fetch(trained.run_id)
    evaluate(model, settings.seed, machine, data_dir, before=before)


def retrain(variant: str, protocol: Protocol, machine: Machine, data_dir: str, study: str = "") -> Trained:
    """Train one variant on all 60,000 training images; the last epoch's weights are kept."""
    machine.prepare()
    images = data.load_train(data.folder_of(data_dir))
    name = f"{variant} retrained"
    with tracking.run(
        name,
        stage="retrain",
        params=parameters(variant, protocol, machine, data_dir),
        tags=variant_tags(variant),
        description=f"Trained on training and validation images: {describe(variant)}",
        study=study,
        system_metrics=True,
    ) as run:
        trained = fit_and_log(run, name, variant, images, None, protocol, machine, register=True)
        report(run, name, trained)
    return trained
