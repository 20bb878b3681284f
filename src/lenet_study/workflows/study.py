"""``study``: all variants trained, one selected, evaluated, retrained, cross-validated, and promoted.

With repeats, trainings, evaluations and retrainings are done once for each of several seeds. A seed gives all
variants the same split, so that they can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import perf_counter

import pandas as pd
from matplotlib.figure import Figure

from lenet_study.errors import JobError, StudyError, UserError
from lenet_study.evidence.figures import training_curves
from lenet_study.evidence.published import published_models
from lenet_study.execution.executor import Executor
from lenet_study.execution.reporter import Reporter
from lenet_study.recipes.recipe import SEED_LIMIT, TrainingConfig, variant_recipes
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
from lenet_study.workflows.report import make_report
from lenet_study.workflows.retrain import RetrainingJob
from lenet_study.workflows.train import TrainingJob, TrainingResult
from lenet_study.workflows.waiting import wait_for_store

_TRAINED = ["best_epoch", "train_accuracy", "val_accuracy", "val_accuracy_augmented", "val_loss"]
_COMPARED = ["seeds", *_TRAINED, "test_accuracy", "test_loss", "val_accuracy_std", "test_accuracy_std"]


@dataclass(frozen=True)
class StudyResult:
    """The results of a study; while it goes on, those of failed jobs are missing."""

    trained: Mapping[str, Mapping[int, TrainingResult]]  # by variant and seed
    selected: str  # variant
    evaluated: Mapping[int, EvaluationResult]  # by seed
    retrained: Mapping[int, tuple[TrainingResult, EvaluationResult]]  # by seed
    folds: Mapping[str, TrainingResult]  # of the first seed

    @property
    def trainings(self) -> dict[str, TrainingResult]:
        """All trainings of the variants, by variant, or by variant and seed if there are several seeds."""
        repeated = len({seed for results in self.trained.values() for seed in results}) > 1
        return {
            f"{variant} seed {seed}" if repeated else variant: result
            for variant, results in self.trained.items()
            for seed, result in results.items()
        }


def study(
    config: TrainingConfig,
    *,
    folds: int = 5,
    repeats: int = 1,
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
    the same fingerprints again: one with more repeats trains those that are new.

    Args:
        config: The parameters of every training; its seed is the first one.
        folds: Parts of the cross-validation.
        repeats: Seeds, one after the other from the first one.
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
        UserError: A class has fewer images than there are folds, or a seed is too large.
        JobError: A part failed; the others are done, and the store holds their results.
    """
    start = perf_counter()
    data = data or DataFiles.at()
    params = {**asdict(config), **asdict(hardware), "workers": workers, "folds": folds, "repeats": repeats}
    params |= {"data_dir": str(data.folder), "checkpoint_dir": checkpoint_dir, "variants": ",".join(variants)}
    workers, share = divide_cores(hardware, workers)
    share.prepare()
    dataset.folds(data.train().labels, folds, config.seed)  # refuses too many before there is a run
    if config.seed + repeats > SEED_LIMIT:
        last = SEED_LIMIT - 1
        raise UserError(f"seed={config.seed} and repeats={repeats} lead beyond {last}: choose a smaller seed")
    make_job = partial(TrainingJob, hardware=share, data=data, checkpoint_dir=checkpoint_dir, once=not force)
    jobs = _jobs(config, repeats, variants, make_job)
    identity = _fingerprint(jobs, folds)
    end_abandoned(reporter)
    resume = resume or ("" if force else reuse.interrupted(identity))
    if resume:
        reporter.message(f"The study goes on in run {resume}")
    with open_run(
        "study",
        stage="study",
        params=params,
        tags={Tag.FINGERPRINT: identity, Tag.THREADS: share.threads, Tag.WORKERS: workers},
        description=f"{len(variants)} variants, {_seeds(config, repeats)}, selection, evaluation.",
        resume=resume,
    ) as run:
        run.set_tags({Tag.STUDY: run.id})
        with make_executor(workers, reporter) as executor:
            result = run_jobs(executor, [replace(job, study=run.id) for job in jobs], folds, params)
        _log(run, result, perf_counter() - start, executor)
        wait_for_store(reporter)
        _promote(run, reporter)
        _report(run, data, reporter)
        renew_page_of(run, reporter)
        if failed := executor.failed:  # said above, each with its reason
            raise JobError(f"Parts of the study failed ({', '.join(failed)}): the same command does them")
    return result


def _jobs(
    config: TrainingConfig, repeats: int, variants: Collection[str], make_job: partial[TrainingJob]
) -> list[TrainingJob]:
    """Return the trainings of the variants, all of one seed before those of the next."""
    return [
        make_job(recipe=recipe, repeated=seed > config.seed)
        for seed in range(config.seed, config.seed + repeats)
        for name, recipe in variant_recipes(replace(config, seed=seed)).items()
        if name in variants
    ]


