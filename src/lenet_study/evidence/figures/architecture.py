"""The picture of a model: its layers, shapes and parameters, and its learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from lenet_study.evidence.figures.style import CHANGED, draw_steps, styled
from lenet_study.recipes.recipe import Recipe, TrainingConfig
from lenet_study.recipes.variants import VARIANTS, Variant
from lenet_study.training.loop import learning_rate_at
from lenet_study.training.model import SIDE, LeNet

LEFT, PITCH, MIDDLE, HEIGHT = 1.75, 1.42, 3.0, 6.3  # inches, like all coordinates here
GREY = "#777777"
AS_PUBLISHED = TrainingConfig()
INK = {True: CHANGED, False: "black"}  # changed from the parent?
OPERATIONS = {
    "Conv2d": "conv {0.kernel_size[0]}×{0.kernel_size[1]}, pad {0.padding[0]}",
    "MaxPool2d": "max-pool {0.kernel_size}×{0.kernel_size}",
    "Flatten": "flatten",
    "Linear": "fully connected",
    "BatchNorm1d": "batch norm",
    "BatchNorm2d": "batch norm",
    "Dropout": "drop {0.p:.2g}",
}
STAGE_STARTS = ("Conv2d", "MaxPool2d", "Flatten", "Linear")
_Edges = tuple[float, float, float]  # left, right and bottom
HEADS = {"first_wave": "aux_output1", "second_wave": "aux_output2"}


@dataclass(frozen=True)
class _Stage:
    """A layer of the model, with the batch norm and ReLU that follow it."""

    part: str  # the model's attribute it belongs to
    shape: tuple[int, ...]  # of its output for one image
    operations: list[str]
    parameters: list[int]  # of each operation that has any


@styled
def draw(
    name: str,
    variant: Variant,
    variants: Mapping[str, Variant] = VARIANTS,
    config: TrainingConfig = AS_PUBLISHED,
) -> Figure:
    """Draw a model's layers, shapes and parameters, and its learning rate in the epochs of a training.

    Orange is what its parent in the table does not have.
    """
    parent = variants.get(variant.parent or "", variant)
    stages, parent_stages = _stages(variant), _stages(parent)
    heads = {stage.part: stage for stage in stages if stage.part in HEADS.values()}
    trunk = [stage for stage in stages if stage.part not in heads]
    width = LEFT + PITCH * (len(trunk) - 0.4)
    figure = Figure((width, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, HEIGHT))
    axes.axis("off")
    counts = [sum(sum(stage.parameters) for stage in model) for model in (stages, parent_stages)]
    _write_captions(axes, name, variant, None if parent is variant else variant.parent, counts)
    positions = [LEFT + PITCH * i for i in range(len(trunk))]
    columns = zip(positions, trunk, parent_stages, strict=False)  # the parent's stages end with heads
    boxes = [_draw_stage(axes, x, stage, former) for x, stage, former in columns]
    for (_, right, _), (left, _, _) in pairwise(boxes):
        _draw_arrow(axes, (right, MIDDLE), (left, MIDDLE))
    for part, group in groupby(zip(positions, trunk, boxes, strict=True), lambda item: item[1].part):
        members = list(group)
        (first, *_), (last, stage, (*_, bottom)) = members[0], members[-1]
        axes.plot((first - 0.6, last + 0.6), (5.1, 5.1), color=GREY, lw=1)
        _write(axes, (first + last) / 2, 5.33, part, family="monospace")
        if part in HEADS:
            _draw_head(axes, (last, bottom), stage, heads[HEADS[part]])
    _draw_schedule(figure, variant, config, changed=_schedule(variant) != _schedule(parent))
    return figure


def _stages(variant: Variant) -> list[_Stage]:
    """Return what an image passes on its way through the model, by running one."""
    stages = [_Stage("input", (1, SIDE, SIDE), ["image"], [])]

    def record(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kind = type(module).__name__
        if kind in STAGE_STARTS:
            stages.append(_Stage(path.split(".", maxsplit=1)[0], tuple(output.shape[1:]), [], []))
        operation = OPERATIONS.get(kind, kind).format(module)
        operations = stages[-1].operations
        operations.append(f"{operations.pop()}, {operation}" if kind == "Dropout" else operation)
        if count := sum(parameter.numel() for parameter in module.parameters()):
            stages[-1].parameters.append(count)

    model = LeNet(variant, seed=0).eval()
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(partial(record, path))
    with torch.no_grad():
        model.heads(torch.zeros(1, 1, SIDE, SIDE))
    return stages


def _write_captions(axes: Axes, name: str, variant: Variant, parent: str | None, counts: list[int]) -> None:
    """Write headline, legend and names of rows; ``counts`` are parameters of the model and its parent."""
    headline, caption, note = f"{name}: {variant.change}", f"{counts[0]:,} parameters", ""
    if parent:
        headline = f"{name} = {parent}, but {variant.change}"
        caption += f" ({parent}: {counts[1]:,})"
        note = f"Orange: changed from {parent}; further shapes and counts follow from that."
    axes.text(0.3, 5.85, headline, size=14, weight="bold", color=INK[parent is not None])
    axes.text(0.3, 5.57, caption, size=11)
    scale = "Boxes: width shows channels, height and depth show pixels. Bars: height shows √units."
    axes.text(0.3, 0.75, f"{scale}\n{note}", color=GREY, linespacing=1.5, va="top")
    for y, row in ((5.02, "layers"), (4.38, "output"), (4.16, "parameters")):
        axes.text(0.3, y, row, color=GREY, va="top")


def _draw_stage(axes: Axes, x: float, stage: _Stage, former: _Stage) -> _Edges:
    """Draw a stage of the trunk with its texts, as ``_draw_solid``; ``former`` is the parent's stage."""
    resized = bool(stage.parameters) and stage.shape[0] != former.shape[0]
    is_new = [operation not in former.operations for operation in stage.operations]
    for line, operation in enumerate(stage.operations):
        _write(axes, x, 5.02 - 0.19 * line, operation, color=INK[is_new[line]])
    shape = "×".join(f"{size:,}" for size in stage.shape) + f" (was {former.shape[0]})" * resized
    _write(axes, x, 4.38, shape, weight="bold", color=INK[resized])
    _write(axes, x, 4.16, " + ".join(f"{count:,}" for count in stage.parameters) or "–")
    return _draw_solid(axes, x, MIDDLE, stage, resized or any(is_new))


