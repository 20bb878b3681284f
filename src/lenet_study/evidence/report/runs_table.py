"""Every run of a study: its figures, its id, and the command that makes them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import UNTRAINED, Evidence, cut, run_names
from lenet_study.evidence.results import StudyResults

TITLES = {
    "train": "Trainings",
    "retrain": "Retrainings on all training images",
    "fold": "Cross-validation",
    UNTRAINED: "Trainings with untrained auxiliary heads",
}

PARAMETERS = ("epochs", "batch_size", "learning_rate", "auxiliary", "precision", "seed", "repeats", "folds")


@dataclass(frozen=True)
class RunRow:
    """One run."""

    run_id: str
    name: str
    figures: Sequence[str]
    command: str
    address: str  # in MLflow's UI; empty where it is not known


@dataclass(frozen=True)
class RunGroup:
    """Runs of one kind."""

    title: str
    head: Sequence[str]  # of the figures
    rows: Sequence[RunRow]


def run_groups(evidence: Evidence) -> list[RunGroup]:
    """Return all runs by kind."""
    results, names = evidence.results, run_names(evidence.results)
    groups = [_trainings(results, stage, title, names, evidence) for stage, title in TITLES.items()]
    groups.append(_evaluations(results, names, evidence))
    return [group for group in groups if group.rows]


def study_command(facts: Mapping[str, str]) -> str:
    """Return the command that does the whole study again, with the parameters that are known.

    >>> study_command({"seed": "3", "device": "cpu"})
    'mlflow run . -e study -P seed=3 --env-manager local'
    """
    params = [f"-P {name}={shlex.quote(facts[name])}" for name in PARAMETERS if name in facts]
    return " ".join(["mlflow run . -e study", *params, "--env-manager local"])


def _trainings(
    results: StudyResults, stage: str, title: str, names: dict[str, str], evidence: Evidence
) -> RunGroup:
    chosen = results.trainings[results.trainings["stage"] == stage].sort_values(
        ["variant", "seed", "fold"], kind="stable"
    )
    rows = []
    for run_id, row in chosen.iterrows():
        figures = (
            f"{row['best_epoch']:.0f}" if row["best_epoch"] == row["best_epoch"] else "–",
            svg.percent(row["train_accuracy"], 2),
            svg.percent(row["val_accuracy"], 2),
        )
        rows.append(_row(str(run_id), figures, f"reproduce --run-id {run_id}", names, evidence))
    return RunGroup(title, ("best epoch", "training", "validation"), rows)


def _evaluations(results: StudyResults, names: dict[str, str], evidence: Evidence) -> RunGroup:
    rows = []
    for run_id in sorted(results.evaluations.index, key=lambda run_id: (names[str(run_id)], str(run_id))):
        row = results.evaluations.loc[run_id]
        figures = (svg.percent(row["test_accuracy"], 2), svg.decimal(row["test_loss"], 4))
        rows.append(_row(str(run_id), figures, f"evaluate --model {row['model_run_id']}", names, evidence))
    return RunGroup("Evaluations on the test split", ("accuracy", "loss"), rows)


def _row(
    run_id: str, figures: Sequence[str], command: str, names: dict[str, str], evidence: Evidence
) -> RunRow:
    address = evidence.addresses.get(run_id, "")
    return RunRow(run_id, cut(names[run_id]), figures, f"lenet-study {command}", address)
