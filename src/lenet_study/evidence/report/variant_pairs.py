"""Pairs of variants, seed by seed: the planned steps from parent to child, and all pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from markupsafe import Markup

from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import trainings_of, variants_of
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.results import StudyResults
from lenet_study.evidence.statistics import (
    Share,
    corrected_paired_t_test,
    holm,
    mean_interval,
    share_above_zero,
    sign_flip_test,
)
from lenet_study.recipes.variants import VARIANTS, Variant

RATIO = 0.25  # of validation to training images: the seeds' splits overlap
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Pair:
    """Validation accuracy of a model less that of another, over the seeds that both have."""

    first: str
    second: str
    change: str  # what the second one has otherwise; empty if it is no child of the first
    mean: float  # of second less first, 0..1
    low: float  # 95 % interval over seeds
    high: float
    share: Share  # of seeds for which the second is better
    p_value: float  # Student's t, corrected for overlapping splits
    flip_p_value: float  # exact sign-flip test
    holm_p_value: float  # of ``p_value``, among all pairs of the family
    picture: Markup

    @property
    def words(self) -> str:
        """What can be said."""
        if self.low != self.low:
            return "one seed alone says nothing of the spread"
        if self.holm_p_value < SIGNIFICANT:
            return f"{self.second} is {'better' if self.mean > 0 else 'worse'}"
        return "undecided"


@dataclass(frozen=True)
class Family:
    """Pairs that are tested together."""

    planned: bool
    pairs: Sequence[Pair]
    ends: tuple[str, str]  # of the pictures' scale


def families(results: StudyResults, variants: Mapping[str, Variant] = VARIANTS) -> list[Family]:
    """Return the steps from parent to child, and all pairs as a second, exploratory family."""
    names = [name for name in variants_of(results) if name in variants]
    steps = [(parent, name) for name in names if (parent := variants[name].parent or "") in names]
    made = []
    for planned, pairs in ((True, steps), (False, list(combinations(names, 2)))):
        differences = {pair: _differences(results, *pair) for pair in pairs}
        compared = {pair: values for pair, values in differences.items() if len(values)}
        if compared:
            made.append(_family(planned, compared, variants))
    return made


def _differences(results: StudyResults, first: str, second: str) -> np.ndarray:
    """Return second less first of every seed that both have, once each."""
    accuracies = [
        trainings_of(results, name).drop_duplicates("seed", keep="last").set_index("seed")["val_accuracy"]
        for name in (first, second)
    ]
    return np.asarray((accuracies[1] - accuracies[0]).dropna().sort_index(), dtype=float)


def _family(
    planned: bool, differences: Mapping[tuple[str, str], np.ndarray], variants: Mapping[str, Variant]
) -> Family:
    tests = [corrected_paired_t_test(values.tolist(), RATIO) for values in differences.values()]
    adjusted = holm([test.p_value for test in tests])
    intervals = [mean_interval(values.tolist(), RATIO) for values in differences.values()]
    ends = [end for interval in intervals for end in interval] + [test.mean for test in tests] + [0.0]
    scale = Scale.around(ends, 0, 140)
    pairs = []
    for (first, second), test, interval, p_value in zip(differences, tests, intervals, adjusted, strict=True):
        values = differences[first, second].tolist()
        name = f"Difference {svg.difference(test.mean)} points"
        if interval[0] == interval[0]:
            name += f", 95 % interval {svg.difference(interval[0])} to {svg.difference(interval[1])}"
        pairs.append(
            Pair(
                first,
                second,
                variants[second].change if variants[second].parent == first else "",
                test.mean,
                *interval,
                share_above_zero(values),
                test.p_value,
                sign_flip_test(values),
                p_value,
                svg.interval_picture(*interval, mark=None, zero=0, centre=test.mean, scale=scale, name=name),
            )
        )
    return Family(planned, pairs, (svg.difference(scale.low), svg.difference(scale.high)))
