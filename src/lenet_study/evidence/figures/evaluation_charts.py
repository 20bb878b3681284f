"""Pictures of an evaluation: confusion matrices, embedding, predictions, auxiliary heads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from lenet_study.evidence.figures.style import new_figure, styled
from lenet_study.training.model import CLASSES

VERDICT = {True: ("✓", "#1B7837"), False: ("✗", "#C2182B")}  # predicted right?


@styled
def confusion_matrix(confusion: np.ndarray, title: str = "") -> Figure:
    """Draw a matrix int [10, 10], images of true classes (rows) by predicted ones, also in percent."""
    figure = new_figure(9.2, 8.2, title)
    axes = figure.subplots()
    share = _row_percent(confusion)
    text = np.vectorize(lambda n, p: f"{n:,}\n{p:.1f}%" if n else "")(confusion, share)
    image = _draw_matrix(axes, share, text, "Blues", PowerNorm(0.5, 0, 100))
    correct, images = np.trace(confusion), confusion.sum()
    axes.set_title(f"{correct:,} of {images:,} images correct ({correct / max(images, 1):.2%})")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=(0, 1, 5, 10, 25, 50, 75, 100))
    bar.set_label("share of the true class (%), coloured by its square root")
    return figure


@styled
def confusion_comparison(before: np.ndarray, after: np.ndarray, names: tuple[str, str]) -> Figure:
    """Draw two confusion matrices (as ``confusion_matrix``) in percent, and what the second changed.

    Four panels in a square: at the width of a page each number can still be read.
    """
    figure = new_figure(11, 10.2, f"{names[1]}, compared with {names[0]}")
    (first, second), (change, classes) = figure.subplots(2, 2)
    shares = _row_percent(before), _row_percent(after)
    for axes, name, confusion, share in zip((first, second), names, (before, after), shares, strict=True):
        text = np.vectorize(lambda p: f"{p:.1f}" if p else "")(share)
        image = _draw_matrix(axes, share, text, "Blues", PowerNorm(0.5, 0, 100))
        accuracy = np.trace(confusion) / max(confusion.sum(), 1)
        axes.set_title(f"{name}: {accuracy:.2%} correct")
    bar = figure.colorbar(image, ax=(first, second), shrink=0.75, ticks=(0, 1, 5, 10, 25, 50, 75, 100))
    bar.set_label("share of the true class (%)")
    image = _draw_change(change, shares[1] - shares[0])
    figure.colorbar(image, ax=change, shrink=0.75).set_label("percentage points better")
    _draw_recalls(classes, np.diag(shares[0]), np.diag(shares[1]), names)
    return figure


def _draw_change(axes: Axes, change: np.ndarray) -> AxesImage:
    """Draw what a second matrix in percent has more than a first; blue where that is better."""
    better = np.where(np.eye(len(change), dtype=bool), change, -change)
    text = np.vectorize(lambda c: f"{c:+.1f}" if abs(c) >= 0.05 else "")(change)
    limit = max(np.abs(change).max(), 1)
    image = _draw_matrix(axes, better, text, "RdBu", Normalize(-limit, limit))
    rule = "blue is better: more on the diagonal, fewer off it; red is worse"
    axes.set_title(f"the second minus the first, in percentage points\n{rule}")
    return image


def _draw_recalls(axes: Axes, before: np.ndarray, after: np.ndarray, names: tuple[str, str]) -> None:
    """Draw each class's recall in percent, before and after, as two dots on a line."""
    rows = np.arange(len(CLASSES))
    axes.hlines(rows, before, after, color="#B9C9DB", lw=3)
    axes.plot(before, rows, "o", mfc="white", mec="#3B4B5C", ms=7, label=names[0])
    axes.plot(after, rows, "o", color="#08519C", ms=7, label=names[1])
    axes.set_yticks(rows, CLASSES)
    axes.invert_yaxis()
    axes.set(xlabel="share of the true class that was predicted (%)")
    axes.set_title("recall of each class", pad=40)
    axes.grid(visible=True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1))


