"""``study``: five trainings, selection, evaluation, retraining, cross-validation, promotion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import resources
from time import perf_counter
from typing import Any

import pandas as pd

from lenet_study import data, figures, registry, tracking
from lenet_study.commands.evaluate import Evaluated, evaluate
from lenet_study.commands.kfold import best_epochs, cross_validate
from lenet_study.commands.promote import promote
from lenet_study.commands.train import Job, Trained, train
from lenet_study.device import Machine
from lenet_study.tracking import Run
from lenet_study.training import Protocol
from lenet_study.variants import VARIANTS


def main(*, folds: int, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Run the whole study; its trainings are runs of their own, tagged with the study's id."""
    settings, machine = Protocol(**protocol), Machine(device=device, threads=threads)
    params = {**asdict(settings), **asdict(machine), "data_dir": data_dir, "folds": folds}
    machine.prepare()
    data.folds(data.load_train(data.folder_of(data_dir)).labels, folds, settings.seed)  # refuse early
    steps: dict[str, float] = {}
    with tracking.run(
        "study", stage="study", params=params, description="Five variants, selection, evaluation."
    ) as run:
        run.set_tags({"study": run.id})
        job = partial(Job, protocol=settings, machine=machine, data_dir=data_dir, study=run.id)
        trained: list[Trained] = []
        for variant in VARIANTS:
            with _timed(f"train {variant}", steps):
                trained.append(train(job(stage="train", variant=variant)))
        chosen = select(trained)
        print(f"Selected on validation accuracy: {chosen.variant}", flush=True)
        place = (settings.seed, machine, data_dir, run.id)
        with _timed(f"evaluate {chosen.variant}", steps):
            before = evaluate(registry.fetch(chosen.run_id), *place)
        with _timed(f"retrain {chosen.variant}", steps):
            again = train(job(stage="retrain", variant=chosen.variant))
        with _timed(f"evaluate {chosen.variant} retrained", steps):
            after = evaluate(registry.fetch(again.run_id), *place, before)
        with _timed(f"{folds}-fold {chosen.variant}", steps):
            crossed = cross_validate(chosen.variant, folds, settings, machine, data_dir, run.id)
        _log(run, trained, results(trained, chosen, before, after, crossed), steps)
        promote(run)


def select(trained: list[Trained]) -> Trained:
    """The training whose best epoch has the highest validation accuracy; the first on a tie."""
    return max(trained, key=lambda training: training.best.val_accuracy or 0.0)


def results(
    trained: list[Trained],
    chosen: Trained,
    before: Evaluated,
    after: Evaluated,
    crossed: list[Trained],
) -> pd.DataFrame:
    """The study's figures beside the published ones: one row per training."""
    rows: dict[str, dict[str, object]] = {
        training.variant: {
            "best_epoch": training.best.epoch,
            "train_accuracy": training.best.train_accuracy,
            "val_accuracy": training.best.val_accuracy,
            "val_accuracy_augmented": training.augmented,
            "val_loss": training.best.val_loss,
        }
        for training in trained
    }
    rows[chosen.variant] |= _test_scores(before)
    rows[f"{chosen.variant}-retrained"] = _test_scores(after)
    averaged = ["train_accuracy", "val_accuracy", "val_accuracy_augmented", "val_loss"]
    rows[f"{chosen.variant}-kfold-mean"] = best_epochs(crossed)[averaged].mean().to_dict()
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("training").reset_index()
    published = published_models()[["training", "val_accuracy", "test_accuracy"]]
    published = published.rename(columns={"val_accuracy": "val_accuracy_augmented"})  # as it was measured
    return table.merge(published, on="training", how="left", suffixes=("", "_published"))


def published_models() -> pd.DataFrame:
    """The report's figures, one row per training."""
    with resources.files("lenet_study").joinpath("published_models.csv").open() as file:
        return pd.read_csv(file)


def _test_scores(evaluated: Evaluated) -> dict[str, object]:
    predictions = evaluated.predictions
    return {"test_accuracy": predictions.accuracy, "test_loss": predictions.loss}


def _log(run: Run, trained: list[Trained], table: pd.DataFrame, steps: dict[str, float]) -> None:
    histories = {training.variant: training.history for training in trained}
    best = {training.variant: training.best.epoch for training in trained}
    run.log_figure(figures.curves(histories, best, title="The five variants"), "comparison.png")
    run.log_table(table, "comparison.csv")
    seconds = pd.DataFrame({"step": list(steps), "seconds": list(steps.values())})
    run.log_table(seconds, "steps.csv")
    run_ids = [training.run_id for training in trained]
    addresses = tracking.study_addresses(run.experiment_id, run.id, run_ids)
    run.set_tags({f"address.{name}": address for name, address in addresses.items()})
    print(f"\n{_readable(table)}\n")
    print(seconds.to_string(index=False, float_format="{:.0f}".format))
    print(f"total {sum(steps.values()):.0f} s\n\nCompare the five {tracking.how_to_look()}")
    for name, address in addresses.items():
        print(f"  {name}: {address}")


def _readable(table: pd.DataFrame) -> str:
    def percent(value: float) -> str:
        return "" if pd.isna(value) else f"{value:.2%}"

    formats = {name: percent for name in table.columns if "accuracy" in name}
    formats["best_epoch"] = lambda value: "" if pd.isna(value) else f"{value:.0f}"
    return str(table.to_string(index=False, formatters=formats, na_rep=""))


@contextmanager
def _timed(step: str, steps: dict[str, float]) -> Iterator[None]:
    print(f"== {step}", flush=True)
    start = perf_counter()
    yield
    steps[step] = perf_counter() - start
