"""The end of a search: its best trial and the champion over the same seeds, and the evidence of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from lenet_study.evidence.comparison import OVERLAP
from lenet_study.evidence.statistics import corrected_paired_t_test
from lenet_study.execution.executor import Executor
from lenet_study.execution.reporter import duration
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import SEED_LIMIT, Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS
from lenet_study.search import attributes
from lenet_study.search.trials import TrialStore
from lenet_study.tracking import registry
from lenet_study.tracking.champions import CHAMPION
from lenet_study.tracking.registry import LoggedModel
from lenet_study.tracking.run import Run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import NAME, runs_with
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.workflows.evaluate import EvaluationJob
from lenet_study.workflows.train import TrainingJob, TrainingResult

Key = tuple[str, int]  # side and seed of one of a confirmation's trainings


def confirm(store: TrialStore, executor: Executor, run: Run, make_job: partial[TrainingJob]) -> None:
    """Train the best trial and the champion over the same seeds; register what is better.

    If the trial's mean is the higher one, the best of its models becomes the challenger. Validation accuracy
    decides; the test split is read once that is known, once for each training. A confirmation that was
    interrupted repeats neither a finished training nor a finished evaluation.
    """
    best, config, message = store.best(), store.settings.config, executor.reporter.message
    if best is None or not config.confirm_seeds:
        return
    if store.unfinished():
        message("Trials run on other computers: the last of them confirms the best")
        return
    rivals = {"challenger": _challenger(store, best), "champion": _champion(store)}
    name, fingerprint = rivals["champion"].name, rivals["champion"].fingerprint()
    # Others than the search's seed, whose luck chose the trial.
    seeds = [(config.seed + 1 + number) % SEED_LIMIT for number in range(config.confirm_seeds)]
    # Notes are compared with those of version 0.1: the text must stay as it is.
    note = f"trial {best.number}, seeds {seeds}, champion {fingerprint}"
    if rivals["challenger"].fingerprint() == fingerprint:
        message(f"The best trial is the champion, {name}, itself: nothing to confirm")
    elif note in store.study.user_attrs.get(attributes.CONFIRMED, []):
        message(f"Trial {best.number} was confirmed before; more trials may find a better one")
    else:
        jobs = {(side, seed): _job(make_job, side, rivals[side], seed) for seed in seeds for side in rivals}
        message(
            f"Training trial {best.number} and the champion, {name}, on the seeds {seeds}: "
            f"{len(jobs)} trainings, {_estimate(best, jobs, store.settings.workers)}"
        )
        _compare(store, executor, run, jobs, note)
        _add_note(store.study, attributes.CONFIRMED, note)


def _estimate(best: FrozenTrial, jobs: Mapping[Key, TrainingJob], workers: int) -> str:
    """Return in words how long trainings will take, judged by the trial that took its time already."""
    assert best.duration, "the best trial has ended"
    of_trial = next(job.size for (side, _), job in jobs.items() if side == "challenger")
    share = sum(job.size for job in jobs.values()) / of_trial / min(workers, len(jobs))
    return f"about {duration(best.duration.total_seconds() * share)}, judged by the time of the trial"


def _compare(
    store: TrialStore, executor: Executor, run: Run, jobs: Mapping[Key, TrainingJob], note: str
) -> None:
    """Train and evaluate both sides; log the evidence, and register a better challenger."""
    trained = _train(jobs, executor)
    table = _pairs(trained)
    # From here on the outcome is known, so that the comparison counts, even if its end is never reached.
    figures = _figures(table, _add_note(store.study, attributes.COMPARED, note))
    run.log_metrics({Metric.CONFIRM_FIGURE.format(figure=name): value for name, value in figures.items()})
    recipes = {side: job.recipe for (side, _), job in jobs.items()}
    challenger, champion = recipes["challenger"], recipes["champion"]
    executor.reporter.message(
        f"Validation accuracy over {len(table)} seeds: {challenger.name} {figures['challenger_mean']:.2%}, "
        f"{champion.name} {figures['champion_mean']:.2%}; difference {figures['difference']:+.2%} "
        f"± {figures['difference_std']:.2%}, p = {figures['p_value']:.2g}"
    )
    scores = _evaluate(trained, jobs, executor)
    for side, recipe in recipes.items():
        column = table[f"{side}_test"] = pd.Series([scores[side, seed] for seed in table["seed"]])
        mean, std = float(column.mean()), float(column.std()) if len(column) > 1 else 0.0
        run.log_metrics(
            {Metric.CONFIRM_TEST_MEAN.format(side=side): mean, Metric.CONFIRM_TEST_STD.format(side=side): std}
        )
        executor.reporter.message(f"Test accuracy of {recipe.name}: {mean:.2%} ± {std:.2%}")
    run.log_table(table, File.CONFIRM)
    run.log_text(recipe_file.dumps(challenger), File.RECIPE)
    if figures["difference"] > 0:  # last, so that `promote` finds the evidence complete
        winner = max(table["seed"], key=lambda seed: trained["challenger", seed].best.val_accuracy or 0.0)
        against = {"champion": champion.name, "champion_digest": champion.fingerprint(), "search": store.id}
        model = _model(trained["challenger", winner])
        version = registry.set_challenger(model, {**figures, **against}).version
        executor.reporter.message(f"Version {version} of {NAME} is the challenger: `promote` decides on this")


def _challenger(store: TrialStore, best: FrozenTrial) -> Recipe:
    """Return the recipe of the best trial, under its variant's name if it is one."""
    recipe = store.settings.space.suggest(optuna.trial.FixedTrial(best.params))
    for published in variant_recipes(TrainingConfig()).values():
        if published.fingerprint() == recipe.fingerprint():
            return published
    search = store.settings.config.search_name
    change = f"trial {best.number} of search {search}, {recipe.variant.change}"
    variant = replace(recipe.variant, change=change)
    return replace(recipe, name=f"{search}-trial-{best.number}", variant=variant)


