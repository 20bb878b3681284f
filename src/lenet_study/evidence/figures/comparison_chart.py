"""Picture of a comparison: the accuracies of two models seed by seed, and their differences."""

from __future__ import annotations

import math
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenet_study.evidence.comparison import MARGIN, Comparison, OverSeeds, SplitName
from lenet_study.evidence.figures.style import COLOURS, PALETTE, new_figure, styled

_MARKERS = (("o", 8), ("s", 5.5))  # of the first model and the second, whose smaller one hides no equal one
_INK = "#333333"
_NAME_LENGTH = 32  # characters that fit beside another name
_OVER = {"validation": "over seeds, corrected for overlap", "test": "over trainings"}


@styled
def comparison(result: Comparison, colours: tuple[str, str]) -> Figure:
    """Draw a row of panels per split: accuracies of each pair, and differences with the mean's interval.

    ``colours`` are those of the first model and the second.
    """
    splits = result.splits()
    names = _short(result.names[0]), _short(result.names[1])
    lines = {split: len(result.rows(split)) + (len(over.first) > 1) for split, over in splits.items()}
    heights = [1.45 + 0.27 * lines[split] for split in splits]
    figure = new_figure(10, sum(heights) + 0.8, " and ".join(names))
    grid = figure.subplots(len(splits), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (accuracies, differences), (split, over) in zip(grid, splits.items(), strict=True):
        _draw_accuracies(accuracies, over, names, colours)
        _draw_differences(differences, result, split, over)
        _title_differences(differences, split, over, names)
        accuracies.set_title(f"{split.capitalize()} accuracy", loc="left", weight="bold")
        labels = [pair.label for pair in result.rows(split)] + (["mean"] if len(over.first) > 1 else [])
        for axes in (accuracies, differences):
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.grid(visible=True, axis="x")
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        accuracies.set_ylabel("seed")
        differences.tick_params(labelleft=False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def colours_of(variants: tuple[str, str]) -> tuple[str, str]:
    """Return the colours of two models: the variants', unless both are the same or unknown.

    >>> colours_of(("v4", "v3")) == (COLOURS["v4"], COLOURS["v3"])
    True
    """
    first = COLOURS.get(variants[0], PALETTE[4])
    second = COLOURS.get(variants[1], PALETTE[1])
    return (first, second) if first != second else (first, _INK)


def _draw_accuracies(axes: Axes, over: OverSeeds, names: tuple[str, str], colours: tuple[str, str]) -> None:
    """Draw both accuracies of each pair on a line that joins them, and the means below."""
    figures = over.figures()
    sides = [[*over.first], [*over.second]]
    if len(over.first) > 1:
        sides = [[*over.first, figures["first_mean"]], [*over.second, figures["second_mean"]]]
    rows = range(len(sides[0]))
    axes.hlines(rows, *sides, color="#BBBBBB", lw=1.5, zorder=1)
    for side, name, colour, (marker, size) in zip(sides, names, colours, _MARKERS, strict=True):
        axes.plot(side, rows, marker, color=colour, ms=size, mec="white", mew=0.6, label=name)
    _separate_mean(axes, over)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=2))
    axes.margins(x=0.08)


def _draw_differences(axes: Axes, result: Comparison, split: SplitName, over: OverSeeds) -> None:
    """Draw each pair's difference, on test images with its interval, and the mean with that over seeds."""
    axes.axvspan(-100 * MARGIN, 100 * MARGIN, color="#E3F1E5", zorder=0)
    axes.axvline(0, color=_INK, lw=1)
    differences = [100 * (one - other) for one, other in zip(over.first, over.second, strict=True)]
    axes.plot(differences, range(len(differences)), "o", color=_INK, ms=5, zorder=3)
    if split == "test":
        for row, pair in enumerate(result.rows(split)):
            assert pair.images, "rows of the test split have images"
            axes.hlines(
                row, 100 * pair.images.difference.low, 100 * pair.images.difference.high, color="#999999"
            )
    if len(differences) > 1:
        axes.plot(100 * over.difference, len(differences), "D", color=_INK, ms=7, zorder=3)
    if not math.isnan(over.low):
        axes.hlines(len(differences), 100 * over.low, 100 * over.high, color=_INK, lw=3)
    _separate_mean(axes, over)
    axes.margins(x=0.08)


def _title_differences(axes: Axes, split: SplitName, over: OverSeeds, names: tuple[str, str]) -> None:
    """Write the outcome above, and below what the marks mean."""
    outcomes = {
        "first": f"{names[0]} is better",
        "second": f"{names[1]} is better",
        "equal": "equal in practice",
        "undecided": "undecided",
    }
    outcome = outcomes[over.outcome] if len(over.first) > 1 else "one pair"
    axes.set_title(f"Difference: {outcome}", loc="left", weight="bold")
    marks = ["thin: 95 % over images"] if split == "test" else []
    marks += [f"thick: 95 % {_OVER[split]}"] if len(over.first) > 1 else []
    lines = [f"points; right of 0, {names[0]} is better", f"green: ±{100 * MARGIN:g} points"]
    axes.set_xlabel("\n".join([*lines, "; ".join(marks)]).strip())


def _short(name: str) -> str:
    return shorten(name, _NAME_LENGTH, placeholder=" …")


def _separate_mean(axes: Axes, over: OverSeeds) -> None:
    if len(over.first) > 1:
        axes.axhline(len(over.first) - 0.5, color="#BBBBBB", lw=0.8)
