"""A comparison in words: what it rests on, what can be said, and what cannot."""

from __future__ import annotations

import math

import pandas as pd

from lenet_study.evidence.comparison import MARGIN, Comparison, OnImages, OverSeeds, Pair, SplitName
from lenet_study.evidence.planning import POWER, SEEDS_LIMIT

_LEVEL = 0.05


def text(comparison: Comparison) -> str:
    """Return the whole comparison as lines for a terminal."""
    first, second = comparison.names
    parts = [f"{first} and {second}: {_basis(comparison)}"]
    for split, over in comparison.splits().items():
        parts.append(
            "\n".join([_TITLES[split], _table(comparison, split, over), *_lines(comparison, split, over)])
        )
    if not comparison.test:
        parts.append("No test images: not both models of a pair have predictions; `evaluate` makes them.")
    return "\n\n".join(parts)


def conclusions(comparison: Comparison) -> list[str]:
    """Return one sentence for each split: which model is better, or what it would take to know."""
    return [_conclusion(comparison, split, over) for split, over in comparison.splits().items()]


_TITLES: dict[SplitName, str] = {
    "validation": "Validation accuracy, on each seed's own split",
    "test": "Test accuracy, on the same images for all",
}


def _basis(comparison: Comparison) -> str:
    pairs = comparison.pairs
    if len(pairs) > 1:
        return f"{len(pairs)} seeds, with each of which both were trained on the same images"
    seeds = pairs[0].seeds
    return f"one training of each, seed {pairs[0].label}" if seeds[0] == seeds[1] else "one training of each"


def _table(comparison: Comparison, split: SplitName, over: OverSeeds) -> str:
    """Return a line per pair and, for several, their means."""
    first, second = comparison.names
    rows = [_cells(pair, split, comparison.names) for pair in comparison.rows(split)]
    if len(rows) > 1:
        figures = over.figures()
        means = _percent(figures["first_mean"]), _percent(figures["second_mean"]), _points(over.difference)
        rows.append({"seed": "mean", first: means[0], second: means[1], "points": means[2]})
    return str(pd.DataFrame(rows).fillna("").to_string(index=False))


def _cells(pair: Pair, split: SplitName, names: tuple[str, str]) -> dict[str, str]:
    accuracies = pair.images.accuracies if split == "test" and pair.images else pair.validation
    assert accuracies, "only pairs with figures of the split have a line"
    cells = {"seed": pair.label, **dict(zip(names, map(_percent, accuracies), strict=True))}
    cells["points"] = _points(accuracies[0] - accuracies[1])
    if split == "test" and pair.images:
        difference, test = pair.images.difference, pair.images.test
        cells |= {
            "95 % over images": f"{_points(difference.low)} to {_points(difference.high)}",
            "only first right": f"{test.first_only:,}",
            "only second right": f"{test.second_only:,}",
            "McNemar's p": f"{test.p_value:.2g}",
            "mid-p": f"{test.mid_p_value:.2g}",
        }
    return cells


def _lines(comparison: Comparison, split: SplitName, over: OverSeeds) -> list[str]:
    seeds, conclusion = len(over.first), _conclusion(comparison, split, over)
    if seeds == 1:
        return [conclusion]
    share, smallest = over.share, 2 / 2**seeds
    flips = f"sign flips p = {over.sign_flip_p:.3g}"
    flips += f" (never below {smallest:.3g} with {seeds} seeds)" if smallest > _LEVEL else ""
    ties = sum(one == other for one, other in zip(over.first, over.second, strict=True))
    equal = f", equal with {ties}" if ties else ""
    corrected = "corrected paired t-test" if split == "validation" else "paired t-test"
    return [
        f"Mean difference {_points(over.difference)} points, {_interval(comparison, split, over)}.",
        f"{comparison.names[0]} is better with {share.count} of {seeds} seeds{equal}: "
        f"{share.count / seeds:.0%}, 95 % interval {share.low:.1%} to {share.high:.1%} (over seeds).",
        f"{flips}; {corrected} p = {over.t_p:.3g}.",
        conclusion,
    ]


def _interval(comparison: Comparison, split: SplitName, over: OverSeeds) -> str:
    """Return the mean's interval, and what it is over."""
    if math.isnan(over.low):
        return "no interval, because the seeds' differences do not vary"
    if split == "validation":
        over_what = "over seeds; Nadeau and Bengio's correction, because the seeds' splits share images"
    else:
        images = next(pair.images.images for pair in comparison.pairs if pair.images)
        over_what = f"over trainings, on these {images:,} images"
    return f"95 % interval {_points(over.low)} to {_points(over.high)} points ({over_what})"


def _conclusion(comparison: Comparison, split: SplitName, over: OverSeeds) -> str:
    if len(over.first) == 1:
        return _of_one_seed(comparison, split)
    first, second = comparison.names
    on, margin = f"on {split} images", f"±{100 * MARGIN:g} points"
    better = {"first": (first, second), "second": (second, first)}
    if over.outcome in better:
        winner, loser = better[over.outcome]
        return f"{winner} is better than {loser} {on}: the interval leaves out zero."
    if over.outcome == "equal":
        return f"{first} and {second} are equal in practice {on}: the interval is within {margin}."
    return f"Undecided {on}: {_what_would_settle(over, margin)}."


def _of_one_seed(comparison: Comparison, split: SplitName) -> str:
    """Return what a single pair tells: nothing of recipes, and on test images something of two models."""
    first, second = comparison.names
    no_recipe = "one pair tells nothing of how the next training would come out"
    (pair,) = comparison.rows(split)
    if split == "validation" or not pair.images:
        return f"Undecided on validation images: {no_recipe}."
    return f"{_of_two_models(pair.images, first, second)}; {no_recipe}."


def _of_two_models(images: OnImages, first: str, second: str) -> str:
    """Return what Newcombe's interval says of two trained models."""
    interval = images.difference
    if interval.low > 0 or interval.high < 0:
        winner, loser = (first, second) if interval.low > 0 else (second, first)
        return f"These two trained models differ on images like the test images: {winner} beats {loser}"
    return "These two trained models cannot be told apart by so many images"


def _what_would_settle(over: OverSeeds, margin: str) -> str:
    if not over.std > 0:
        return "the seeds' differences do not vary, so that their spread is unknown"
    ways = {
        f"show a difference of this size with a probability of {POWER:.0%}": over.seeds_to_detect,
        f"narrow the interval to {margin}": over.seeds_to_narrow,
    }
    seeds = len(over.first)
    further = [f"{n} seeds ({n - seeds} more) would {end}" for end, n in ways.items() if n and n > seeds]
    if further:
        return "; ".join(further)
    cause = " (splits that share images leave that uncertain)" if over.ratio else ""
    return f"no number of seeds up to {SEEDS_LIMIT:,} would settle it{cause}"


def _percent(accuracy: float) -> str:
    return f"{accuracy:.2%}"


def _points(difference: float) -> str:
    """Return a difference of accuracies in percentage points; -0.00 is +0.00."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"
