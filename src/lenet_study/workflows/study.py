"""``study``: five trainings, selection, evaluation, retraining, cross-validation, promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from time import perf_counter
from typing import Any

import pandas as pd

from lenet_study.errors import JobError
from lenet_study.evidence.figures import charts as figures
from lenet_study.execution.processes import Pool
from lenet_study.execution.reporter import Terminal
from lenet_study.recipes.recipe import of_variants
from lenet_study.tracking import run as tracking
from lenet_study.tracking.run import Run
from lenet_study.training import fashion_mnist as data
from lenet_study.training.hardware import Machine, share
from lenet_study.training.loop import Protocol
from lenet_study.workflows.evaluate import Evaluated, evaluate
from lenet_study.workflows.kfold import best_epochs, cross_validate
from lenet_study.workflows.promote import promote
from lenet_study.workflows.retrain import retrain
from lenet_study.workflows.train import Job, Trained, train


@dataclass(frozen=True)
class Findings:
    """What a study found; what failed is missing."""

    trained: Mapping[str, Trained]  # by variant
    chosen: str  # variant
    evaluated: Evaluated | None
    retrained: tuple[Trained, Evaluated] | None
    folds: Mapping[str, Trained]


def main(*, folds: int, device: str, threads: int, workers: int, data_dir: str, **protocol: Any) -> None:
    """Run the whole study; its trainings are runs of their own, tagged with the study's id."""
    start = perf_counter()
    settings, asked = Protocol(**protocol), Machine(device=device, threads=threads)
    params = {**asdict(settings), **asdict(asked), "workers": workers, "data_dir": data_dir, "folds": folds}
    workers, machine = share(asked, workers)
    machine.prepare()
    data.folds(data.load_train(data.folder_of(data_dir)).labels, folds, settings.seed)  # refuse early
    with tracking.run(
        "study", stage="study", params=params, description="Five variants, selection, evaluation."
    ) as run:
        run.set_tags({"study": run.id, "machine.threads": machine.threads, "machine.workers": workers})
        job = partial(Job, machine=machine, data_dir=data_dir, study=run.id)
        with Pool(workers, Terminal(), tracking.fail) as pool:
            findings = work(pool, settings, job, folds, params)
        _log(run, findings, perf_counter() - start)
        if pool.failed:
            run.set_tags({"failed": "; ".join(f"{name}: {why}" for name, why in pool.failed.items())})
            print(f"\nFailed: {', '.join(pool.failed)}; the tag `error` of their runs says why.")
        promote(run)


def work(
    pool: Pool, protocol: Protocol, job: partial[Job], folds: int, params: Mapping[str, object]
) -> Findings:
    """Train the five, choose one on validation accuracy, and look at it closely.

    Args:
        pool: Where the jobs run.
        protocol: How to train.
        job: What all trainings have in common.
        folds: Parts of the cross-validation.
        params: The study's parameters.

    Raises:
        JobError: None of the five could be trained.
    """
    # The largest first: the small ones then fill the gaps.
    recipes = of_variants(protocol)
    submitted = {
        name: pool.submit(train, job(stage="train", recipe=recipes[name])) for name in reversed(recipes)
    }
    trained = pool.results({variant: submitted[variant] for variant in recipes})
    if not trained:
        raise JobError("None of the five variants could be trained")
    chosen = select(trained)
    pool.reporter.say(f"Selected on validation accuracy: {chosen}")

    run_id, again = trained[chosen].run_id, job(stage="retrain", recipe=recipes[chosen])
    names = f"{chosen} on test", f"{chosen} retrained"
    place = (again.protocol.seed, again.machine, again.data_dir, again.study)
    evaluated = {names[0]: pool.submit(evaluate, run_id, *place)}
    retrained = {names[1]: pool.submit(retrain, again, run_id)}
    crossed: Mapping[str, Trained] = {}
    try:
        crossed = cross_validate(job(stage="fold", recipe=recipes[chosen], fold=1, folds=folds), pool, params)
    except JobError as error:
        pool.failed[f"{folds}-fold"] = str(error)
    return Findings(
        trained,
        chosen,
        pool.results(evaluated).get(names[0]),
        pool.results(retrained).get(names[1]),
        crossed,
    )


