"""``kfold``: cross-validate one model; nested runs, one per fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from lenet_study.errors import JobError
from lenet_study.evidence.figures import charts as figures
from lenet_study.execution.processes import Pool
from lenet_study.execution.reporter import Reporter, Terminal
from lenet_study.recipes.recipe import chosen
from lenet_study.tracking import run as tracking
from lenet_study.training.hardware import Machine, share
from lenet_study.training.loop import Protocol
from lenet_study.workflows.train import Job, Trained, describe, train, variant_tags


def main(
    *,
    variant: str,
    spec: str,
    folds: int,
    device: str,
    threads: int,
    workers: int,
    data_dir: str,
    **protocol: Any,
) -> None:
    """Cross-validate one model and say what came out."""
    machine = Machine(device=device, threads=threads)
    recipe = chosen(variant, spec, Protocol(**protocol))
    job = Job(stage="fold", recipe=recipe, machine=machine, data_dir=data_dir, spec=spec, fold=1, folds=folds)
    job.images()  # too many folds are refused before there is a run
    side_by_side, part = share(machine, workers)
    part.prepare()
    with Pool(min(side_by_side, folds), Terminal(), tracking.fail) as pool:
        cross_validate(replace(job, machine=part), pool, {"threads": threads, "workers": workers})


def cross_validate(job: Job, pool: Pool, params: Mapping[str, object]) -> dict[str, Trained]:
    """Train one model once per fold; each fold's best epoch counts, as in the report.

    Args:
        job: The training of any one fold.
        pool: Where the folds are trained.
        params: Parameters of the parent's run besides those of the folds' runs.

    Raises:
        JobError: Fewer than two folds could be trained.
    """
    name = f"{job.variant} {job.folds}-fold"
    with tracking.run(
        name,
        stage="kfold",
        params={**job.parameters(), "folds": job.folds, **params},
        tags=variant_tags(job.variant),
        description=f"{job.folds}-fold cross-validation of {describe(job.recipe)}",
        study=job.study,
    ) as parent:
        jobs = {f"fold {fold}": replace(job, fold=fold, parent=parent.id) for fold in range(1, job.folds + 1)}
        trained = pool.results({fold: pool.submit(train, each) for fold, each in jobs.items()})
        if len(trained) < 2:
            raise JobError(f"{name}: fewer than two folds could be trained")
        _summarise(parent, name, trained, pool.reporter)
        if failed := {fold: pool.failed[fold] for fold in jobs if fold in pool.failed}:
            parent.set_tags({"failed": "; ".join(f"{fold}: {why}" for fold, why in failed.items())})
    return trained


def best_epochs(trained: Mapping[str, Trained]) -> pd.DataFrame:
    """What the best epoch of each training gave."""
    rows = [{**asdict(each.best), "val_accuracy_augmented": each.augmented} for each in trained.values()]
    return pd.DataFrame(rows, index=list(trained))


def _summarise(parent: tracking.Run, name: str, trained: Mapping[str, Trained], reporter: Reporter) -> None:
    folds = best_epochs(trained)
    parent.log_table(folds.rename_axis("fold").reset_index(), "folds.csv")
    summary = {"kfold/folds": float(len(folds))}
    for metric in ("val_accuracy", "val_accuracy_augmented", "val_loss", "train_accuracy", "train_loss"):
        summary[f"kfold/{metric}_mean"] = float(folds[metric].mean())
        summary[f"kfold/{metric}_std"] = float(folds[metric].std())  # of a sample: n - 1
    parent.log_metrics(summary)
    histories = {fold: each.history for fold, each in trained.items()}
    best = {fold: each.best.epoch for fold, each in trained.items()}
    parent.log_figure(figures.curves(histories, best, title=name), "curves.png")
    reporter.say(
        f"{name}: validation accuracy {summary['kfold/val_accuracy_mean']:.2%} ± "
        f"{summary['kfold/val_accuracy_std']:.2%} (mean and standard deviation over {len(folds)} folds)"
    )
    reporter.say(f"{name} {tracking.how_to_look()} {tracking.run_address(parent)}")
