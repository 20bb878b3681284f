"""What a section of the report is made of, and the runs of a study by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup

from lenet_study.evidence.report.shown_claims import ShownClaim
from lenet_study.evidence.results import StudyResults
from lenet_study.training.dataset import Split

LONGEST = 500  # characters of a text of the store that are shown
UNTRAINED = "untrained"  # stage of trainings whose auxiliary heads were left as they are drawn
STAGES = {  # how a run's name goes on after its variant, in the order of the page
    "train": "",
    "retrain": " retrained",
    UNTRAINED: " with untrained heads",
    "fold": "",
}


@dataclass(frozen=True)
class Embedding:
    """Two t-SNE coordinates of every test image, float [N, 2], from the features of one model."""

    run_id: str  # of the evaluation
    coordinates: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a report shows; what is missing is said on the page.

    Attributes:
        results: The study.
        claims: Judged claims.
        remarks: What is to be known about all of them, in sentences.
        images: The test images.
        training_images: Those among which the nearest of a hard test image is looked for.
        embedding: Where the test images lie.
        published_epochs: The published curves: training, epoch, and metrics.
        published_models: The published figures of each training.
        addresses: Pages of runs in MLflow's UI, by run id.
        leading_facts: Names of the facts that stand at the top.
    """

    results: StudyResults
    claims: Sequence[ShownClaim] = ()
    remarks: Sequence[str] = ()
    images: Split | None = None
    training_images: Split | None = None
    embedding: Embedding | None = None
    published_epochs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"training": []}))
    published_models: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame({"training": [], "val_accuracy": []})
    )
    addresses: Mapping[str, str] = field(default_factory=dict)
    leading_facts: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column holds the names of its rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """A picture with its title."""

    title: str
    picture: Markup
    variant: str = ""  # whose colour the title has
    note: str = ""
    readout: Mapping[str, Sequence[float | None]] = field(default_factory=dict)  # by name, for each epoch


def cut(text: object) -> str:
    """Return a text of the store, shortened if it is longer than a page shows."""
    words = str(text)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}… ({len(words):,} characters)"


def trainings_of(results: StudyResults, variant: str, stage: str = "train") -> pd.DataFrame:
    """Return the trainings of a variant, by seed."""
    table = results.trainings
    chosen = table[(table["variant"] == variant) & (table["stage"] == stage)]
    return chosen.sort_values(["seed", "fold"], kind="stable")


def variants_of(results: StudyResults) -> list[str]:
    """Return the variants that were trained, in the order of their first appearance."""
    return list(dict.fromkeys(results.trainings["variant"]))


def seeds_of(results: StudyResults) -> int:
    """Return the number of seeds."""
    table = results.trainings
    return int(table.loc[table["stage"] == "train", "seed"].nunique())


def run_names(results: StudyResults) -> dict[str, str]:
    """Return the name of every run, such as ``v4 retrained, seed 3, on test``."""
    names = {}
    for run_id, row in results.trainings.iterrows():
        part = f"fold {row['fold']:.0f}" if row["stage"] == "fold" else f"seed {row['seed']:.0f}"
        names[str(run_id)] = f"{row['variant']}{STAGES.get(row['stage'], '')}, {part}"
    for run_id, model in results.evaluations["model_run_id"].items():
        names[str(run_id)] = f"{names.get(str(model), 'another model')}, on test"
    return names


def evaluated_groups(results: StudyResults, *, untrained_heads: bool = False) -> dict[str, list[str]]:
    """Return the evaluations' ids by what was evaluated, such as ``v4`` and ``v4 retrained``, by seed.

    Models with untrained auxiliary heads classify as the others do, bit by bit, and count only where
    ``untrained_heads`` asks for them.
    """
    evaluations = results.evaluations.drop_duplicates("model_run_id", keep="last")
    models = results.trainings.reindex(evaluations["model_run_id"])
    models.index = evaluations.index
    groups: dict[str, list[str]] = {}
    models["order"] = models["stage"].map({stage: position for position, stage in enumerate(STAGES)})
    for run_id, row in models.sort_values(["order", "seed"], kind="stable").iterrows():
        if row["stage"] == UNTRAINED and not untrained_heads:
            continue
        known = isinstance(row["variant"], str)
        name = f"{row['variant']}{STAGES.get(row['stage'], '')}" if known else "other models"
        groups.setdefault(name, []).append(str(run_id))
    return groups


def predictions_of(results: StudyResults) -> dict[str, pd.DataFrame]:
    """Return the predictions of every evaluation that has any, in the order of the images."""
    tables = {}
    for run_id in (run_id for run_ids in evaluated_groups(results).values() for run_id in run_ids):
        model = str(results.evaluations.loc[run_id, "model_run_id"])
        if model in results.predictions:
            tables[run_id] = results.predictions[model].sort_values("image", kind="stable")
    return tables
