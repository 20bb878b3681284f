"""The study's pictures: arrays in, matplotlib Figure out; the caller saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod, sqrt

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor, nn

from lenet_study.model import CLASSES, SIDE, LeNet
from lenet_study.training import Epoch, Protocol, learning_rate_at
from lenet_study.variants import VARIANTS, VariantSpec, parent_of

# Any two stay 30 CIELAB units apart, also to the colour-blind (simulated after Machado et al., 2009).
COLOURS: dict[str, str] = {
    "baseline": "#8C8C8C",
    "v1": "#E69F00",
    "v2": "#56B4E9",
    "v3": "#117733",
    "v4": "#7B3294",
}
OTHER_COLOURS = (*COLOURS.values(), "#CC3311", "#332288", "#44AA99", "#CC6677", "#000000")
MARKERS = "os^DvPX"  # a second cue beside the colour
RIGHT, WRONG, CHANGED = "#1B7837", "#C2182B", "#D55E00"
_styled = matplotlib.rc_context(  # a decorator: the settings hold while a figure is made
    {
        "figure.dpi": 150,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": "#E6E6E6",
        "legend.frameon": False,
    }
)


@_styled
def curves(
    histories: Mapping[str, Sequence[Epoch]], best: Mapping[str, int] | None = None, title: str = ""
) -> Figure:
    """Loss and accuracy of each named training; ``best`` is the number of its best epoch."""
    best = best or {}
    figure = _figure(10, 4.4, title)
    loss, accuracy = figure.subplots(1, 2)
    styles = {"training": "--", "validation": "-"}
    for axes, metric, value_format in ((loss, "loss", ".4f"), (accuracy, "accuracy", ".2%")):
        for i, (name, epochs) in enumerate(histories.items()):
            x = [epoch.epoch for epoch in epochs]
            train = [getattr(epoch, f"train_{metric}") for epoch in epochs]
            val = [getattr(epoch, f"val_{metric}") for epoch in epochs]
            colour = COLOURS.get(name, OTHER_COLOURS[i % len(OTHER_COLOURS)])
            draw = partial(axes.plot, x, color=colour, marker=MARKERS[i % len(MARKERS)])
            if None in val:
                draw(train, ls="--", lw=1, ms=3, mfc="white", label=name)
                continue
            draw(train, ls="--", lw=1, ms=3, mfc="white")
            draw(val, ls="-", lw=1.8, ms=4, label=name)
            if name in best:
                value = val[x.index(best[name])]
                axes.plot(best[name], value, "*", ms=13, mfc=colour, mec="black", zorder=3)
                if len(histories) == 1:
                    axes.set_title(f"★ best epoch {best[name]}: {value:{value_format}}", loc="right")
        axes.set_title(metric.capitalize(), loc="left", weight="bold")
        _epoch_axis(axes, [epoch for epochs in histories.values() for epoch in epochs])
    loss.set_ylabel("cross-entropy (nats per image)")
    accuracy.set_ylabel("images correct")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    drawn = {str(line.get_linestyle()) for line in loss.lines}
    key = [
        *loss.get_legend_handles_labels()[0],
        *(Line2D([], [], color="k", ls=ls, label=s) for s, ls in styles.items() if ls in drawn),
    ]
    if "None" in drawn:
        key.append(Line2D([], [], ls="", marker="*", ms=12, mfc="w", mec="k", label="best epoch"))
    figure.legend(handles=key, loc="outside lower center", ncols=min(len(key), 8))
    return figure


@_styled
def learning_rate(epochs: Sequence[Epoch], title: str = "") -> Figure:
    """The learning rate of every epoch, as steps."""
    figure = _figure(6, 3.2, title)
    axes = figure.subplots()
    rates = [epoch.learning_rate for epoch in epochs]
    _steps(axes, epochs[0].epoch, rates, "#333333")
    for epoch, before in zip(epochs, (None, *rates), strict=False):
        if epoch.learning_rate != before and len(set(rates)) <= 6:
            place = (epoch.epoch - 0.4, epoch.learning_rate)
            axes.annotate(f"{epoch.learning_rate:g}", place, (0, 3), textcoords="offset points")
    axes.set(ylabel="learning rate", ylim=(0, max(rates) * 1.12))
    _epoch_axis(axes, epochs)
    return figure


OPERATIONS = {
    "Conv2d": "conv {0.kernel_size[0]}×{0.kernel_size[1]}, pad {0.padding[0]}",
    "MaxPool2d": "max-pool {0.kernel_size}×{0.kernel_size}",
    "Flatten": "flatten",
    "Linear": "fully connected",
    "BatchNorm1d": "batch norm",
    "BatchNorm2d": "batch norm",
}
STAGE_STARTS = ("Conv2d", "MaxPool2d", "Flatten", "Linear")
HEADS = {"first_wave": "aux_output1", "second_wave": "aux_output2"}


@dataclass(frozen=True)
class _Stage:
    """A layer of the model, with the batch norm and ReLU that follow it."""

    part: str  # the model's attribute it belongs to
    shape: tuple[int, ...]  # of its output for one image
    operations: list[str]
    parameters: list[int]  # of each operation that has any


def _stages(spec: VariantSpec) -> list[_Stage]:
    """What an image passes on its way through the model, by running one."""
    stages = [_Stage("input", (1, SIDE, SIDE), ["image"], [])]

    def record(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kind = type(module).__name__
        if kind in STAGE_STARTS:
            stages.append(_Stage(path.split(".")[0], tuple(output.shape[1:]), [], []))
        stages[-1].operations.append(OPERATIONS.get(kind, kind).format(module))
        if count := sum(parameter.numel() for parameter in module.parameters()):
            stages[-1].parameters.append(count)

    model = LeNet(spec, seed=0).eval()
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(partial(record, path))
    with torch.no_grad():
        model.heads(torch.zeros(1, 1, SIDE, SIDE))
    return stages


@_styled
def architecture(name: str) -> Figure:
    """A variant's layers, shapes and parameters, by its model; orange is what its parent has not."""
    spec, parent = VARIANTS[name], parent_of(name) or name  # the first is compared with itself
    stages, parent_stages = _stages(spec), _stages(VARIANTS[parent])
    heads = {stage.part: stage for stage in stages if stage.part in HEADS.values()}
    trunk = [stage for stage in stages if stage.part not in heads]
    left, pitch, middle = 1.75, 1.42, 3.0  # inches, like all coordinates here
    width, height = left + pitch * (len(trunk) - 0.4), 6.3
    figure = Figure((width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    write = partial(axes.text, ha="center", va="top")
    arrow = partial(axes.annotate, "", arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0})

    headline, note = f"{name}: {spec.change}", ""
    total, before = (sum(sum(s.parameters) for s in each) for each in (stages, parent_stages))
    caption = f"{total:,} parameters"
    if parent != name:
        headline, caption = f"{name} = {parent}, but {spec.change}", f"{caption} ({parent}: {before:,})"
        note = f"Orange: changed from {parent}; further shapes and counts follow from that."
    axes.text(0.3, 5.85, headline, size=14, weight="bold", color=_ink(parent != name))
    axes.text(0.3, 5.57, caption, size=11)
    scale = "Boxes: width shows channels, height and depth show pixels. Bars: height shows √units."
    axes.text(0.3, 0.75, f"{scale}\n{note}", color="#777777", linespacing=1.5, va="top")
    for y, row in ((5.02, "layers"), (4.38, "output"), (4.16, "parameters")):
        axes.text(0.3, y, row, color="#777777", va="top")

    start = end = 0.0  # of the arrow into a stage, of the line above a part
    for i, (stage, old) in enumerate(zip(trunk, parent_stages, strict=False)):
        x = left + pitch * i
        wider = bool(stage.parameters) and stage.shape[0] != old.shape[0]  # by itself, not its input
        new = [operation not in old.operations for operation in stage.operations]
        for line, operation in enumerate(stage.operations):
            write(x, 5.02 - 0.19 * line, operation, color=_ink(new[line]))
        shape = "×".join(f"{size:,}" for size in stage.shape) + f" (was {old.shape[0]})" * wider
        write(x, 4.38, shape, weight="bold", color=_ink(wider))
        write(x, 4.16, " + ".join(f"{count:,}" for count in stage.parameters) or "–")
        x0, x1, y0 = _solid(axes, x, middle, stage, wider or any(new))
        if i:
            arrow((x0, middle), (start, middle))
        start = x1
        first = stage.part != trunk[i - 1].part
        last = i + 1 == len(trunk) or stage.part != trunk[i + 1].part
        end = x if first else end
        if last:
            axes.plot((end - 0.6, x + 0.6), (5.1, 5.1), color="#777777", lw=1)
            write((end + x) / 2, 5.33, stage.part, family="monospace")
        if last and stage.part in HEADS:
            head = heads[HEADS[stage.part]]
            arrow((x, 1.56), (x, y0))
            _solid(axes, x, 1.44, head)
            sizes = f"{prod(stage.shape):,} → {head.shape[0]} logits"
            text = f"{head.part}\n{head.operations[0]}, {sizes}\n{head.parameters[0]:,} parameters"
            axes.text(x + 0.2, 1.44, text, va="center", linespacing=1.4)

    halving = spec.halve_learning_rate_every
    ink = _ink(halving != VARIANTS[parent].halve_learning_rate_every)
    inset = figure.add_axes((1 - 3.2 / width, 0.55 / height, 2.8 / width, 0.9 / height))
    one = Protocol(learning_rate=1)
    rates = [learning_rate_at(epoch, spec, one) for epoch in range(1, one.epochs + 1)]
    _steps(inset, 1, rates, ink)
    schedule = f"halved every {halving} epochs" if halving else "constant"
    inset.set_title(f"learning rate: {schedule}", color=ink, size=9)
    inset.set(xlabel="epoch", ylim=(0, 1.15), yticks=(0, 0.5, 1), yticklabels=("0", "½", "initial"))
    return figure


def _solid(
    axes: Axes, x: float, y: float, stage: _Stage, changed: bool = False
) -> tuple[float, float, float]:
    """A box of feature maps, or a bar of units, around (x, y); gives its left, right and bottom."""
    w, h, d = 0.14, 0.042 * sqrt(stage.shape[0]), 0.0
    if len(stage.shape) == 3:
        w, h, d = max(0.04, 0.012 * stage.shape[0]), 0.042 * stage.shape[1], 0.015 * stage.shape[2]
    origin = np.array((x - (w + d) / 2, y - (h + d) / 2))
    shades = ("#F6C49B", "#FBE3CF", "#EFA467") if changed else ("#B9C9DB", "#DFE7F0", "#93A9C1")
    front = ((0, 0), (w, 0), (w, h), (0, h))
    top = ((0, h), (w, h), (w + d, h + d), (d, h + d))
    side = ((w, 0), (w, h), (w + d, h + d), (w + d, d))
    for corners, shade in zip((front, top, side), shades, strict=True):
        edge = CHANGED if changed else "#3B4B5C"
        axes.add_patch(Polygon(corners + origin, facecolor=shade, edgecolor=edge, lw=0.8))
    return origin[0] - 0.04, origin[0] + w + d + 0.04, origin[1] - 0.04


def _ink(changed: bool) -> str:
    return CHANGED if changed else "black"


@_styled
def confusion_matrix(confusion: np.ndarray, title: str = "") -> Figure:
    """Images int [10, 10] of each true class (row) by predicted class (column), also in percent."""
    figure = _figure(9.2, 8.2, title)
    axes = figure.subplots()
    share = _row_percent(confusion)
    text = np.vectorize(lambda n, p: f"{n:,}\n{p:.1f}%" if n else "")(confusion, share)
    image = _matrix(axes, share, text, "Blues", PowerNorm(0.5, 0, 100))
    axes.set_title(f"{np.trace(confusion):,} of {confusion.sum():,} images correct")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=(0, 1, 5, 10, 25, 50, 75, 100))
    bar.set_label("share of the true class (%), coloured by its square root")
    return figure


