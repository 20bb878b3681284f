"""The study's pictures: arrays in, matplotlib Figure out; the caller saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle

import numpy as np
from matplotlib import color_sequences, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.history import Epoch
from lenet_study.training.model import CLASSES

# The first five stay 30 CIELAB units apart to any colour vision (simulated: Machado et al. 2009).
PALETTE = ("#8C8C8C", "#E69F00", "#56B4E9", "#117733", "#7B3294", "#CC3311", "#332288", "#44AA99")
COLOURS: dict[str, str] = dict(zip(VARIANTS, cycle(PALETTE), strict=False))
MARKERS = "os^DvPX"  # a second cue beside the colour; one fewer, so that pairs repeat late
CHANGED = "#D55E00"
VERDICT = {True: ("✓", "#1B7837"), False: ("✗", "#C2182B")}  # predicted right?
styled = rc_context(  # a decorator: the settings hold while a figure is made
    {
        "figure.dpi": 150,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": "#E6E6E6",
        "legend.frameon": False,
    }
)


@styled
def curves(
    histories: Mapping[str, Sequence[Epoch]], best: Mapping[str, int] | None = None, title: str = ""
) -> Figure:
    """Loss and accuracy of each named training; ``best`` is the number of its best epoch."""
    best = best or {}
    figure = _figure(10, 4.4, title)
    panels = figure.subplots(1, 2)
    for axes, metric, precision in zip(panels, ("loss", "accuracy"), (".4f", ".2%"), strict=True):
        for i, (name, epochs) in enumerate(histories.items()):
            x = [epoch.epoch for epoch in epochs]
            train = [getattr(epoch, f"train_{metric}") for epoch in epochs]
            val = [getattr(epoch, f"val_{metric}") for epoch in epochs]
            colour = COLOURS.get(name.partition(" ")[0], PALETTE[i % len(PALETTE)])
            draw = partial(axes.plot, color=colour, marker=MARKERS[i % len(MARKERS)])
            validated = None not in val
            draw(x, train, ls="--", lw=1, ms=3, mfc="white", label=None if validated else name)
            if validated:
                draw(x, val, ls="-", lw=1.8, ms=4, label=name)
            if validated and name in best:
                value = val[x.index(best[name])]
                draw(best[name], value, marker="*", ls="", ms=13, mec="black", zorder=3)
                if len(histories) == 1:
                    axes.set_title(f"★ best epoch {best[name]}: {value:{precision}}", loc="right")
        axes.set_title(metric.capitalize(), loc="left", weight="bold")
        _epoch_axis(axes, [epoch for epochs in histories.values() for epoch in epochs])
    panels[0].set_ylabel("cross-entropy (nats per image)")
    panels[1].set_ylabel("images correct")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    key = panels[0].get_legend_handles_labels()[0]
    drawn = {line.get_linestyle() for line in panels[0].lines}
    for style, marker, label in (
        ("-", "", "validation"),
        ("--", "", "training"),
        ("None", "*", "best epoch"),
    ):
        if style in drawn:
            key.append(Line2D([], [], color="black", ls=style, marker=marker, ms=10, label=label))
    figure.legend(handles=key, loc="outside lower center", ncols=min(len(key), 8))
    return figure


@styled
def learning_rate(epochs: Sequence[Epoch], title: str = "") -> Figure:
    """The learning rate of every epoch, as steps."""
    figure = _figure(6, 3.2, title)
    axes = figure.subplots()
    rates = [epoch.learning_rate for epoch in epochs]
    steps(axes, epochs[0].epoch, rates, "#333333")
    for epoch, before in zip(epochs, (None, *rates), strict=False):
        if epoch.learning_rate != before and len(set(rates)) <= 6:
            place = (epoch.epoch - 0.4, epoch.learning_rate)
            axes.annotate(f"{epoch.learning_rate:g}", place, (0, 3), textcoords="offset points")
    axes.set(ylabel="learning rate", ylim=(0, max(rates) * 1.12))
    _epoch_axis(axes, epochs)
    return figure


@styled
def confusion_matrix(confusion: np.ndarray, title: str = "") -> Figure:
    """Images int [10, 10] of each true class (row) by predicted class (column), also in percent."""
    figure = _figure(9.2, 8.2, title)
    axes = figure.subplots()
    share = _row_percent(confusion)
    text = np.vectorize(lambda n, p: f"{n:,}\n{p:.1f}%" if n else "")(confusion, share)
    image = _matrix(axes, share, text, "Blues", PowerNorm(0.5, 0, 100))
    correct, images = np.trace(confusion), confusion.sum()
    axes.set_title(f"{correct:,} of {images:,} images correct ({correct / max(images, 1):.2%})")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=(0, 1, 5, 10, 25, 50, 75, 100))
    bar.set_label("share of the true class (%), coloured by its square root")
    return figure


@styled
def confusion_comparison(before: np.ndarray, after: np.ndarray, names: tuple[str, str]) -> Figure:
    """Two confusion matrices (as ``confusion_matrix``) in percent, and what the second changed."""
    figure = _figure(18, 6.5)
    *panels, last = figure.subplots(1, 3)
    shares = _row_percent(before), _row_percent(after)
    for axes, name, confusion, share in zip(panels, names, (before, after), shares, strict=True):
        text = np.vectorize(lambda p: f"{p:.1f}" if p else "")(share)
        _matrix(axes, share, text, "Blues", PowerNorm(0.5, 0, 100))
        accuracy = np.trace(confusion) / max(confusion.sum(), 1)
        axes.set_title(f"{name}: {accuracy:.2%} correct\nin % of the true class")
    change = shares[1] - shares[0]
    better = np.where(np.eye(len(change), dtype=bool), change, -change)
    text = np.vectorize(lambda c: f"{c:+.1f}" if abs(c) >= 0.05 else "")(change)
    limit = max(np.abs(change).max(), 1)
    _matrix(last, better, text, "RdBu", Normalize(-limit, limit))
    rule = "blue is better: more on the diagonal, fewer off it; red is worse"
    last.set_title(f"{names[1]} minus {names[0]}, in percentage points\n{rule}")
    return figure


@styled
def tsne(embedding: np.ndarray, labels: np.ndarray, predicted: np.ndarray, title: str = "") -> Figure:
    """Points float [N, 2] coloured by true class int [N], crossed where the prediction differs."""
    figure = _figure(9, 7, title)
    axes = figure.subplots()
    size = 4 + 10_000 / (1_000 + len(labels))  # square points
    for number, (name, colour) in enumerate(zip(CLASSES, color_sequences["tab10"], strict=True)):
        x, y = embedding[labels == number].T
        axes.scatter(x, y, s=size, color=colour, alpha=0.7, lw=0, label=name)
        if len(x):
            text = axes.text(np.median(x), np.median(y), name, weight="bold", zorder=4)
            text.set(ha="center", va="center")
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    wrong = predicted != labels
    x, y = embedding[wrong].T
    label = f"misclassified\n({wrong.sum():,} of {len(wrong):,})"
    axes.scatter(x, y, s=1.5 * size, marker="x", color="black", lw=0.6, label=label)
    axes.set(xticks=(), yticks=(), xlabel="t-SNE 1", ylabel="t-SNE 2", aspect="equal")
    figure.legend(loc="outside right upper", markerscale=2, title="true class", alignment="left")
    return figure


@styled
def predictions(
    images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> Figure:
    """Images uint8 [N, 28, 28], classes int [N], probability of the predicted class float [N]."""
    rows = -(-len(images) // 8)
    correct = f"{(labels == predicted).sum()} of {len(images)} correct"
    figure = _figure(11, 1.75 * rows + 0.4, f"Predicted class and its probability: {correct}")
    panels = figure.subplots(rows, 8, squeeze=False).flatten()
    for axes, pixels, *answer in zip(panels, images, labels, predicted, confidence, strict=False):
        label, guess, probability = answer
        mark, colour = VERDICT[label == guess]
        text = f"{mark} {CLASSES[guess]} {probability:.0%}"
        text += "" if label == guess else f"\ntrue: {CLASSES[label]}"
        axes.set_title(text, size=8, color=colour, weight="normal" if label == guess else "bold")
        _image(axes, pixels, colour, 1.5 if label == guess else 3)
    for axes in panels[len(images) :]:
        axes.axis("off")
    return figure


@styled
def auxiliary(image: np.ndarray, label: int, probabilities: Mapping[str, np.ndarray]) -> Figure:
    """An image uint8 [28, 28] of class ``label``, and each head's probabilities float [10]."""
    figure = _figure(3 + 2.7 * len(probabilities), 3.4)
    picture, *panels = figure.subplots(1, 1 + len(probabilities))
    _image(picture, image)
    picture.set_title(f"true class: {CLASSES[label]}\n(the shaded row)")
    for axes, (head, values) in zip(panels, probabilities.items(), strict=True):
        guess = int(values.argmax())
        mark, colour = VERDICT[guess == label]
        bars = axes.barh(CLASSES, values, color="#B9C9DB")
        bars[guess].set_color(colour)
        axes.bar_label(bars, [f"{v:.0%}" if v >= 0.005 else "" for v in values], padding=2, size=8)
        axes.axhspan(label - 0.5, label + 0.5, color="#E3F1E5", zorder=0)  # the true class
        axes.set_title(f"{head}\n{mark} {CLASSES[guess]}", color=colour)
        axes.set(xlim=(0, 1.18), xticks=(0, 0.5, 1), xlabel="probability")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0, labelleft=axes is panels[0])
    return figure


