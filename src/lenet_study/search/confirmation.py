"""The end of a search: its best trial and the champion over the same seeds, and what that proves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import optuna
import pandas as pd
from optuna.trial import FrozenTrial
from scipy import stats

from lenet_study.errors import StoreError, UserError
from lenet_study.execution.processes import Pool
from lenet_study.recipes.recipe import Recipe, of_variants
from lenet_study.recipes.variants import VARIANTS
from lenet_study.search.sampling import Settings
from lenet_study.search.trials import Ledger
from lenet_study.tracking import provenance as environment
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking
from lenet_study.tracking.run import Run
from lenet_study.training.dataset import VALIDATION_FRACTION
from lenet_study.training.loop import TrainingConfig
from lenet_study.workflows.evaluate import evaluate
from lenet_study.workflows.train import Job, TrainingResult, train, trained_by

SEEDS = 2**32  # a seed is below


def confirm(
    ledger: Ledger,
    settings: Settings,
    count: int,
    pool: Pool,
    run: Run,
    job: partial[Job],
) -> None:
    """Train the best trial and the champion over the same seeds; register what is better.

    What an interrupted confirmation has finished is neither trained nor tested again.

    If the trial's mean is the higher one, the best of its models becomes the challenger. The seeds are
    others than the search's, whose luck chose the trial. Validation accuracy decides. The test split is
    read once that is known, once for each training.

    Args:
        ledger: The search.
        settings: Its settings.
        count: Seeds.
        pool: Where to train.
        run: The search's open run.
        job: What all trainings of the search have in common.
    """
    best = ledger.best()
    if best is None:
        return
    rivals = {
        "challenger": _challenger(settings, best, ledger.study.study_name),
        "champion": _champion(ledger),
    }
    name = rivals["champion"].name
    if rivals["challenger"].digest() == rivals["champion"].digest():
        pool.reporter.say(f"The best trial is the champion, {name}, itself: nothing to confirm")
        return
    seeds = [(settings.seed + 1 + number) % SEEDS for number in range(count)]
    note = f"trial {best.number}, seeds {seeds}, champion {rivals['champion'].digest()}"
    attributes = ledger.study.user_attrs
    if note in attributes.get("confirmed", []):
        pool.reporter.say(f"Trial {best.number} was confirmed before; more trials may find a better one")
        return
    pool.reporter.say(f"Training trial {best.number} and the champion, {name}, on the seeds {seeds}")
    jobs = {(side, seed): _job(job, side, recipe, seed) for seed in seeds for side, recipe in rivals.items()}
    trained = _train(jobs, pool)
    table = _pairs(trained, seeds)
    compared = [each for each in attributes.get("compared", []) if each != note] + [note]
    ledger.study.set_user_attr("compared", compared)  # now that its outcome is known, it counts
    evidence = _evidence(table, len(compared))
    run.log_metrics({f"confirm/{key}": value for key, value in evidence.items()})
    pool.reporter.say(
        f"Validation accuracy over {count} seeds: trial {best.number} {evidence['challenger_mean']:.2%}, "
        f"{name} {evidence['champion_mean']:.2%}; difference {evidence['difference']:+.2%} "
        f"± {evidence['difference_std']:.2%}, p = {evidence['p_value']:.2g}"
    )
    scores = _test(trained, jobs, pool)
    for side, recipe in rivals.items():
        table[f"{side}_test"] = [scores[side, seed] for seed in seeds]
        mean, deviation = table[f"{side}_test"].mean(), _std(table[f"{side}_test"])
        run.log_metrics({f"confirm/{side}_test_mean": mean, f"confirm/{side}_test_std": deviation})
        pool.reporter.say(f"Test accuracy of {recipe.name}: {mean:.2%} ± {deviation:.2%}")
    run.log_table(table, "confirm.csv")
    run.log_text(rivals["challenger"].text(), "spec.json")
    if evidence["difference"] > 0:  # last, so that `promote` cannot come between
        champion = {"champion": name, "champion_digest": rivals["champion"].digest(), "search": ledger.id}
        winner = max(seeds, key=lambda seed: trained["challenger", seed].best.val_accuracy or 0.0)
        version = registry.set_challenger(
            trained["challenger", winner].model,
            {f"confirm.{key}": value for key, value in {**evidence, **champion}.items()},
        )
        pool.reporter.say(
            f"Version {version.version} of {tracking.NAME} is the challenger: `promote` decides on this"
        )
    ledger.study.set_user_attr("confirmed", [*attributes.get("confirmed", []), note])


def _challenger(settings: Settings, best: FrozenTrial, search: str) -> Recipe:
    recipe = settings.space.suggest(optuna.trial.FixedTrial(best.params))
    for variant in of_variants(TrainingConfig()).values():
        if variant.digest() == recipe.digest():
            return variant
    change = f"trial {best.number} of search {search}, {recipe.spec.change}"
    return replace(recipe, name=f"{search}-trial-{best.number}", spec=replace(recipe.spec, change=change))


def _champion(ledger: Ledger) -> Recipe:
    """The registry's champion; without one the best of the five in this search."""
    version = registry.version_with_alias(registry.CHAMPION)
    if version:
        return registry.recipe_of(version)
    best = ledger.best(variants=True)
    return of_variants(TrainingConfig())[best.user_attrs["variant"] if best else list(VARIANTS)[-1]]