@_styled
def confusion_comparison(before: np.ndarray, after: np.ndarray, names: tuple[str, str]) -> Figure:
    """Two confusion matrices (as ``confusion_matrix``) in percent, and what the second changed."""
    figure = _figure(18, 6.5)
    *panels, last = figure.subplots(1, 3)
    shares = _row_percent(before), _row_percent(after)
    for axes, name, confusion, share in zip(panels, names, (before, after), shares, strict=True):
        text = np.vectorize(lambda p: f"{p:.1f}" if p else "")(share)
        _matrix(axes, share, text, "Blues", PowerNorm(0.5, 0, 100))
        accuracy = np.trace(confusion) / max(confusion.sum(), 1)
        axes.set_title(f"{name}: {accuracy:.2%} correct\n% of the true class")
    change = shares[1] - shares[0]
    better = np.where(np.eye(len(change), dtype=bool), change, -change)
    text = np.vectorize(lambda c: f"{c:+.1f}" if abs(c) >= 0.05 else "")(change)
    limit = max(np.abs(change).max(), 1)
    _matrix(last, better, text, "RdBu", Normalize(-limit, limit))
    rule = "blue is better: more on the diagonal, fewer off it; red is worse"
    last.set_title(f"{names[1]} minus {names[0]}, in percentage points\n{rule}")
    return figure


