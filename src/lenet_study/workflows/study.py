"""``study``: all variants trained, one selected, evaluated, retrained, cross-validated, and promoted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import perf_counter

import pandas as pd

from lenet_study.errors import JobError
from lenet_study.evidence.figures import training_curves
from lenet_study.evidence.published import published_models
from lenet_study.execution.executor import Executor
from lenet_study.execution.reporter import Reporter
from lenet_study.recipes.recipe import Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import links
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.training import dataset
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware, divide_cores
from lenet_study.workflows.evaluate import EvaluationJob, EvaluationResult
from lenet_study.workflows.kfold import best_epochs, kfold
from lenet_study.workflows.local_executor import local_executor
from lenet_study.workflows.promote import promote_best
from lenet_study.workflows.retrain import RetrainingJob
from lenet_study.workflows.train import TrainingJob, TrainingResult

_COMPARED = [
    "best_epoch",
    "train_accuracy",
    "val_accuracy",
    "val_accuracy_augmented",
    "val_loss",
    "test_accuracy",
    "test_loss",
]


@dataclass(frozen=True)
class StudyResult:
    """What a study gave; what failed is missing."""

    trained: Mapping[str, TrainingResult]  # by variant
    selected: str  # variant
    evaluated: EvaluationResult | None
    retrained: tuple[TrainingResult, EvaluationResult] | None
    folds: Mapping[str, TrainingResult]


def study(
    config: TrainingConfig,
    *,
    folds: int = 5,
    hardware: Hardware = Hardware(),
    workers: int = 0,
    data: DataFiles | None = None,
    variants: Collection[str] = tuple(VARIANTS),
    checkpoint_dir: str = "",
    reporter: Reporter = Reporter(),
    make_executor: Callable[[int, Reporter], Executor] = local_executor,
) -> StudyResult:
    """Run the whole study; its trainings are runs of their own, tagged with the study's id.

    Args:
        config: How every model is trained.
        folds: Parts of the cross-validation.
        hardware: Where each training computes.
        workers: Trainings side by side; 0 takes as many as the cores allow.
        data: The images.
        variants: Which to train.
        checkpoint_dir: Folder of all runs' checkpoints; empty for one beside a local store.
        reporter: Hears how it goes.
        make_executor: Makes what runs so many trainings at a time.

    Raises:
        UserError: A class has fewer images than there are folds.
        JobError: None of the variants could be trained.
    """
    start = perf_counter()
    data = data or DataFiles.at()
    params = {**asdict(config), **asdict(hardware), "workers": workers}
    params |= {"data_dir": str(data.folder), "checkpoint_dir": checkpoint_dir, "folds": folds}
    workers, share = divide_cores(hardware, workers)
    share.prepare()
    dataset.folds(data.train().labels, folds, config.seed)  # refuses too many before there is a run
    recipes = {name: recipe for name, recipe in variant_recipes(config).items() if name in variants}
    description = f"{len(recipes)} variants, selection, evaluation."
    with open_run("study", stage="study", params=params, description=description) as run:
        run.set_tags({Tag.STUDY: run.id, Tag.THREADS: share.threads, Tag.WORKERS: workers})
        make_job = partial(
            TrainingJob, hardware=share, data=data, study=run.id, checkpoint_dir=checkpoint_dir
        )
        with make_executor(workers, reporter) as executor:
            result = run_jobs(executor, recipes, make_job, folds, params)
        _log(run, result, perf_counter() - start, reporter)
        if executor.failed:
            run.set_tags({Tag.FAILED: "; ".join(f"{name}: {why}" for name, why in executor.failed.items())})
            reporter.message(
                f"\nFailed: {', '.join(executor.failed)}; the tag `error` of their runs says why."
            )
        promote_best(run, reporter)
    return result


def run_jobs(
    executor: Executor,
    recipes: Mapping[str, Recipe],
    make_job: partial[TrainingJob],
    folds: int,
    params: Mapping[str, object],
) -> StudyResult:
    """Train all variants, select one on validation accuracy, and look at it closely.

    Args:
        executor: Where the jobs run.
        recipes: What to train, by variant.
        make_job: What all trainings have in common.
        folds: Parts of the cross-validation.
        params: The study's params.

    Raises:
        JobError: None of the variants could be trained.
    """
    # The largest first: the small ones then fill the gaps.
    submitted = {name: executor.submit(make_job(recipe=recipes[name])) for name in reversed(list(recipes))}
    trained = executor.results({name: submitted[name] for name in recipes})
    if not trained:
        raise JobError("None of the variants could be trained")
    selected = select(trained)
    executor.reporter.message(f"Selected on validation accuracy: {selected}")

    job = make_job(recipe=recipes[selected])
    former = trained[selected].run_id
    evaluation = EvaluationJob(
        model=former, seed=job.recipe.config.seed, hardware=job.hardware, data=job.data, study=job.study
    )
    evaluated = {f"{selected} on test": executor.submit(evaluation)}
    retraining = RetrainingJob(training=job, former=former)
    retrained = {f"{selected} retrained": executor.submit(retraining)}
    folds_trained: Mapping[str, TrainingResult] = {}
    try:
        folds_trained = kfold(replace(job, folds=folds), executor, params)
    except JobError as error:
        executor.failed[f"{folds}-fold"] = str(error)
    return StudyResult(
        trained,
        selected,
        next(iter(executor.results(evaluated).values()), None),
        next(iter(executor.results(retrained).values()), None),
        folds_trained,
    )


def select(trained: Mapping[str, TrainingResult]) -> str:
    """Return the variant whose best epoch has the highest validation accuracy; the first on a tie."""
    return max(trained, key=lambda variant: trained[variant].best.val_accuracy or 0.0)


def comparison(result: StudyResult) -> pd.DataFrame:
    """Set the study's figures beside the published ones: one row per training."""
    rows: dict[str, dict[str, object]] = {
        variant: {
            "best_epoch": training.best.epoch,
            "train_accuracy": training.best.train_accuracy,
            "val_accuracy": training.best.val_accuracy,
            "val_accuracy_augmented": training.augmented,
            "val_loss": training.best.val_loss,
        }
        for variant, training in result.trained.items()
    }
    if result.evaluated:
        rows[result.selected] |= _test_scores(result.evaluated)
    if result.retrained:
        rows[f"{result.selected}-retrained"] = _test_scores(result.retrained[1])
    if result.folds:
        averaged = ["train_accuracy", "val_accuracy", "val_accuracy_augmented", "val_loss"]
        rows[f"{result.selected}-kfold-mean"] = best_epochs(result.folds)[averaged].mean().to_dict()
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=_COMPARED)  # also if some failed
    table = table.rename_axis("training").reset_index()
    published = published_models()[["training", "val_accuracy", "test_accuracy"]]
    published = published.rename(columns={"val_accuracy": "val_accuracy_augmented"})  # as it was measured
    return table.merge(published, on="training", how="left", suffixes=("", "_published"))