def select(trained: Mapping[str, Trained]) -> str:
    """The variant whose best epoch has the highest validation accuracy; the first on a tie."""
    return max(trained, key=lambda variant: trained[variant].best.val_accuracy or 0.0)


def comparison(findings: Findings) -> pd.DataFrame:
    """The study's figures beside the published ones: one row per training."""
    rows: dict[str, dict[str, object]] = {
        variant: {
            "best_epoch": training.best.epoch,
            "train_accuracy": training.best.train_accuracy,
            "val_accuracy": training.best.val_accuracy,
            "val_accuracy_augmented": training.augmented,
            "val_loss": training.best.val_loss,
        }
        for variant, training in findings.trained.items()
    }
    if findings.evaluated:
        rows[findings.chosen] |= _test_scores(findings.evaluated)
    if findings.retrained:
        rows[f"{findings.chosen}-retrained"] = _test_scores(findings.retrained[1])
    if findings.folds:
        averaged = ["train_accuracy", "val_accuracy", "val_accuracy_augmented", "val_loss"]
        rows[f"{findings.chosen}-kfold-mean"] = best_epochs(findings.folds)[averaged].mean().to_dict()
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("training").reset_index()
    published = published_models()[["training", "val_accuracy", "test_accuracy"]]
    published = published.rename(columns={"val_accuracy": "val_accuracy_augmented"})  # as it was measured
    return table.merge(published, on="training", how="left", suffixes=("", "_published"))


def published_models() -> pd.DataFrame:
    """The report's figures, one row per training."""
    with resources.files("lenet_study.evidence").joinpath("published_models.csv").open() as file:
        return pd.read_csv(file)


def _test_scores(evaluated: Evaluated) -> dict[str, object]:
    predictions = evaluated.predictions
    return {"test_accuracy": predictions.accuracy, "test_loss": predictions.loss}


def _seconds(findings: Findings) -> pd.DataFrame:
    jobs = {f"train {variant}": each.seconds for variant, each in findings.trained.items()}
    if findings.evaluated:
        jobs[findings.evaluated.name] = findings.evaluated.seconds
    if findings.retrained:
        training, evaluation = findings.retrained
        jobs |= {f"retrain {findings.chosen}": training.seconds, evaluation.name: evaluation.seconds}
    jobs |= {f"train {fold}": each.seconds for fold, each in findings.folds.items()}
    return pd.DataFrame({"job": list(jobs), "seconds": list(jobs.values())})


def _log(run: Run, findings: Findings, seconds: float) -> None:
    trained = findings.trained
    histories = {variant: training.history for variant, training in trained.items()}
    best = {variant: training.best.epoch for variant, training in trained.items()}
    run.log_figure(figures.curves(histories, best, title="The five variants"), "comparison.png")
    table, jobs = comparison(findings), _seconds(findings)
    run.log_table(table, "comparison.csv")
    run.log_table(jobs, "seconds.csv")
    run.log_metrics({"study_seconds": seconds})
    run_ids = [training.run_id for training in trained.values()]
    addresses = tracking.study_addresses(run.experiment_id, run.id, run_ids)
    run.set_tags({f"address.{name}": address for name, address in addresses.items()})
    print(f"\n{_readable(table)}\n")
    print(jobs.to_string(index=False, float_format="{:.0f}".format))
    print(f"all of it, side by side: {seconds:.0f} s\n\nCompare the five {tracking.how_to_look()}")
    for name, address in addresses.items():
        print(f"  {name}: {address}")


def _readable(table: pd.DataFrame) -> str:
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