@styled
def augmentation(originals: np.ndarray, augmented: np.ndarray) -> Figure:
    """A row per image uint8 [R, 28, 28], followed by its augmentations uint8 [R, C, 28, 28]."""
    rows, columns = augmented.shape[:2]
    figure = _figure(1.15 * (columns + 1), 1.13 * rows + 0.3)
    panels = figure.subplots(rows, columns + 1, squeeze=False)
    for row, original, variations in zip(panels, originals, augmented, strict=True):
        _image(row[0], original, CHANGED, 2)
        for axes, pixels in zip(row[1:], variations, strict=True):
            _image(axes, pixels)
    panels[0, 0].set_title("original", size=8, weight="bold", color=CHANGED)
    for number, axes in enumerate(panels[0, 1:], start=1):
        axes.set_title(f"augmented {number}", size=8)
    return figure


def _figure(width: float, height: float, title: str = "") -> Figure:
    """A figure of so many inches whose parts make room for each other."""
    figure = Figure((width, height), layout="constrained")
    if title:
        figure.suptitle(title, weight="bold", size=12)
    return figure


def _epoch_axis(axes: Axes, epochs: Sequence[Epoch]) -> None:
    numbers = [epoch.epoch for epoch in epochs]
    axes.set(xlabel="epoch", xlim=(min(numbers) - 0.5, max(numbers) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True)


def steps(axes: Axes, first: int, rates: Sequence[float], colour: str) -> None:
    """Learning rates of consecutive epochs, from the first on, as a stair."""
    edges = np.arange(first, first + len(rates) + 1) - 0.5  # each epoch as wide as itself
    axes.stairs(rates, edges, baseline=None, color=colour, lw=1.8)


def _row_percent(confusion: np.ndarray) -> np.ndarray:
    percent: np.ndarray = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    return percent


def _matrix(axes: Axes, values: np.ndarray, text: np.ndarray, colours: str, norm: Normalize) -> AxesImage:
    """Cells coloured by value: rows are true classes, columns predicted ones."""
    image = axes.imshow(values, cmap=colours, norm=norm)
    brightness = image.to_rgba(values)[..., :3].mean(-1)
    for (row, column), cell in np.ndenumerate(text):
        ink = "white" if brightness[row, column] < 0.55 else "black"
        axes.text(column, row, cell, ha="center", va="center", size=8, color=ink)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    return image


def _image(axes: Axes, pixels: np.ndarray, frame: str = "black", width: float = 0) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set(visible=width > 0, color=frame, linewidth=width)