def _test_scores(evaluated: EvaluationResult) -> dict[str, object]:
    return {"test_accuracy": evaluated.predictions.accuracy, "test_loss": evaluated.predictions.loss}


def _seconds(result: StudyResult) -> pd.DataFrame:
    """Return the wall time of each job."""
    seconds = {f"train {variant}": training.seconds for variant, training in result.trained.items()}
    if result.evaluated:
        seconds[result.evaluated.name] = result.evaluated.seconds
    if result.retrained:
        training, evaluation = result.retrained
        seconds |= {f"retrain {result.selected}": training.seconds, evaluation.name: evaluation.seconds}
    seconds |= {f"train {fold}": training.seconds for fold, training in result.folds.items()}
    return pd.DataFrame({"job": list(seconds), "seconds": list(seconds.values())})


def _log(run: Run, result: StudyResult, seconds: float, reporter: Reporter) -> None:
    trained = result.trained
    histories = {variant: training.history for variant, training in trained.items()}
    best = {variant: training.best.epoch for variant, training in trained.items()}
    curves = training_curves.curves(histories, best, title=f"The {len(trained)} variants")
    run.log_figure(curves, File.COMPARISON_PICTURE)
    table, jobs = comparison(result), _seconds(result)
    run.log_table(table, File.COMPARISON)
    run.log_table(jobs, File.SECONDS)
    run.log_metrics({Metric.STUDY_SECONDS: seconds})
    run_ids = [training.run_id for training in trained.values()]
    addresses = links.study_addresses(run.experiment_id, run.id, run_ids)
    run.set_tags({Tag.ADDRESS.format(page=page): address for page, address in addresses.items()})
    listed = jobs.to_string(index=False, float_format="{:.0f}".format)
    reporter.message(
        f"\n{_readable(table)}\n\n{listed}\nall of it, side by side: {seconds:.0f} s\n\n"
        f"Compare the variants {links.how_to_look()}"
    )
    for page, address in addresses.items():
        reporter.message(f"  {page}: {address}")


def _readable(table: pd.DataFrame) -> str:
    """Return a comparison for the terminal."""
    headings = {
        "training": "training",
        "best_epoch": "best epoch",
        "train_accuracy": "train",
        "val_accuracy": "val",
        "val_accuracy_augmented": "val augmented",
        "val_accuracy_augmented_published": "published",
        "test_accuracy": "test",
        "test_accuracy_published": "published test",
    }

    def percent(value: float) -> str:
        return "" if pd.isna(value) else f"{value:.2%}"

    formats = {heading: percent for name, heading in headings.items() if "accuracy" in name}
    formats["best epoch"] = lambda value: "" if pd.isna(value) else f"{value:.0f}"
    shown = table[list(headings)].rename(columns=headings)
    return str(shown.to_string(index=False, formatters=formats, na_rep=""))
