"""``study``: all variants trained, one selected, evaluated, retrained, cross-validated, and promoted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import perf_counter

import pandas as pd

from lenet_study.errors import JobError, UserError
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
from lenet_study.workflows import reuse
from lenet_study.workflows.evaluate import EvaluationJob, EvaluationResult
from lenet_study.workflows.kfold import AVERAGED, best_epochs, curves, kfold
from lenet_study.workflows.local_executor import local_executor
from lenet_study.workflows.orphans import end_abandoned
from lenet_study.workflows.page import renew_page_of, report_views, result_metrics
from lenet_study.workflows.promote import Promotion
from lenet_study.workflows.retrain import RetrainingJob
from lenet_study.workflows.train import TrainingJob, TrainingResult
from lenet_study.workflows.waiting import wait_for_store

_COMPARED = ["best_epoch", "train_accuracy", "val_accuracy", "val_accuracy_augmented", "val_loss"]
_COMPARED += ["test_accuracy", "test_loss"]


@dataclass(frozen=True)
class StudyResult:
    """The results of a study; while it goes on, those of failed jobs are missing."""

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
    force: bool = False,
    resume: str = "",
    reporter: Reporter = Reporter(),
    make_executor: Callable[[int, Reporter], Executor] = local_executor,
) -> StudyResult:
    """Run the whole study; its trainings are runs of their own, tagged with the study's id.

    A study issued again goes on in the run of the one that was interrupted, and uses finished trainings with
    the same fingerprints again.

    Args:
        config: The parameters of every training.
        folds: Parts of the cross-validation.
        hardware: What each training computes on.
        workers: Trainings side by side; 0 takes as many as the cores allow.
        data: The images.
        variants: Names of those to train.
        checkpoint_dir: Folder of all runs' checkpoints; empty for one beside a local store.
        force: Train all anew, in a new run.
        resume: Id of the interrupted study to go on with; empty looks for it.
        reporter: Receives progress.
        make_executor: Makes what runs so many jobs at a time.

    Raises:
        UserError: A class has fewer images than there are folds.
        JobError: A part failed; the others are done, and the store holds their results.
    """
    start = perf_counter()
    data = data or DataFiles.at()
    params = {**asdict(config), **asdict(hardware), "workers": workers, "folds": folds}
    params |= {"data_dir": str(data.folder), "checkpoint_dir": checkpoint_dir, "variants": ",".join(variants)}
    workers, share = divide_cores(hardware, workers)
    share.prepare()
    dataset.folds(data.train().labels, folds, config.seed)  # refuses too many before there is a run
    recipes = {name: recipe for name, recipe in variant_recipes(config).items() if name in variants}
    make_job = partial(TrainingJob, hardware=share, data=data, checkpoint_dir=checkpoint_dir, once=not force)
    identity = _fingerprint(make_job, recipes, folds)
    end_abandoned(reporter)
    resume = resume or ("" if force else reuse.interrupted(identity))
    if resume:
        reporter.message(f"The study goes on in run {resume}")
    with open_run(
        "study",
        stage="study",
        params=params,
        tags={Tag.FINGERPRINT: identity, Tag.THREADS: share.threads, Tag.WORKERS: workers},
        description=f"{len(recipes)} variants, selection, evaluation.",
        resume=resume,
    ) as run:
        run.set_tags({Tag.STUDY: run.id})
        with make_executor(workers, reporter) as executor:
            result = run_jobs(executor, recipes, partial(make_job, study=run.id), folds, params)
        _log(run, result, perf_counter() - start, executor)
        wait_for_store(reporter)
        _promote(run, reporter)
        renew_page_of(run, reporter)
        if failed := executor.failed:  # said above, each with its reason
            raise JobError(f"Parts of the study failed ({', '.join(failed)}): the same command does them")
    return result


def _fingerprint(make_job: partial[TrainingJob], recipes: Mapping[str, Recipe], folds: int) -> str:
    trainings = {name: make_job(recipe=recipe).fingerprint() for name, recipe in recipes.items()}
    return reuse.fingerprint({"stage": "study", "trainings": trainings, "folds": folds})


def run_jobs(
    executor: Executor,
    recipes: Mapping[str, Recipe],
    make_job: partial[TrainingJob],
    folds: int,
    params: Mapping[str, object],
) -> StudyResult:
    """Train all variants, select one on validation accuracy, and look at it closely.

    ``make_job`` holds what all trainings have in common, ``params`` those of the study's run.

    Raises:
        JobError: None of the variants could be trained.
    """
    reporter = executor.reporter
    largest = max(recipes.values(), key=lambda recipe: make_job(recipe=recipe).size)
    reporter.on_plan("study", _sizes(recipes, largest, make_job, folds))  # until one is selected
    # The largest first: the small ones then fill the gaps.
    submitted = {name: executor.submit(make_job(recipe=recipes[name])) for name in reversed(list(recipes))}
    trained = executor.results({name: submitted[name] for name in recipes})
    if not trained:
        raise JobError("None of the variants could be trained")
    selected = select(trained)
    reporter.message(f"Selected on validation accuracy: {selected}")
    reporter.on_plan("study", _sizes(recipes, recipes[selected], make_job, folds))

    job = make_job(recipe=recipes[selected])
    former = trained[selected].run_id
    evaluated = {f"{selected} on test": executor.submit(EvaluationJob.of(former, job))}
    retrained = {f"{selected} retrained": executor.submit(RetrainingJob(training=job, former=former))}
    folds_trained: Mapping[str, TrainingResult] = {}
    wait_for_store(reporter)
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


def _sizes(
    recipes: Mapping[str, Recipe], selected: Recipe, make_job: partial[TrainingJob], folds: int
) -> dict[str, float]:
    """Return how long each training of a study takes, relative to the others, by its name."""
    job = make_job(recipe=selected, folds=folds)
    jobs = [make_job(recipe=recipe) for recipe in recipes.values()]
    jobs += [replace(job, stage="retrain")]
    jobs += [replace(job, stage="fold", fold=fold) for fold in range(1, folds + 1)]
    return {job.name: job.size for job in jobs}


def select(trained: Mapping[str, TrainingResult]) -> str:
    """Return the variant whose best epoch has the highest validation accuracy; the first on a tie."""
    return max(trained, key=lambda variant: trained[variant].best.val_accuracy or 0.0)


def comparison(result: StudyResult) -> pd.DataFrame:
    """Set the study's figures beside the published ones: one row per training."""
    rows = best_epochs(result.trained).rename(columns={"epoch": "best_epoch"}).to_dict("index")
    if result.evaluated:
        rows[result.selected] |= _test_scores(result.evaluated)
    if result.retrained:
        rows[f"{result.selected}-retrained"] = _test_scores(result.retrained[1])
    if result.folds:
        rows[f"{result.selected}-kfold-mean"] = best_epochs(result.folds)[AVERAGED].mean().to_dict()
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