@styled
def tsne(embedding: np.ndarray, labels: np.ndarray, predicted: np.ndarray, title: str = "") -> Figure:
    """Draw points float [N, 2] coloured by true class int [N], ringed where the prediction differs."""
    figure = new_figure(9, 7, title)
    axes = figure.subplots()
    size = 4 + 10_000 / (1_000 + len(labels))  # in square points, smaller where there are many
    wrong = predicted != labels
    for number, (name, colour) in enumerate(zip(CLASSES, color_sequences["tab10"], strict=True)):
        x, y = embedding[labels == number].T
        axes.scatter(x, y, s=size, color=colour, alpha=0.7, lw=0, label=name)
        x, y = embedding[(labels == number) & wrong].T
        axes.scatter(x, y, s=2 * size, facecolor=colour, edgecolor="black", lw=0.5, zorder=3)
    for number, name in enumerate(CLASSES):
        x, y = embedding[labels == number].T
        if len(x):
            text = axes.text(np.median(x), np.median(y), name, weight="bold", zorder=4)
            text.set(ha="center", va="center", path_effects=[withStroke(linewidth=3, foreground="white")])
    label = f"misclassified\n({wrong.sum():,} of {len(wrong):,})"
    axes.scatter((), (), s=2 * size, facecolor="white", edgecolor="black", lw=0.5, label=label)
    axes.set(xticks=(), yticks=(), xlabel="t-SNE 1", ylabel="t-SNE 2", aspect="equal")
    figure.legend(loc="outside right upper", markerscale=2, title="true class", alignment="left")
    return figure


@styled
def predictions(
    images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, title: str = ""
) -> Figure:
    """Show images uint8 [N, 28, 28] with classes int [N] and the predicted class's probability float [N]."""
    rows = -(-len(images) // 8)
    correct = f"{(labels == predicted).sum()} of {len(images)} correct"
    heading = f"predicted class and its probability; {correct}"
    figure = new_figure(11, 1.75 * rows + 0.4, f"{title}: {heading}" if title else heading.capitalize())
    panels = figure.subplots(rows, 8, squeeze=False).flatten()
    for axes, pixels, label, guess, share in zip(panels, images, labels, predicted, confidence, strict=False):
        mark, colour = VERDICT[label == guess]
        truth = "" if label == guess else f"\ntrue: {CLASSES[label]}"
        text = f"{mark} {CLASSES[guess]} {share:.0%}{truth}"
        axes.set_title(text, size=8, color=colour, weight="normal" if label == guess else "bold")
        _show_image(axes, pixels, colour, 1.5 if label == guess else 3)
    for axes in panels[len(images) :]:
        axes.axis("off")
    return figure


@styled
def auxiliary(
    image: np.ndarray, label: int, probabilities: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """Show an image uint8 [28, 28] of class ``label``, and each head's probabilities float [10]."""
    figure = new_figure(3 + 2.7 * len(probabilities), 3.7, title)
    picture, *panels = figure.subplots(1, 1 + len(probabilities))
    _show_image(picture, image)
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


def _show_image(axes: Axes, pixels: np.ndarray, frame: str = "black", width: float = 0) -> None:
    """Show a grey image uint8 [28, 28], in a frame if that has a width."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set(visible=width > 0, color=frame, linewidth=width)


def _row_percent(confusion: np.ndarray) -> np.ndarray:
    """Return the share of each cell in its row; an empty row stays zero."""
    return 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)


def _draw_matrix(axes: Axes, values: np.ndarray, text: np.ndarray, cmap: str, norm: Normalize) -> AxesImage:
    """Draw cells coloured by value: rows are true classes, columns predicted ones."""
    image = axes.imshow(values, cmap=cmap, norm=norm)
    brightness = image.to_rgba(values)[..., :3].mean(-1)
    for (row, column), cell in np.ndenumerate(text):
        ink = "white" if brightness[row, column] < 0.55 else "black"
        axes.text(column, row, cell, ha="center", va="center", size=8, color=ink)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    return image
