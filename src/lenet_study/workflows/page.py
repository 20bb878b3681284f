"""MLflow's page of a study: its saved views, notes and cards, and ``views``, which prints their addresses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pandas as pd

from lenet_study.errors import StudyError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import cards, links, saved_views
from lenet_study.tracking.run import PATIENCE, Run
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.store import StoredRun, connect, find_runs, runs_with
from lenet_study.tracking.stored_training import StoredTraining


def views(reporter: Reporter = Reporter()) -> None:
    """Renew the page of the latest study, and report the addresses of its saved views.

    Raises:
        StoreError: The store failed.
    """
    connect()
    studies = runs_with({Tag.STAGE: "study"})
    if not studies:
        reporter.message("There is no study to look at yet: `make study` makes one.")
        return
    latest = max(studies, key=lambda run: run.info.start_time)
    renew_page(latest)
    report_views(latest.info.experiment_id, reporter)


def report_views(experiment_id: str, reporter: Reporter) -> None:
    """Report the addresses of an experiment's saved views."""
    for name, address in links.view_addresses(experiment_id).items():
        reporter.on_address(links.how_to_look(), name, address)


def renew_page(study: StoredRun) -> None:
    """Write a study's saved views, and renew the notes and cards of all that belongs to it.

    Raises:
        StoreError: The store failed.
    """
    run_id = study.info.run_id
    seed = int(StoredTraining(study).params.get("seed", 0))
    saved_views.save(study.info.experiment_id, run_id, seed)
    members = {run.info.run_id for run in find_runs([f"tags.{Tag.STUDY} LIKE '%{run_id}%'"])} - {run_id}
    for member in members | cards.without_card():
        for renew in (cards.renew_run, cards.renew_version):
            with suppress(StudyError):  # its run was deleted
                renew(member)
    cards.renew_study(study)
    cards.renew_model()


def result_metrics(comparison: pd.DataFrame, selected: str) -> dict[str, float | None]:
    """Return the metrics of a study's run: what it found; None for what a failed job left out.

    Args:
        comparison: The study's figures, one row per training.
        selected: The variant chosen.
    """
    rows = comparison.set_index("training").to_dict("index")
    chosen, baseline = rows[selected], rows.get("baseline", {})
    retrained, folds = rows.get(f"{selected}-retrained", {}), rows.get(f"{selected}-kfold-mean", {})
    gains: dict[str, float] = {
        Metric.GAIN_VARIANTS: chosen["val_accuracy"] - baseline.get("val_accuracy", math.nan),
        Metric.GAIN_RETRAINING: retrained.get("test_accuracy", math.nan) - chosen["test_accuracy"],
    }
    metrics: dict[str, float] = {
        Metric.BEST_VAL_ACCURACY: chosen["val_accuracy"],
        Metric.BEST_VAL_ACCURACY_AUGMENTED: chosen["val_accuracy_augmented"],
        Metric.TEST_ACCURACY: chosen["test_accuracy"],
        Metric.TEST_ACCURACY_RETRAINED: retrained.get("test_accuracy", math.nan),
        Metric.KFOLD_MEAN.format(metric="val_accuracy"): folds.get("val_accuracy", math.nan),
        **gains,
    }
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def renew_page_of(run: Run, reporter: Reporter) -> None:
    """Renew the page of a study that has done its work, which a store that fails now does not undo."""
    with _told("page of the study", reporter):
        run.delivery.wait(PATIENCE)  # for the figures that the notes show
        (study,) = find_runs([f"attributes.run_id = '{run.id}'"])
        renew_page(study)


def renew_cards(run_id: str, reporter: Reporter) -> None:
    """Renew note and card after a training or an evaluation of its model; as ``renew_page_of``."""
    with _told(f"card of run {run_id}", reporter):
        cards.renew_run(run_id)
        cards.renew_version(run_id)


def renew_model_card(reporter: Reporter) -> None:
    """Renew the registered model's card after a promotion; as ``renew_page_of``."""
    with _told("card of the registered model", reporter):
        cards.renew_model()


@contextmanager
def _told(what: str, reporter: Reporter) -> Iterator[None]:
    """Say what could not be renewed, and go on."""
    try:
        yield
    except StudyError as error:
        reporter.message(f"The {what} in MLflow was not renewed ({error}): `lenet-study views` does")