def _log(run: Run, result: StudyResult, seconds: float, executor: Executor) -> None:
    trained, reporter = result.trained, executor.reporter
    run.set_tags(reuse.reused_tags(trained))
    run.log_figure(curves(trained, title=f"The {len(trained)} variants"), File.COMPARISON_PICTURE)
    table, jobs = comparison(result), _seconds(result)
    run.log_table(table, File.COMPARISON)
    run.log_table(jobs, File.SECONDS)
    run.log_metrics({Metric.STUDY_SECONDS: seconds, **result_metrics(table, result.selected)})
    curves_page = next(iter(links.view_addresses(run.experiment_id).values()))
    run_ids = [training.run_id for training in trained.values()]
    side_by_side = links.comparison_address(run.experiment_id, run_ids)
    addresses = {"curves": curves_page, "comparison": side_by_side}
    run.set_tags({Tag.ADDRESS.format(page=page): address for page, address in addresses.items()})
    listed = jobs.to_string(index=False, float_format="{:.0f}".format)
    reporter.message(f"\n{_readable(table)}\n\n{listed}\nall of it, side by side: {seconds:.0f} s\n")
    report_views(run.experiment_id, reporter)
    reporter.on_address(links.how_to_look(), "comparison of all variants", side_by_side)
    if failed := executor.failed:
        run.set_tags({Tag.FAILED: "; ".join(f"{name}: {why}" for name, why in failed.items())})


def _promote(run: Run, reporter: Reporter) -> None:
    """Promote the best model; a study whose models must not be promoted has done its work all the same."""
    try:
        Promotion(run, reporter).promote_best()
    except UserError as error:
        run.set_tags({Tag.PROMOTION_REFUSED: error})
        reporter.message(f"Nothing was promoted: {error}.")


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
    readable = table[list(headings)].rename(columns=headings)
    return str(readable.to_string(index=False, formatters=formats, na_rep=""))
