"""Curves, learning rate and augmented images of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenet_study.evidence.figures.style import CHANGED, COLOURS, PALETTE, draw_steps, new_figure, styled
from lenet_study.training.history import Epoch

GAP = 1  # pixels around each image
LINE_STYLES = (("-", "", "validation"), ("--", "", "training"), ("None", "*", "best epoch"))
MARKERS = "os^DvPX"  # a second cue beside the colour; one fewer, so that pairs repeat late


@styled
def curves(
    histories: Mapping[str, Sequence[Epoch]], best: Mapping[str, int] | None = None, title: str = ""
) -> Figure:
    """Draw loss and accuracy of each named training; ``best`` is the number of its best epoch."""
    figure = new_figure(10, 4.4, title)
    loss, accuracy = figure.subplots(1, 2)
    numbers = [epoch.epoch for epochs in histories.values() for epoch in epochs]
    for axes, metric, precision in ((loss, "loss", ".4f"), (accuracy, "accuracy", ".2%")):
        for i, (name, epochs) in enumerate(histories.items()):
            colour = COLOURS.get(name.partition(" ")[0], PALETTE[i % len(PALETTE)])
            plot = partial(axes.plot, color=colour, marker=MARKERS[i % len(MARKERS)])
            number = (best or {}).get(name)
            best_value = _plot_history(plot, metric, name, epochs, number)
            if best_value is not None and len(histories) == 1:
                axes.set_title(f"★ best epoch {number}: {best_value:{precision}}", loc="right")
        axes.set_title(metric.capitalize(), loc="left", weight="bold")
        _number_epochs(axes, min(numbers), max(numbers))
    loss.set_ylabel("cross-entropy (nats per image)")
    accuracy.set_ylabel("images correct")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    drawn = {line.get_linestyle() for line in loss.lines}
    key = loss.get_legend_handles_labels()[0] + [
        Line2D([], [], color="black", ls=style, marker=marker, ms=10, label=label)
        for style, marker, label in LINE_STYLES
        if style in drawn
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=min(len(key), 8))
    return figure


def _plot_history(
    plot: partial[list[Line2D]], metric: str, name: str, epochs: Sequence[Epoch], best: int | None
) -> float | None:
    """Plot one metric of a training, and a star at its best epoch; return the value there."""
    numbers = [epoch.epoch for epoch in epochs]
    train = [getattr(epoch, f"train_{metric}") for epoch in epochs]
    val = {epoch.epoch: getattr(epoch, f"val_{metric}") for epoch in epochs}
    validated = None not in val.values()
    plot(numbers, train, ls="--", lw=1, ms=3, mfc="white", label=None if validated else name)
    if validated:
        plot(numbers, list(val.values()), ls="-", lw=1.8, ms=4, label=name)
    if best is None or not validated:
        return None
    plot(best, val[best], marker="*", ls="", ms=13, mec="black", zorder=3)
    return val[best]


def _number_epochs(axes: Axes, first: int, last: int) -> None:
    axes.set(xlabel="epoch", xlim=(first - 0.5, last + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True)


@styled
def learning_rate(epochs: Sequence[Epoch], title: str = "") -> Figure:
    """Draw the learning rate of every epoch, as steps."""
    figure = new_figure(6, 3.2, title)
    axes = figure.subplots()
    rates = [epoch.learning_rate for epoch in epochs]
    draw_steps(axes, epochs[0].epoch, rates, "#333333")
    for epoch, rate, before in zip(epochs, rates, (None, *rates), strict=False):
        if rate != before and len(set(rates)) <= 6:
            axes.annotate(f"{rate:g}", (epoch.epoch - 0.4, rate), (0, 3), textcoords="offset points")
    axes.set(ylabel="learning rate", ylim=(0, max(rates) * 1.12))
    _number_epochs(axes, epochs[0].epoch, epochs[-1].epoch)
    return figure


@styled
def augmentation(originals: np.ndarray, augmented: np.ndarray) -> Figure:
    """Show a row per image uint8 [R, 28, 28], followed by its augmentations uint8 [R, C, 28, 28]."""
    images = np.concatenate((originals[:, None], augmented), axis=1)
    # One picture of all images: axes for each took 0.7 s and more to lay out.
    tiles = np.pad(images, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP)), constant_values=255)
    rows, columns, side = tiles.shape[:3]
    figure = new_figure(1.15 * columns, 1.13 * rows + 0.3)
    axes = figure.subplots()
    axes.axis("off")
    axes.imshow(tiles.swapaxes(1, 2).reshape(rows * side, columns * side), cmap="gray", vmin=0, vmax=255)
    labels = ("original", *(f"augmented {number}" for number in range(1, columns)))
    for column, label in enumerate(labels):
        text = axes.text((column + 0.5) * side, 0, label, ha="center", va="bottom", size=8)
        if column == 0:
            text.set(weight="bold", color=CHANGED)
    for row in range(rows):
        corner, width = (GAP - 0.5, row * side + GAP - 0.5), side - 2 * GAP
        axes.add_patch(Rectangle(corner, width, width, fill=False, color=CHANGED, lw=2))
    return figure
