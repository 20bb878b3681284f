"""Curves, learning rate and augmented images of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenet_study.evidence.figures.style import CHANGED, colours_of, draw_steps, new_figure, styled
from lenet_study.recipes.variants import Augmentation
from lenet_study.training.augmentation import SOLARIZE_THRESHOLD
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
    colours = colours_of(histories)
    for axes, metric, precision in ((loss, "loss", ".4f"), (accuracy, "accuracy", ".2%")):
        for i, (name, epochs) in enumerate(histories.items()):
            plot = partial(axes.plot, color=colours[name], marker=MARKERS[i % len(MARKERS)])
            number = (best or {}).get(name)
            best_value = _plot_history(plot, metric, name, epochs, number)
            if best_value is not None and len(histories) == 1:
                axes.set_title(f"★ best epoch {number}: {best_value:{precision}}", loc="right")
    _label_curves(loss, accuracy, list(histories.values()))
    drawn = {line.get_linestyle() for line in loss.lines}
    styles = [
        Line2D([], [], color="black", ls=style, marker=marker, ms=10, label=label)
        for style, marker, label in LINE_STYLES
        if style in drawn
    ]
    _add_key(figure, [*loss.get_legend_handles_labels()[0], *styles])
    return figure


@styled
def seed_curves(trainings: Mapping[str, Sequence[Sequence[Epoch]]], title: str = "") -> Figure:
    """Draw loss and accuracy of variants that were trained with several seeds.

    Thin lines are the seeds' validation, thick ones their mean, dashed ones the mean of training. The band is
    one standard deviation of the seeds (n - 1) to either side of the mean; it is no interval of the mean.

    Args:
        trainings: The epochs of each seed by variant; epochs that a seed lacks are left out of its variant.
        title: Above all.
    """
    figure = new_figure(10, 4.8, title)
    loss, accuracy = figure.subplots(1, 2)
    colours = colours_of(trainings)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for i, (name, seeds) in enumerate(trainings.items()):
            label = f"{name} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})"
            _plot_seeds(axes, metric, seeds, colours[name], MARKERS[i % len(MARKERS)], label)
    _label_curves(loss, accuracy, [epochs for seeds in trainings.values() for epochs in seeds])
    styles: list[Artist] = [
        Line2D([], [], color="black", lw=1.8, label="mean of validation"),
        Line2D([], [], color="black", lw=1, ls="--", label="mean of training"),
    ]
    if any(len(seeds) > 1 for seeds in trainings.values()):
        styles.append(Line2D([], [], color="black", lw=0.5, alpha=0.6, label="validation of one seed"))
        styles.append(Patch(color="black", alpha=0.15, lw=0, label="± standard deviation of the seeds"))
    _add_key(figure, [*loss.get_legend_handles_labels()[0], *styles], columns=5)
    return figure


def _plot_seeds(
    axes: Axes, metric: str, seeds: Sequence[Sequence[Epoch]], colour: str, marker: str, label: str
) -> None:
    """Plot one metric of one variant's trainings, their means, and a band if there are several."""
    count = min(map(len, seeds))
    numbers = [epoch.epoch for epoch in seeds[0][:count]]

    def values(kind: str) -> np.ndarray:
        """Return a row per seed and a column per epoch."""
        return np.array([[getattr(e, f"{kind}_{metric}") for e in epochs[:count]] for epochs in seeds], float)

    validation = values("val")
    mean = validation.mean(0)
    if len(seeds) > 1:
        for row in validation:
            axes.plot(numbers, row, color=colour, lw=0.5, alpha=0.6)
        deviation = validation.std(0, ddof=1)
        axes.fill_between(numbers, mean - deviation, mean + deviation, color=colour, alpha=0.15, lw=0)
    axes.plot(numbers, values("train").mean(0), color=colour, ls="--", lw=1)
    axes.plot(numbers, mean, color=colour, lw=1.8, marker=marker, ms=4, label=label)


def _label_curves(loss: Axes, accuracy: Axes, histories: Sequence[Sequence[Epoch]]) -> None:
    numbers = [epoch.epoch for epochs in histories for epoch in epochs]
    for axes, metric in ((loss, "Loss"), (accuracy, "Accuracy")):
        axes.set_title(metric, loc="left", weight="bold")
        _number_epochs(axes, min(numbers), max(numbers))
    loss.set_ylabel("cross-entropy (nats per image)")
    accuracy.set_ylabel("images correct")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))


def _add_key(figure: Figure, entries: Sequence[Artist], columns: int = 8) -> None:
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), columns))


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
def augmentation(
    originals: np.ndarray, augmented: np.ndarray, strength: Augmentation, title: str = ""
) -> Figure:
    """Show a row per image uint8 [R, 28, 28], followed by its augmentations uint8 [R, C, 28, 28].

    The picture names the transforms of ``strength`` that have one.
    """
    images = np.concatenate((originals[:, None], augmented), axis=1)
    # One picture of all images: axes for each took 0.7 s and more to lay out.
    tiles = np.pad(images, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP)), constant_values=255)
    rows, columns, side = tiles.shape[:3]
    caption = fill(f"At random: {transforms(strength)}.", 13 * columns)
    figure = new_figure(1.15 * columns, 1.13 * rows + 0.6 + 0.18 * len(caption.splitlines()), title)
    axes = figure.subplots()
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.imshow(tiles.swapaxes(1, 2).reshape(rows * side, columns * side), cmap="gray", vmin=0, vmax=255)
    axes.set_xlabel(caption, color="#555555")
    labels = ("original", *(f"augmented {number}" for number in range(1, columns)))
    for column, label in enumerate(labels):
        text = axes.text((column + 0.5) * side, 0, label, ha="center", va="bottom", size=8)
        if column == 0:
            text.set(weight="bold", color=CHANGED)
    for row in range(rows):
        corner, width = (GAP - 0.5, row * side + GAP - 0.5), side - 2 * GAP
        axes.add_patch(Rectangle(corner, width, width, fill=False, color=CHANGED, lw=2))
    return figure


def transforms(strength: Augmentation) -> str:
    """Return in words what may happen to an image, and to which share of them.

    >>> transforms(Augmentation(autocontrast=0, solarize=0))
    'mirrored (25 % of the images), brightness and contrast changed by up to 20 %'
    """
    phrases = {
        "mirrored ({:.0f} % of the images)": 100 * strength.flip,
        "brightness and contrast changed by up to {:.0f} %": 100 * strength.jitter,
        "contrast stretched to the full range ({:.0f} %)": 100 * strength.autocontrast,
        f"grey levels from {SOLARIZE_THRESHOLD} on inverted ({{:.0f}} %)": 100 * strength.solarize,
        "moved by up to {} pixels": strength.shift,
        "a rectangle blackened ({:.0f} %)": 100 * strength.erase,
    }
    return ", ".join(phrase.format(value) for phrase, value in phrases.items() if value) or "nothing"
