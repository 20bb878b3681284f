"""``kfold``: cross-validate one variant; nested runs, one per fold."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from lenet_study import figures, tracking
from lenet_study.commands.train import Job, Trained, describe, train, variant_tags
from lenet_study.device import Machine
from lenet_study.training import Protocol


def main(*, variant: str, folds: int, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Cross-validate one variant and say what came out."""
    machine = Machine(device=device, threads=threads)
    cross_validate(variant, folds, Protocol(**protocol), machine, data_dir)


def cross_validate(
    variant: str, folds: int, protocol: Protocol, machine: Machine, data_dir: str, study: str = ""
) -> list[Trained]:
    """Train one variant once per fold; each fold's best epoch counts, as in the report."""
    job = Job(
        stage="fold",
        variant=variant,
        protocol=protocol,
        machine=machine,
        data_dir=data_dir,
        study=study,
        fold=1,
        folds=folds,
    )
    job.images()  # too many folds are refused before there is a run
    name = f"{variant} {folds}-fold"
    with tracking.run(
        name,
        stage="kfold",
        params={**job.parameters(), "folds": folds},
        tags=variant_tags(variant),
        description=f"{folds}-fold cross-validation of {describe(variant)}",
        study=study,
    ) as parent:
        trained = [train(replace(job, fold=fold, parent=parent.id)) for fold in range(1, folds + 1)]
        _summarise(parent, name, trained)
    return trained


def best_epochs(trained: list[Trained]) -> pd.DataFrame:
    """What the best epoch of each training gave; the index counts from 1."""
    rows = [{**asdict(result.best), "val_accuracy_augmented": result.augmented} for result in trained]
    return pd.DataFrame(rows, index=range(1, len(rows) + 1))


def _summarise(parent: tracking.Run, name: str, trained: list[Trained]) -> None:
    folds = best_epochs(trained)
    parent.log_table(folds.rename_axis("fold").reset_index(), "folds.csv")
    summary = {}
    for metric in ("val_accuracy", "val_accuracy_augmented", "val_loss", "train_accuracy", "train_loss"):
        summary[f"kfold/{metric}_mean"] = float(folds[metric].mean())
        summary[f"kfold/{metric}_std"] = float(folds[metric].std())  # of a sample: n - 1
    parent.log_metrics(summary)
    histories = {f"fold {fold}": result.history for fold, result in enumerate(trained, start=1)}
    best = {f"fold {fold}": result.best.epoch for fold, result in enumerate(trained, start=1)}
    parent.log_figure(figures.curves(histories, best, title=name), "curves.png")
    print(
        f"{name}: validation accuracy {summary['kfold/val_accuracy_mean']:.2%} ± "
        f"{summary['kfold/val_accuracy_std']:.2%} (mean and standard deviation over folds)"
    )
    print(f"{name} {tracking.how_to_look()} {tracking.run_address(parent)}", flush=True)