def _seeds(config: TrainingConfig, repeats: int) -> str:
    last = config.seed + repeats - 1
    return f"seed {last}" if repeats == 1 else f"seeds {config.seed} to {last}"


def _fingerprint(jobs: Sequence[TrainingJob], folds: int) -> str:
    trainings = {job.name: job.fingerprint() for job in jobs}
    return reuse.fingerprint({"stage": "study", "trainings": trainings, "folds": folds})


def run_jobs(
    executor: Executor, jobs: Sequence[TrainingJob], folds: int, params: Mapping[str, object]
) -> StudyResult:
    """Train all variants, select one on mean validation accuracy, and look at it closely.

    ``jobs`` are the variants' trainings, those of one seed after those of another; ``params`` are those of
    the study's run.

    Raises:
        JobError: None of the variants could be trained.
    """
    reporter = executor.reporter
    largest = max(jobs, key=lambda job: job.size)
    reporter.on_plan("study", _sizes(jobs, largest.recipe.name, folds))  # until one is selected
    # The largest first: the small ones then fill the gaps.
    in_order = sorted(jobs, key=lambda job: (job.recipe.config.seed, -job.size))
    submitted = {job.name: executor.submit(job) for job in in_order}
    results = executor.results({job.name: submitted[job.name] for job in jobs})
    trained: dict[str, dict[int, TrainingResult]] = {}
    for job in jobs:
        if job.name in results:
            trained.setdefault(job.recipe.name, {})[job.recipe.config.seed] = results[job.name]
    if not trained:
        raise JobError("None of the variants could be trained")
    selected = select(trained)
    reporter.message(f"Selected on validation accuracy: {selected}")
    reporter.on_plan("study", _sizes(jobs, selected, folds))

    chosen = [job for job in jobs if job.recipe.name == selected and job.name in results]
    evaluated = {
        f"{job.name} on test": executor.submit(EvaluationJob.of(results[job.name].run_id, job))
        for job in chosen
    }
    retrained = {
        f"{job.name} retrained": executor.submit(RetrainingJob(training=job, former=results[job.name].run_id))
        for job in chosen
    }
    folds_trained: Mapping[str, TrainingResult] = {}
    wait_for_store(reporter)
    try:
        folds_trained = kfold(replace(chosen[0], folds=folds, repeated=False), executor, params)
    except JobError as error:
        executor.failed[f"{folds}-fold"] = str(error)
    evaluations, retrainings = executor.results(evaluated), executor.results(retrained)
    seeds = {job.name: job.recipe.config.seed for job in chosen}
    return StudyResult(
        trained,
        selected,
        {seed: evaluations[on] for name, seed in seeds.items() if (on := f"{name} on test") in evaluations},
        {
            seed: retrainings[again]
            for name, seed in seeds.items()
            if (again := f"{name} retrained") in retrainings
        },
        folds_trained,
    )


def _sizes(jobs: Sequence[TrainingJob], selected: str, folds: int) -> dict[str, float]:
    """Return how long each training of a study takes, relative to the others, by its name."""
    chosen = [job for job in jobs if job.recipe.name == selected]
    further = [replace(job, stage="retrain") for job in chosen]
    first = replace(chosen[0], stage="fold", folds=folds, repeated=False)
    further += [replace(first, fold=fold) for fold in range(1, folds + 1)]
    return {job.name: job.size for job in [*jobs, *further]}


def select(trained: Mapping[str, Mapping[int, TrainingResult]]) -> str:
    """Return the variant whose best epochs have the highest mean validation accuracy; the first on a tie."""
    return max(trained, key=lambda variant: _mean_accuracy(trained[variant].values()))


def _mean_accuracy(results: Collection[TrainingResult]) -> float:
    return sum(result.best.val_accuracy or 0.0 for result in results) / len(results)


def comparison(result: StudyResult) -> pd.DataFrame:
    """Set the study's figures beside the published ones: one row per variant, its means over the seeds.

    With several seeds, ``seeds`` is their number, and the columns that end in ``_std`` are standard
    deviations of a sample.
    """
    tables = {
        variant: best_epochs({str(seed): each for seed, each in results.items()}).rename(
            columns={"epoch": "best_epoch"}
        )
        for variant, results in result.trained.items()
    }
    rows = {variant: _summary(table[_TRAINED]) for variant, table in tables.items()}
    tested = _test_scores(result.evaluated.values())
    rows[result.selected] = tested | rows[result.selected]  # the number of seeds is that of the trainings
    if result.retrained:
        rows[f"{result.selected}-retrained"] = _test_scores(each for _, each in result.retrained.values())
    if result.folds:
        rows[f"{result.selected}-kfold-mean"] = best_epochs(result.folds)[AVERAGED].mean().to_dict()
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=_COMPARED)  # also if some failed
    table = table.rename_axis("training").reset_index()
    published = published_models()[["training", "val_accuracy", "test_accuracy"]]
    published = published.rename(columns={"val_accuracy": "val_accuracy_augmented"})  # as it was measured
    return table.merge(published, on="training", how="left", suffixes=("", "_published"))