@_styled
def tsne(
    embedding: np.ndarray, labels: np.ndarray, predicted: np.ndarray, title: str = ""
) -> Figure:
    """Points float [N, 2] coloured by true class int [N], crossed where the prediction differs."""
    figure = _figure(9, 7, title)
    axes = figure.subplots()
    for number, name in enumerate(CLASSES):
        points = embedding[labels == number]
        axes.scatter(*points.T, s=9, color=f"C{number}", alpha=0.7, lw=0, label=name)
        if len(points):
            halo = withStroke(linewidth=3, foreground="white")
            style = {"ha": "center", "va": "center", "weight": "bold", "path_effects": [halo]}
            axes.text(*np.median(points, axis=0), name, zorder=4, **style)
    wrong = predicted != labels
    label = f"misclassified\n({wrong.sum():,} of {len(wrong):,})"
    axes.scatter(*embedding[wrong].T, s=12, marker="x", color="black", lw=0.6, label=label)
    axes.set(xticks=(), yticks=(), xlabel="t-SNE 1", ylabel="t-SNE 2", aspect="equal")
    figure.legend(loc="outside right upper", markerscale=2, title="true class", alignment="left")
    return figure


@_styled
def predictions(
    images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> Figure:
    """Images uint8 [N, 28, 28], classes int [N], probability of the predicted class float [N]."""
    rows = -(-len(images) // 8)
    figure = _figure(11, 1.75 * rows + 0.4, f"{(labels == predicted).sum()} of {len(images)} correct")
    panels = figure.subplots(rows, 8, squeeze=False).flatten()
    for axes, pixels, *answer in zip(panels, images, labels, predicted, confidence, strict=False):
        label, guess, probability = answer
        colour = _image(axes, pixels, label == guess)
        text = f"{_mark(label == guess)} {CLASSES[guess]} {probability:.0%}"
        text += "" if label == guess else f"\ntrue: {CLASSES[label]}"
        axes.set_title(text, size=8, color=colour, weight="normal" if label == guess else "bold")
    for axes in panels[len(images) :]:
        axes.axis("off")
    return figure
