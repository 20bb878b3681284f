"""Pictures of a training: its curves, its learning rate, its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lenet_study.evidence.figures.style import (
    CHANGED,
    COLOURS,
    PALETTE,
    draw_steps,
    new_figure,
    number_epochs,
    show_image,
    styled,
)
from lenet_study.training.history import Epoch

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
        number_epochs(axes, min(numbers), max(numbers))
    loss.set_ylabel("cross-entropy (nats per image)")
    accuracy.set_ylabel("images correct")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    key = [*loss.get_legend_handles_labels()[0], *_line_styles(loss)]
    figure.legend(handles=key, loc="outside lower center", ncols=min(len(key), 8))
    return figure


def _plot_history(
    plot: partial[list[Line2D]], metric: str, name: str, epochs: Sequence[Epoch], best: int | None
) -> float | None:
    """Plot one metric of a training, and a star at its best epoch; return the value there."""
    numbers = [epoch.epoch for epoch in epochs]
    train = [getattr(epoch, f"train_{metric}") for epoch in epochs]
    val = [getattr(epoch, f"val_{metric}") for epoch in epochs]
    validated = None not in val
    plot(numbers, train, ls="--", lw=1, ms=3, mfc="white", label=None if validated else name)
    if not validated:
        return None
    plot(numbers, val, ls="-", lw=1.8, ms=4, label=name)
    if best is None:
        return None
    best_value: float = val[numbers.index(best)]
    plot(best, best_value, marker="*", ls="", ms=13, mec="black", zorder=3)
    return best_value


def _line_styles(axes: Axes) -> Iterator[Line2D]:
    """Yield what the legend shows for each kind of line that there is."""
    present = {line.get_linestyle() for line in axes.lines}
    for style, marker, label in (
        ("-", "", "validation"),
        ("--", "", "training"),
        ("None", "*", "best epoch"),
    ):
        if style in present:
            yield Line2D([], [], color="black", ls=style, marker=marker, ms=10, label=label)


@styled
def learning_rate(epochs: Sequence[Epoch], title: str = "") -> Figure:
    """Draw the learning rate of every epoch, as steps."""
    figure = new_figure(6, 3.2, title)
    axes = figure.subplots()
    rates = [epoch.learning_rate for epoch in epochs]
    draw_steps(axes, epochs[0].epoch, rates, "#333333")
    for epoch, before in zip(epochs, (None, *rates), strict=False):
        if epoch.learning_rate != before and len(set(rates)) <= 6:
            position = (epoch.epoch - 0.4, epoch.learning_rate)
            axes.annotate(f"{epoch.learning_rate:g}", position, (0, 3), textcoords="offset points")
    axes.set(ylabel="learning rate", ylim=(0, max(rates) * 1.12))
    number_epochs(axes, epochs[0].epoch, epochs[-1].epoch)
    return figure


@styled
def augmentation(originals: np.ndarray, augmented: np.ndarray) -> Figure:
    """Show a row per image uint8 [R, 28, 28], followed by its augmentations uint8 [R, C, 28, 28]."""
    rows, columns = augmented.shape[:2]
    figure = new_figure(1.15 * (columns + 1), 1.13 * rows + 0.3)
    panels = figure.subplots(rows, columns + 1, squeeze=False)
    for row, original, variations in zip(panels, originals, augmented, strict=True):
        show_image(row[0], original, CHANGED, 2)
        for axes, pixels in zip(row[1:], variations, strict=True):
            show_image(axes, pixels)
    panels[0, 0].set_title("original", size=8, weight="bold", color=CHANGED)
    for number, axes in enumerate(panels[0, 1:], start=1):
        axes.set_title(f"augmented {number}", size=8)
    return figure
