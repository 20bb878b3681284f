"""Statements about predictions, such as "shirts are the hardest class", and how sure they are.

A statement holds or not of a table of counts. The bootstrap draws seeds and images with replacement, each
image for all drawn seeds at once, so that its share is over both (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenet_study.training.model import CLASSES

RESAMPLES = 1000
SHARE = 0.95  # of the resamples: as many as this bear a statement out, or as many contradict it
Counts = np.ndarray  # float64 [..., size] of one table, or of many resamples


@dataclass(frozen=True)
class Statement:
    """A statement about one model's predictions, or about two models' on the same images."""

    classes: int  # how many class names it takes
    codes: Callable[[pd.DataFrame], np.ndarray]  # a number below ``size`` for each image
    size: int
    holds: Callable[[Counts, Counts, tuple[int, ...]], np.ndarray]  # of resamples, and of the other model's
    words: Callable[[Counts, Counts, tuple[int, ...]], str]  # the figure behind it, of one table's counts
    compares: bool = False  # whether it is about two models
    metric: str = "test_accuracy"  # that trainings have if they have such predictions


def confusion_codes(table: pd.DataFrame) -> np.ndarray:
    """Return ten times the true class plus the predicted one, for each image."""
    true, predicted = (pd.Categorical(table[name], CLASSES).codes for name in ("true", "predicted"))
    return true.astype(np.int64) * len(CLASSES) + predicted


def _agreement_codes(table: pd.DataFrame) -> np.ndarray:
    return (table["auxiliary_first"] == table["auxiliary_second"]).to_numpy().astype(np.int64)


def _confusion(counts: Counts) -> np.ndarray:
    """Return counts [..., 10, 10]: rows are true classes, columns predicted ones."""
    return counts.reshape(*counts.shape[:-1], len(CLASSES), len(CLASSES))


def _recalls(counts: Counts) -> np.ndarray:
    confusion = _confusion(counts)
    totals = confusion.sum(-1)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.divide(right, totals, out=np.ones_like(totals), where=totals > 0)


def _wrong(counts: Counts) -> np.ndarray:
    """Return the confusion matrix without its diagonal."""
    return _confusion(counts) * (1 - np.eye(len(CLASSES)))


def _is_hardest(counts: Counts, _: Counts, classes: tuple[int, ...]) -> np.ndarray:
    recalls = _recalls(counts)
    others = np.delete(recalls, classes[0], axis=-1)
    return recalls[..., classes[0]] < others.min(-1)


def _hardest_words(counts: Counts, _: Counts, classes: tuple[int, ...]) -> str:
    recalls = _recalls(counts)
    order = [CLASSES[number] for number in np.argsort(recalls, kind="stable")[:2]]
    return (
        f"{CLASSES[classes[0]]} has a recall of {_percent(recalls[classes[0]], 1)}; "
        f"the lowest two are of {order[0]} and {order[1]}"
    )


def _is_mostly_taken_for(counts: Counts, _: Counts, classes: tuple[int, ...]) -> np.ndarray:
    wrong = _wrong(counts)[..., classes[0], :]
    others = np.delete(wrong, classes[1], axis=-1)
    return wrong[..., classes[1]] > others.max(-1)


def _taken_for_words(counts: Counts, _: Counts, classes: tuple[int, ...]) -> str:
    first, second = classes
    wrong = _wrong(counts)[first]
    share = wrong[second] / wrong.sum() if wrong.sum() else 0.0
    return f"{_percent(share)} of the errors on {CLASSES[first]} are {CLASSES[second]}"


def _are_each_other_s(counts: Counts, other: Counts, classes: tuple[int, ...]) -> np.ndarray:
    forth = _is_mostly_taken_for(counts, other, classes)
    return forth & _is_mostly_taken_for(counts, other, classes[::-1])


def _each_other_words(counts: Counts, other: Counts, classes: tuple[int, ...]) -> str:
    forth, back = (_taken_for_words(counts, other, pair) for pair in (classes, classes[::-1]))
    return f"{forth}; {back}"


def _share_within(counts: Counts, classes: tuple[int, ...]) -> np.ndarray:
    wrong = _wrong(counts)
    within = wrong[..., classes, :][..., classes].sum((-1, -2))
    total = wrong.sum((-1, -2))
    return np.divide(within, total, out=np.zeros_like(total), where=total > 0)


def _is_most_within(counts: Counts, _: Counts, classes: tuple[int, ...]) -> np.ndarray:
    return _share_within(counts, classes) > 0.5


def _within_words(counts: Counts, _: Counts, classes: tuple[int, ...]) -> str:
    share = _percent(float(_share_within(counts, classes)))
    return f"{share} of all errors are among these {len(classes)} classes"


def _is_taken_less(counts: Counts, other: Counts, classes: tuple[int, ...]) -> np.ndarray:
    first, second = classes
    return _confusion(counts)[..., first, second] < _confusion(other)[..., first, second]


def _taken_less_words(counts: Counts, other: Counts, classes: tuple[int, ...]) -> str:
    first, second = classes
    rows = [_confusion(table)[first] for table in (other, counts)]
    before, after = (_percent(row[second] / max(1.0, row.sum()), 1) for row in rows)
    return f"{before} of {CLASSES[first]} are taken for {CLASSES[second]} before, {after} after"


def _disagree_mostly(counts: Counts, _: Counts, __: tuple[int, ...]) -> np.ndarray:
    return counts[..., 1] < 0.5 * counts.sum(-1)


def _agreement_words(counts: Counts, _: Counts, __: tuple[int, ...]) -> str:
    share = _percent(counts[1] / max(1.0, counts.sum()), 1)
    return f"both heads name the same class on {share} of the images"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


_CONFUSION = (confusion_codes, len(CLASSES) ** 2)
STATEMENTS = {
    "hardest_class": Statement(1, *_CONFUSION, _is_hardest, _hardest_words),
    "mostly_taken_for": Statement(2, *_CONFUSION, _is_mostly_taken_for, _taken_for_words),
    "mostly_each_other": Statement(2, *_CONFUSION, _are_each_other_s, _each_other_words),
    "most_errors_within": Statement(5, *_CONFUSION, _is_most_within, _within_words),
    "taken_less_often": Statement(2, *_CONFUSION, _is_taken_less, _taken_less_words, compares=True),
    "heads_disagree": Statement(
        0, _agreement_codes, 2, _disagree_mostly, _agreement_words, metric="auxiliary_agreement"
    ),
}


@dataclass(frozen=True)
class Support:
    """How a statement fares on predictions."""

    share: float  # of the resamples that bear it out, 0..1
    words: str  # the figure behind it, over all seeds


def support(
    statement: Statement,
    tables: Sequence[pd.DataFrame],
    classes: Sequence[str],
    others: Sequence[pd.DataFrame] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Support:
    """Return how many resamples of seeds × images bear a statement out.

    Args:
        statement: One of ``STATEMENTS``.
        tables: Predictions of one training per seed, as ``predictions.csv`` has them, on the same images.
        classes: The class names that it is about.
        others: Those of the model that a comparing statement sets beside it, of the same seeds.
        resamples: Number of resamples.
        seed: Of the random draws.
    """
    numbers = tuple(CLASSES.index(name) for name in classes)
    sides = [[statement.codes(table) for table in side] for side in (tables, others)]
    random = np.random.default_rng(seed)
    images = len(sides[0][0])
    drawn = np.zeros((2, resamples, statement.size))
    for row in range(resamples):
        weights = np.bincount(random.integers(images, size=images), minlength=images).astype(float)
        seeds = np.bincount(random.integers(len(tables), size=len(tables)), minlength=len(tables))
        for side, codes in enumerate(sides):
            for times, code in zip(seeds, codes, strict=False):
                if times:
                    drawn[side, row] += times * np.bincount(code, weights, minlength=statement.size)
    whole = [sum(np.bincount(code, minlength=statement.size) for code in codes) for codes in sides]
    one, other = (np.asarray(counts, dtype=float) for counts in whole)
    words = statement.words(one, other, numbers)
    return Support(float(statement.holds(drawn[0], drawn[1], numbers).mean()), words)
