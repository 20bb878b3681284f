"""Confusion matrices, averaged over the models of a group; rows are true classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenet_study.evidence.report.content import evaluated_groups, predictions_of
from lenet_study.evidence.results import StudyResults
from lenet_study.training.model import CLASSES

_NUMBERS = {name: position for position, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Cell:
    """Images of one class that are taken for another, or for their own."""

    text: str  # mean number of images per model
    shade: float  # 0..1
    correct: bool
    name: str  # for those who do not see the table


@dataclass(frozen=True)
class Confusion:
    """The matrix of a group of models, and each model's predictions."""

    name: str
    run_ids: Sequence[str]
    accuracy: float  # mean over the models, 0..1
    rows: Sequence[tuple[str, Sequence[Cell]]]  # true class, cells
    labels: np.ndarray  # int [images], in their order
    predicted: np.ndarray  # int [models, images]


def confusions(results: StudyResults) -> list[Confusion]:
    """Return the matrix of each group of evaluated models that has predictions."""
    made, predictions = [], predictions_of(results)
    for name, run_ids in evaluated_groups(results).items():
        tables = {run_id: predictions[run_id] for run_id in run_ids if run_id in predictions}
        if tables:
            made.append(_confusion(name, tables))
    return made


def class_numbers(names: pd.Series) -> np.ndarray:
    """Return names of classes as their numbers, int [N]."""
    return names.map(_NUMBERS).to_numpy(dtype=np.int64)


def _confusion(name: str, tables: Mapping[str, pd.DataFrame]) -> Confusion:
    labels = class_numbers(next(iter(tables.values()))["true"])
    predicted = np.stack([class_numbers(table["predicted"]) for table in tables.values()])
    counts = np.zeros((len(CLASSES), len(CLASSES)))
    np.add.at(counts, (np.broadcast_to(labels, predicted.shape), predicted), 1 / len(predicted))
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    shares = counts / totals
    rows = []
    for true, class_name in enumerate(CLASSES):
        cells = [
            Cell(
                _number(counts[true, guess]),
                round(float(shares[true, guess]) ** 0.5, 3),
                true == guess,
                f"{CLASSES[true]} taken for {CLASSES[guess]}: {_number(counts[true, guess]) or 0} images",
            )
            for guess in range(len(CLASSES))
        ]
        rows.append((class_name, cells))
    return Confusion(name, list(tables), float((predicted == labels).mean()), rows, labels, predicted)


def _number(count: float) -> str:
    if count == 0:
        return ""
    return f"{count:.0f}" if count >= 9.95 or count == round(count) else f"{count:.1f}"
