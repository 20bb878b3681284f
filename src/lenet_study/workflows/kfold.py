"""``kfold``: cross-validate one model; nested runs, one per fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import pandas as pd
from matplotlib.figure import Figure

from lenet_study.errors import JobError
from lenet_study.evidence.figures import training_curves
from lenet_study.execution.executor import Executor
from lenet_study.execution.reporter import Reporter
from lenet_study.recipes.recipe import describe
from lenet_study.tracking import links
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.training.hardware import divide_cores
from lenet_study.workflows import reuse
from lenet_study.workflows.local_executor import local_executor
from lenet_study.workflows.orphans import end_abandoned
from lenet_study.workflows.train import TrainingJob, TrainingResult, variant_tags

AVERAGED = ["val_accuracy", "val_accuracy_augmented", "val_loss", "train_accuracy", "train_loss"]


def kfold(
    job: TrainingJob, executor: Executor, params: Mapping[str, object] | None = None
) -> dict[str, TrainingResult]:
    """Train one model once per fold; each fold's best epoch counts, as in the report.

    ``params`` replace or add to those of the folds' runs in the parent's run.

    Raises:
        UserError: A class has fewer images than there are folds.
        JobError: A fold failed; the parent's run holds the means over the others.
    """
    job = replace(job, stage="fold", fold=1)
    job.images()  # refuses too many folds before there is a run
    end_abandoned(executor.reporter)  # the one to go on with may still count as open
    identity = reuse.fingerprint({"stage": "kfold", "fold": job.fingerprint(), "study": job.study})
    name = f"{job.recipe.name} {job.folds}-fold"
    with open_run(
        name,
        stage="kfold",
        params={**job.params(), **(params or {})},
        tags={**variant_tags(job.recipe.name), Tag.FINGERPRINT: identity},
        description=f"{job.folds}-fold cross-validation of {describe(job.recipe)}",
        study=job.study,
        resume=job.resume or (reuse.interrupted(identity) if job.once else ""),
    ) as run:
        futures = {
            f"fold {fold}": executor.submit(replace(job, fold=fold, parent=run.id, resume=""))
            for fold in range(1, job.folds + 1)
        }
        trained = executor.results(futures)
        if len(trained) < 2:
            raise JobError(f"{name}: fewer than two folds could be trained")
        run.set_tags(reuse.reused_tags(trained))
        _summarise(run, name, trained, executor.reporter)
        if not job.study:
            executor.reporter.on_address(links.how_to_look(), name, links.run_address(run))
        if failed := [f"{fold}: {executor.failed[fold]}" for fold in futures if fold in executor.failed]:
            run.set_tags({Tag.FAILED: "; ".join(failed)})
            raise JobError(f"{name}: {len(failed)} of {job.folds} folds failed: the same command does them")
    return trained


def best_epochs(trained: Mapping[str, TrainingResult]) -> pd.DataFrame:
    """Return the figures of each training's best epoch, one row per training."""
    rows = [asdict(result.best) | {"val_accuracy_augmented": result.augmented} for result in trained.values()]
    return pd.DataFrame(rows, index=list(trained))


def curves(trained: Mapping[str, TrainingResult], title: str) -> Figure:
    """Draw the epochs of several trainings over each other, their best ones marked."""
    histories = {name: result.history for name, result in trained.items()}
    best = {name: result.best.epoch for name, result in trained.items()}
    return training_curves.curves(histories, best, title=title)


def _summarise(run: Run, name: str, trained: Mapping[str, TrainingResult], reporter: Reporter) -> None:
    folds = best_epochs(trained)
    run.log_table(folds.rename_axis("fold").reset_index(), File.FOLDS)
    means, deviations = folds[AVERAGED].mean(), folds[AVERAGED].std()  # of a sample: n - 1
    summary: dict[str, float] = {Metric.KFOLD_FOLDS: float(len(folds))}
    summary |= {Metric.KFOLD_MEAN.format(metric=metric): mean for metric, mean in means.items()}
    summary |= {Metric.KFOLD_STD.format(metric=metric): std for metric, std in deviations.items()}
    run.log_result(summary)
    run.log_figure(curves(trained, title=name), File.CURVES)
    reporter.message(
        f"{name}: validation accuracy {means['val_accuracy']:.2%} ± {deviations['val_accuracy']:.2%} "
        f"(mean and standard deviation over {len(folds)} folds)"
    )


def kfold_side_by_side(
    job: TrainingJob, workers: int = 0, reporter: Reporter = Reporter()
) -> dict[str, TrainingResult]:
    """Cross-validate as ``kfold`` does, so many folds side by side; 0 takes as many as the cores allow."""
    side_by_side, share = divide_cores(job.hardware, workers)
    share.prepare()
    params = {"threads": job.hardware.threads, "workers": workers}
    jobs = [replace(job, stage="fold", fold=fold) for fold in range(1, job.folds + 1)]
    reporter.on_plan("cross-validation", {job.name: job.size for job in jobs})
    with local_executor(min(side_by_side, job.folds), reporter) as executor:
        return kfold(replace(job, hardware=share), executor, params)