def _champion(store: TrialStore) -> Recipe:
    """Return the recipe of the registry's champion; without one, that of the search's best variant."""
    # From its run, not by its name: a champion may be a model that a search found.
    version = registry.version_with_alias(CHAMPION)
    if version:
        return StoredTraining.load(version.run_id).recipe
    best = store.best(variants=True)
    name = best.user_attrs[attributes.VARIANT] if best else list(VARIANTS)[-1]
    return variant_recipes(TrainingConfig())[name]


def _job(make_job: partial[TrainingJob], side: str, recipe: Recipe, seed: int) -> TrainingJob:
    """Return one training, in float32 whatever the search's precision: a champion's accuracy is of that.

    One that has finished before is used again.
    """
    config = replace(recipe.config, seed=seed, precision="float32")
    job = make_job(stage="confirm", recipe=replace(recipe, config=config), once=True)
    return replace(job, tags={**job.tags, Tag.CONFIRM: side})


def _train(jobs: Mapping[Key, TrainingJob], executor: Executor) -> dict[Key, TrainingResult]:
    """Return the results of all trainings."""
    executor.reporter.on_plan("confirmation", {job.name: job.size for job in jobs.values()})
    # All at once, so that no worker is idle; in the order of the jobs, whichever ends first.
    submitted = {key: executor.submit(job) for key, job in jobs.items()}
    return {key: future.result() for key, future in submitted.items()}


def _pairs(trained: Mapping[Key, TrainingResult]) -> pd.DataFrame:
    """Return a row for each seed, with the accuracy and the run of both sides."""
    seeds = list(dict.fromkeys(seed for _, seed in trained))
    table = pd.DataFrame({"seed": seeds})
    for side in ("challenger", "champion"):
        table[side] = [trained[side, seed].best.val_accuracy for seed in seeds]
        table[f"{side}_run_id"] = [trained[side, seed].run_id for seed in seeds]
    table["difference"] = table["challenger"] - table["champion"]
    return table


def _figures(table: pd.DataFrame, comparisons: int) -> dict[str, float]:
    """Return the evidence of the pairs.

    The test is one-sided: only a challenger that is better displaces a champion. Its p value is multiplied
    by the number of comparisons that this search has made so far (Bonferroni): the best of many attempts is
    partly luck.
    """
    test = corrected_paired_t_test(table["difference"].tolist(), OVERLAP, "greater")
    return {
        "seeds": float(len(table)),
        "challenger_mean": float(table["challenger"].mean()),
        "champion_mean": float(table["champion"].mean()),
        "difference": test.mean,
        "difference_std": test.std,
        "comparisons": float(comparisons),
        "p_value": min(1.0, comparisons * test.p_value),
    }


def _evaluate(
    trained: Mapping[Key, TrainingResult], jobs: Mapping[Key, TrainingJob], executor: Executor
) -> dict[Key, float]:
    """Return the test accuracy of each training; one evaluated before an interruption is not again."""
    scores = {key: score for key, result in trained.items() if (score := _score(result)) is not None}
    submitted = {
        key: executor.submit(EvaluationJob.of(trained[key].run_id, job))
        for key, job in jobs.items()
        if key not in scores
    }
    return scores | {key: future.result().predictions.accuracy for key, future in submitted.items()}


def _score(result: TrainingResult) -> float | None:
    """Return the test accuracy of a training from its evaluation in the store; None if there is none."""
    tags: dict[str, str] = {Tag.STAGE: "evaluate", Tag.MODEL_RUN_ID: result.run_id}
    tags[Tag.WEIGHTS_SHA256] = _model(result).weights_sha256
    finished = [run for run in runs_with(tags) if run.info.status == "FINISHED"]
    return finished[0].data.metrics[Metric.TEST_ACCURACY] if finished else None


def _model(result: TrainingResult) -> LoggedModel:
    assert result.model, "nothing prunes a confirmation's training"
    return result.model


def _add_note(study: optuna.Study, attribute: str, note: str) -> int:
    """Add a note to a study's attribute unless it has it; return how many there are."""
    notes = study.user_attrs.get(attribute, [])
    if note not in notes:
        notes = [*notes, note]
        study.set_user_attr(attribute, notes)
    return len(notes)
