"""``train``: one variant, from the data to a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from lenet_study import architecture, data, figures, registry, tracking, training
from lenet_study.augment import augment
from lenet_study.data import Normalisation, Split
from lenet_study.device import Machine
from lenet_study.model import LeNet, summary
from lenet_study.progress import Progress
from lenet_study.tracking import Run
from lenet_study.training import Epoch, Protocol
from lenet_study.variants import VARIANTS, parent_of

PROOF_IMAGES = 1000  # images on which an exported model must equal the eager one


@dataclass(frozen=True)
class Trained:
    """What a training made."""

    variant: str
    run_id: str
    best: Epoch
    history: Sequence[Epoch]
    model: registry.LoggedModel


def main(*, variant: str, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Train one variant and say what came out."""
    machine = Machine(device=device, threads=threads)
    train_variant(variant, Protocol(**protocol), machine, data_dir)


def train_variant(
    variant: str, protocol: Protocol, machine: Machine, data_dir: str, study: str = ""
) -> Trained:
    """Train one variant on the training split, in a run of its own."""
    machine.prepare()
    images = data.load_train(data.folder_of(data_dir))
    rows = data.split(images.labels, protocol.seed)
    train, validation = (images.subset(part) for part in rows)
    with tracking.run(
        variant,
        stage="train",
        params=parameters(variant, protocol, machine, data_dir),
        tags=variant_tags(variant),
        description=describe(variant),
        study=study,
        system_metrics=True,
    ) as run:
        trained = fit_and_log(run, variant, variant, train, validation, protocol, machine, register=True)
        report(run, variant, trained)
    return trained


def fit_and_log(
    run: Run,
    name: str,
    variant: str,
    train: Split,
    validation: Split | None,
    protocol: Protocol,
    machine: Machine,
    *,
    register: bool,
) -> Trained:
    """Train a variant on given images; log its data, metrics, pictures and model to an open run.

    Args:
        run: The open run.
        name: The run's name.
        variant: Which variant.
        train: Images to train on.
        validation: Images to choose the best epoch on; None keeps the last epoch.
        protocol: How to train.
        machine: Where to train.
        register: Whether the model becomes a version of the registered model.
    """
    device = machine.prepare()
    spec = VARIANTS[variant]
    run.set_tags({"machine.device": device, "machine.threads": torch.get_num_threads()})
    run.log_text(summary(spec), "model_summary.txt")
    run.log_figure(architecture.draw(variant), "architecture.png")
    run.log_figure(_augmentation_examples(train, protocol.seed), "augmentation.png")
    run.log_dataset(train, "train")
    if validation:
        run.log_dataset(validation, "validation")

    model = LeNet(spec, protocol.seed)
    history: list[Epoch] = []
    progress = Progress(name, protocol.epochs)

    def on_epoch(epoch: Epoch) -> None:
        history.append(epoch)
        run.log_epoch(epoch)
        progress(epoch)

    best = training.fit(model, train, validation, spec, protocol, device=device, on_epoch=on_epoch)

    normalise = Normalisation.of(train.images)
    run.log_best(best)
    if validation:
        run.log_metrics(
            {"best/val_accuracy_augmented": _augmented_accuracy(model, validation, normalise, protocol)}
        )
    run.log_table(pd.DataFrame(map(asdict, history)), "history.csv")
    run.log_figure(figures.curves({name: history}, {name: best.epoch}, title=name), "curves.png")
    run.log_figure(figures.learning_rate(history, title=name), "learning_rate.png")
    description = {
        "name": name,
        "variant": variant,
        "run_id": run.id,
        "best_epoch": best.epoch,
        "val_accuracy": best.val_accuracy,
        **asdict(protocol),
    }
    proof = (validation or train).images[:PROOF_IMAGES]
    logged = registry.log_model(run, model, normalise, proof, description, register=register)
    return Trained(variant, run.id, best, history, logged)


def parameters(variant: str, protocol: Protocol, machine: Machine, data_dir: str) -> dict[str, object]:
    """The parameters of a training's run: exactly those of the entry point ``train``."""
    return {"variant": variant, **asdict(protocol), **asdict(machine), "data_dir": data_dir}


def variant_tags(variant: str) -> dict[str, str]:
    """Tags of every run that is about one variant: its name, and its colour in MLflow's charts."""
    return {"variant": variant, "mlflow.runColor": figures.COLOURS[variant]}


def describe(variant: str) -> str:
    """What the variant is, in a sentence."""
    parent = parent_of(variant)
    return f"**{variant}**: {f'{parent}, but ' if parent else ''}{VARIANTS[variant].change}."


def report(run: Run, name: str, trained: Trained) -> None:
    """Say what a training made and where to see it."""
    best = trained.best
    accuracy = f"validation accuracy {best.val_accuracy:.2%}" if best.val_accuracy is not None else "trained"
    version = f", version {trained.model.version} of {tracking.NAME}" if trained.model.version else ""
    print(f"{name}: best epoch {best.epoch}, {accuracy}; weights {trained.model.weights[:12]}{version}")
    print(f"{name} {tracking.how_to_look()} {tracking.run_address(run)}", flush=True)


def _augmented_accuracy(
    model: LeNet, validation: Split, normalise: Normalisation, protocol: Protocol
) -> float:
    generator = training.epoch_generator(protocol.seed, 0, validation.images.device)
    device = next(model.parameters()).device
    augmented = Split(augment(validation.images, generator), validation.labels)
    return training.score(model, augmented.to(device), normalise)[1]


def _augmentation_examples(train: Split, seed: int, rows: int = 6, columns: int = 8) -> Any:
    generator = training.epoch_generator(seed, 0, train.images.device)
    originals = train.images[:rows]
    repeated = originals.repeat_interleave(columns, 0)
    augmented = augment(repeated, generator).reshape(rows, columns, *originals.shape[1:])
    return figures.augmentation(originals.cpu().numpy(), augmented.cpu().numpy())