def _summary(table: pd.DataFrame) -> dict[str, float]:
    """Return means and, under names that end in ``_std``, deviations of a table's columns."""
    means, deviations = table.mean().to_dict(), table.std().add_suffix("_std").to_dict()
    return {"seeds": len(table), **means, **deviations}


def _test_scores(evaluated: Iterable[EvaluationResult]) -> dict[str, float]:
    predictions = [evaluation.predictions for evaluation in evaluated]
    scores = {
        "test_accuracy": [each.accuracy for each in predictions],
        "test_loss": [each.loss for each in predictions],
    }
    return _summary(pd.DataFrame(scores)) if predictions else {}


def _seconds(result: StudyResult) -> pd.DataFrame:
    """Return the wall time of each job."""
    seconds = {f"train {name}": training.seconds for name, training in result.trainings.items()}
    seconds |= {evaluated.name: evaluated.seconds for evaluated in result.evaluated.values()}
    for training, evaluation in result.retrained.values():
        retrained = evaluation.name.removesuffix(" on test")
        seconds |= {f"train {retrained}": training.seconds, evaluation.name: evaluation.seconds}
    seconds |= {f"train {fold}": training.seconds for fold, training in result.folds.items()}
    return pd.DataFrame({"job": list(seconds), "seconds": list(seconds.values())})


def _log(run: Run, result: StudyResult, seconds: float, executor: Executor) -> None:
    trained, reporter = result.trainings, executor.reporter
    run.set_tags(reuse.reused_tags(trained))
    run.log_figure(_picture(result), File.COMPARISON_PICTURE)
    table, jobs = comparison(result), _seconds(result)
    run.log_table(table, File.COMPARISON)
    run.log_table(jobs, File.SECONDS)
    run.log_result({Metric.STUDY_SECONDS: seconds, **result_metrics(table, result.selected)})
    curves_page = next(iter(links.view_addresses(run.experiment_id).values()))
    run_ids = [next(iter(results.values())).run_id for results in result.trained.values()]
    side_by_side = links.comparison_address(run.experiment_id, run_ids)
    addresses = {"curves": curves_page, "comparison": side_by_side}
    run.set_tags({Tag.ADDRESS.format(page=page): address for page, address in addresses.items()})
    listed = jobs.to_string(index=False, float_format="{:.0f}".format)
    reporter.message(f"\n{_readable(table)}\n\n{listed}\nall of it, side by side: {seconds:.0f} s\n")
    report_views(run.experiment_id, reporter)
    reporter.on_address(links.how_to_look(), "comparison of all variants", side_by_side)
    if failed := executor.failed:
        run.set_tags({Tag.FAILED: "; ".join(f"{name}: {why}" for name, why in failed.items())})


def _picture(result: StudyResult) -> Figure:
    """Draw the curves of all variants, several seeds of one as a band."""
    title, trained = f"The {len(result.trained)} variants", result.trained
    if all(len(results) == 1 for results in trained.values()):
        return curves({name: each for name, results in trained.items() for each in results.values()}, title)
    histories = {name: [each.history for each in results.values()] for name, results in trained.items()}
    return training_curves.seed_curves(histories, title=title)


def _promote(run: Run, reporter: Reporter) -> None:
    """Promote the best model; a study whose models must not be promoted has done its work all the same."""
    try:
        Promotion(run, reporter).promote_best()
    except StudyError as error:
        run.set_tags({Tag.PROMOTION_REFUSED: error})
        reporter.message(f"Nothing was promoted: {error}.")


def _report(run: Run, data: DataFiles, reporter: Reporter) -> None:
    """Log the study's report; one that cannot be made now is made by `report` later."""
    try:
        made = make_report(run.id, data, reporter)
        made.log(run)
    except StudyError as error:
        reporter.message(f"There is no report: {error}; `report` makes it.")
        return
    reporter.message(f"{File.REPORT} of the study: {made.summary}.")
    reporter.on_address(links.how_to_look(), "report", links.report_address(run))


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

    if (table["seeds"] > 1).any():
        headings |= {"seeds": "seeds", "val_accuracy_std": "val ±", "test_accuracy_std": "test ±"}

    def percent(value: float) -> str:
        return "" if pd.isna(value) else f"{value:.2%}"

    formats = {heading: percent for name, heading in headings.items() if "accuracy" in name}
    for heading in ("best epoch", "seeds"):
        formats[heading] = lambda value: "" if pd.isna(value) else f"{value:.0f}"
    readable = table[list(headings)].rename(columns=headings)
    return str(readable.to_string(index=False, formatters=formats, na_rep=""))