def _job(job: partial[Job], side: str, recipe: Recipe, seed: int) -> Job:
    config = replace(recipe.config, seed=seed, precision="float32")
    full = job(stage="confirm", recipe=replace(recipe, config=config))
    return replace(full, extra_tags={**full.extra_tags, "confirm": side})


def _train(jobs: Mapping[tuple[str, int], Job], pool: Pool) -> dict[tuple[str, int], TrainingResult]:
    found = {key: done for key, job in jobs.items() if (done := _trained_before(job, pool))}
    if found:
        pool.reporter.say(f"Trainings finished before: {len(found)} of {len(jobs)}")
    submitted = {key: pool.submit(train, job) for key, job in jobs.items() if key not in found}
    return found | {key: future.result() for key, future in submitted.items()}


def _trained_before(job: Job, pool: Pool) -> TrainingResult | None:
    """The same training, if an earlier process of this search has finished it with the same packages."""
    tags = {name: str(job.extra_tags[name]) for name in ("search", "confirm")}
    params = {name: str(value) for name, value in job.parameters().items()}
    for run in registry.runs_with({"stage": job.stage, **tags, **environment.tags()}):
        if run.info.status == "FINISHED" and run.data.params == params:
            try:
                return trained_by(run)
            except (UserError, StoreError) as error:
                pool.reporter.say(f"Run {run.info.run_id} of {job.name} cannot be used again: {error}")
    return None


def _pairs(trained: Mapping[tuple[str, int], TrainingResult], seeds: Sequence[int]) -> pd.DataFrame:
    table = pd.DataFrame({"seed": list(seeds)})
    for side in ("challenger", "champion"):
        table[side] = [trained[side, seed].best.val_accuracy for seed in seeds]
        table[f"{side}_run_id"] = [trained[side, seed].run_id for seed in seeds]
    table["difference"] = table["challenger"] - table["champion"]
    return table


def _evidence(table: pd.DataFrame, comparisons: int) -> dict[str, float]:
    """What the pairs tell.

    p is of a one-sided paired t-test. Its variance is corrected, because the seeds' splits share images
    (Nadeau and Bengio, "Inference for the generalization error", 2003), and it is multiplied by the number
    of comparisons that this search has made so far (Bonferroni). One seed gives none: 1.
    """
    difference, count = table["difference"], len(table)
    overlap = VALIDATION_FRACTION / (1 - VALIDATION_FRACTION)
    deviation = _std(difference)
    p_value = 1.0
    if count > 1 and deviation > 0:
        t = difference.mean() / (deviation * math.sqrt(1 / count + overlap))
        p_value = min(1.0, comparisons * float(stats.t.sf(t, count - 1)))
    return {
        "seeds": float(count),
        "challenger_mean": float(table["challenger"].mean()),
        "champion_mean": float(table["champion"].mean()),
        "difference": float(difference.mean()),
        "difference_std": deviation,
        "comparisons": float(comparisons),
        "p_value": p_value,
    }


def _std(values: pd.Series) -> float:
    """Of a sample; 0 where one value gives none."""
    return float(values.std()) if len(values) > 1 else 0.0


def _test(
    trained: Mapping[tuple[str, int], TrainingResult], jobs: Mapping[tuple[str, int], Job], pool: Pool
) -> dict[tuple[str, int], float]:
    """Test accuracy of each training; it is read once, whatever interrupts the confirmation."""
    found = {key: score for key, each in trained.items() if (score := _tested_before(each)) is not None}
    submitted = {}
    for key, job in jobs.items():
        if key not in found:
            place = job.config.seed, job.machine, job.data_dir, job.parent
            submitted[key] = pool.submit(evaluate, trained[key].run_id, *place)
    return found | {key: future.result().predictions.accuracy for key, future in submitted.items()}


def _tested_before(trained: TrainingResult) -> float | None:
    tags = {"stage": "evaluate", "model.run_id": trained.run_id, "weights.sha256": trained.model.weights}
    for run in registry.runs_with(tags):
        if run.info.status == "FINISHED":
            return run.data.metrics["test/accuracy"]
    return None