def _draw_head(axes: Axes, start: tuple[float, float], stage: _Stage, head: _Stage) -> None:
    """Draw an auxiliary head below the stage whose output it takes."""
    x, y = start[0], 1.44
    _draw_arrow(axes, start, (x, y + 0.12))
    _draw_solid(axes, x, y, head)
    sizes = f"{prod(stage.shape):,} → {head.shape[0]} logits"
    text = f"{head.part}\n{head.operations[0]}, {sizes}\n{head.parameters[0]:,} parameters"
    axes.text(x + 0.2, y, text, va="center", linespacing=1.4)


def _draw_solid(axes: Axes, x: float, y: float, stage: _Stage, changed: bool = False) -> _Edges:
    """Draw a box of feature maps, or a bar of units, around (x, y); return its left, right and bottom."""
    w, h, d = 0.14, 0.042 * sqrt(stage.shape[0]), 0.0
    if len(stage.shape) == 3:
        w, h, d = max(0.04, 0.012 * stage.shape[0]), 0.042 * stage.shape[1], 0.015 * stage.shape[2]
    origin = np.array((x - (w + d) / 2, y - (h + d) / 2))
    shades = ("#F6C49B", "#FBE3CF", "#EFA467") if changed else ("#B9C9DB", "#DFE7F0", "#93A9C1")
    front, top = ((0, 0), (w, 0), (w, h), (0, h)), ((0, h), (w, h), (w + d, h + d), (d, h + d))
    side = ((w, 0), (w, h), (w + d, h + d), (w + d, d))
    faces = np.array((front, top, side)) + origin
    edge = CHANGED if changed else "#3B4B5C"
    axes.add_collection(PolyCollection(faces, facecolors=shades, edgecolors=edge, lw=0.8))
    return origin[0] - 0.04, origin[0] + w + d + 0.04, origin[1] - 0.04


def _draw_schedule(figure: Figure, variant: Variant, config: TrainingConfig, changed: bool) -> None:
    """Draw the learning rate of each epoch of a training."""
    width, ink = figure.get_figwidth(), INK[changed]
    inset = figure.add_axes((1 - 3.2 / width, 0.55 / HEIGHT, 2.8 / width, 0.9 / HEIGHT))
    recipe, initial = Recipe(name="", variant=variant, config=config), config.learning_rate
    rates = [learning_rate_at(epoch, recipe) for epoch in range(1, config.epochs + 1)]
    draw_steps(inset, 1, rates, ink)
    inset.set_title(f"learning rate: {_schedule(variant)}", color=ink, size=9)
    inset.set(xlabel="epoch", xlim=(0.5, config.epochs + 0.5), ylim=(0, 1.15 * initial))
    inset.set_yticks((0, initial / 2, initial), [f"{rate:g}" for rate in (0, initial / 2, initial)])
    inset.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _schedule(variant: Variant) -> str:
    """Return in words how the learning rate falls."""
    halving = variant.halve_learning_rate_every
    halved = f"halved every {halving} epochs" if halving else "constant"
    return "annealed along a half cosine" if variant.cosine_annealing else halved


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, ha="center", va="top", **style)


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)
