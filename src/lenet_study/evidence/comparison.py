"""Two models compared: over the seeds of their trainings, and on the test images that both have classified.

The two speak of different things. Over seeds it is about two recipes: whether the next training would come
out the same way round. On images it is about two trained models: whether the next images would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from lenet_study.evidence.planning import seeds_to_detect, seeds_to_narrow
from lenet_study.evidence.statistics import (
    McNemarTest,
    PairedDifference,
    Share,
    corrected_paired_t_test,
    is_equivalent,
    mcnemar,
    mean_interval,
    paired_difference,
    share_above_zero,
    sign_flip_test,
)
from lenet_study.training.dataset import VALIDATION_FRACTION

MARGIN = 0.002  # of accuracy; two models that differ by less are equal in practice, fixed before looking
# Images that validate for each image trained on: two seeds' splits share most of them.
OVERLAP = VALIDATION_FRACTION / (1 - VALIDATION_FRACTION)
SplitName = Literal["validation", "test"]
Outcome = Literal["first", "second", "equal", "undecided"]


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """The accuracies of two models on one split, and their difference over seeds, first less second."""

    first: Sequence[float]  # accuracy of each seed, 0..1
    second: Sequence[float]
    ratio: float  # of the correction for splits that share images; 0 for images that are the same for all
    difference: float  # its mean, a fraction
    std: float  # sample standard deviation of the seeds' differences
    low: float  # 95 % interval of the mean; NaN for one seed
    high: float
    share: Share  # of seeds with which the first is better
    sign_flip_p: float
    t_p: float

    @property
    def outcome(self) -> Outcome:
        """Which model is better, by the interval: one of them, neither by ``MARGIN``, or nobody can say."""
        if self.low > 0:
            return "first"
        if self.high < 0:
            return "second"
        return "equal" if is_equivalent((self.low, self.high), MARGIN) else "undecided"

    @property
    def seeds_to_detect(self) -> int | None:
        """Number of seeds that would probably show a difference as large as this one."""
        return seeds_to_detect(self.difference, self.std, self.ratio)

    @property
    def seeds_to_narrow(self) -> int | None:
        """Number of seeds whose interval would be as narrow as ±``MARGIN``."""
        return seeds_to_narrow(MARGIN, self.std, self.ratio)

    def figures(self) -> dict[str, float]:
        """Return all numbers by name; NaN for what one seed does not tell."""
        return {
            "seeds": len(self.first),
            "first_mean": float(np.mean(self.first)),
            "second_mean": float(np.mean(self.second)),
            "difference": self.difference,
            "difference_std": self.std if len(self.first) > 1 else math.nan,
            "difference_low": self.low,
            "difference_high": self.high,
            "share": self.share.count / self.share.total,
            "share_low": self.share.low,
            "share_high": self.share.high,
            "sign_flip_p": self.sign_flip_p,
            "t_p": self.t_p,
        }


def over_seeds(first: Sequence[float], second: Sequence[float], ratio: float) -> OverSeeds:
    """Compare two models by their accuracies, a pair for each seed; see ``corrected_paired_t_test``."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    test = corrected_paired_t_test(differences, ratio)
    low, high = mean_interval(differences, ratio)
    return OverSeeds(
        first=first,
        second=second,
        ratio=ratio,
        difference=test.mean,
        std=test.std,
        low=low,
        high=high,
        share=share_above_zero(differences),
        sign_flip_p=sign_flip_test(differences),
        t_p=test.p_value,
    )


@dataclass(frozen=True)
class OnImages:
    """Two trained models on the same test images: how many both, one or neither have right."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @classmethod
    def of(cls, first_right: np.ndarray, second_right: np.ndarray) -> OnImages:
        """Count images by whether each model has them right, bool [N] each."""
        sides = (first_right & second_right, first_right & ~second_right, ~first_right & second_right)
        both, first_only, second_only = (int(np.count_nonzero(side)) for side in sides)
        return cls(both, first_only, second_only, len(first_right) - both - first_only - second_only)

    @property
    def images(self) -> int:
        """Number of images."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracy of each model, 0..1."""
        return (self.both + self.first_only) / self.images, (self.both + self.second_only) / self.images

    @cached_property
    def difference(self) -> PairedDifference:
        """Difference of the accuracies, with its interval over images."""
        return paired_difference(self.both, self.first_only, self.second_only, self.neither)

    @cached_property
    def test(self) -> McNemarTest:
        """McNemar's test."""
        return mcnemar(self.first_only, self.second_only)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two trainings to compare: the same seed, unless two runs were named."""

    seeds: tuple[int, int]
    run_ids: tuple[str, str]
    validation: tuple[float, float] | None = None  # accuracies; None if the images are not the same
    images: OnImages | None = None  # None without predictions of both

    @property
    def label(self) -> str:
        """The seed, or both."""
        return " / ".join(dict.fromkeys(map(str, self.seeds)))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models, by the pairs of their trainings.

    Attributes:
        names: Of the first model and the second, for people.
        pairs: In the order of their seeds.
    """

    names: tuple[str, str]
    pairs: tuple[Pair, ...]

    @cached_property
    def validation(self) -> OverSeeds | None:
        """Over seeds, on each seed's validation images; None without any."""
        accuracies = [pair.validation for pair in self.pairs if pair.validation]
        return _over_pairs(accuracies, OVERLAP)

    @cached_property
    def test(self) -> OverSeeds | None:
        """Over seeds, on the test images; None without predictions."""
        accuracies = [pair.images.accuracies for pair in self.pairs if pair.images]
        return _over_pairs(accuracies, 0)

    def splits(self) -> dict[SplitName, OverSeeds]:
        """Return what there is, by split."""
        splits: dict[SplitName, OverSeeds | None] = {"validation": self.validation, "test": self.test}
        return {name: over for name, over in splits.items() if over}

    def rows(self, split: SplitName) -> list[Pair]:
        """Return the pairs that have figures of a split."""
        return [pair for pair in self.pairs if (pair.validation if split == "validation" else pair.images)]

    def table(self) -> pd.DataFrame:
        """Return a row for each pair with all its numbers; empty where there is none."""
        return pd.DataFrame([_row(pair) for pair in self.pairs]).dropna(axis="columns", how="all")


def _over_pairs(accuracies: Sequence[tuple[float, float]], ratio: float) -> OverSeeds | None:
    first, second = [one for one, _ in accuracies], [other for _, other in accuracies]
    return over_seeds(first, second, ratio) if accuracies else None


def _row(pair: Pair) -> dict[str, object]:
    validation, images = pair.validation or (math.nan, math.nan), pair.images
    row: dict[str, object] = {
        "first_seed": pair.seeds[0],
        "second_seed": pair.seeds[1],
        "first_run_id": pair.run_ids[0],
        "second_run_id": pair.run_ids[1],
        "first_val_accuracy": validation[0],
        "second_val_accuracy": validation[1],
        "val_difference": validation[0] - validation[1],
    }
    if images:
        row |= {
            "first_test_accuracy": images.accuracies[0],
            "second_test_accuracy": images.accuracies[1],
            "test_difference": images.difference.difference,
            "test_difference_low": images.difference.low,
            "test_difference_high": images.difference.high,
            "both_right": images.both,
            "first_only_right": images.first_only,
            "second_only_right": images.second_only,
            "neither_right": images.neither,
            "mcnemar_p": images.test.p_value,
            "mcnemar_mid_p": images.test.mid_p_value,
        }
    return row
