"""The picture of a variant: its layers, shapes and parameters, and its learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod, sqrt

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor, nn

from lenet_study.evidence.figures.charts import CHANGED, steps, styled
from lenet_study.recipes.recipe import Recipe, TrainingConfig
from lenet_study.recipes.variants import VARIANTS, Variant
from lenet_study.training.loop import learning_rate_at
from lenet_study.training.model import SIDE, LeNet

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
HEADS = {"first_wave": "aux_output1", "second_wave": "aux_output2"}


@dataclass(frozen=True)
class _Stage:
    """A layer of the model, with the batch norm and ReLU that follow it."""

    part: str  # the model's attribute it belongs to
    shape: tuple[int, ...]  # of its output for one image
    operations: list[str]
    parameters: list[int]  # of each operation that has any


def _stages(variant: Variant) -> list[_Stage]:
    """What an image passes on its way through the model, by running one."""
    stages = [_Stage("input", (1, SIDE, SIDE), ["image"], [])]

    def record(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kind = type(module).__name__
        if kind in STAGE_STARTS:
            stages.append(_Stage(path.split(".", maxsplit=1)[0], tuple(output.shape[1:]), [], []))
        operation = OPERATIONS.get(kind, kind).format(module)
        if kind == "Dropout":
            stages[-1].operations[-1] += f", {operation}"
        else:
            stages[-1].operations.append(operation)
        if count := sum(parameter.numel() for parameter in module.parameters()):
            stages[-1].parameters.append(count)

    model = LeNet(variant, seed=0).eval()
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(partial(record, path))
    with torch.no_grad():
        model.heads(torch.zeros(1, 1, SIDE, SIDE))
    return stages


@styled
def draw(name: str, variant: Variant) -> Figure:
    """A model's layers, shapes and parameters; orange is what its parent has not, if it has one."""
    parent = variant.parent or name
    parent_variant = VARIANTS[variant.parent] if variant.parent else variant
    stages, parent_stages = _stages(variant), _stages(parent_variant)
    heads = {stage.part: stage for stage in stages if stage.part in HEADS.values()}
    trunk = [stage for stage in stages if stage.part not in heads]
    left, pitch, middle = 1.75, 1.42, 3.0  # inches, like all coordinates here
    width, height = left + pitch * (len(trunk) - 0.4), 6.3
    figure = Figure((width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    write = partial(axes.text, ha="center", va="top")
    style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    arrow = partial(axes.annotate, "", arrowprops=style)

    headline, note = f"{name}: {variant.change}", ""
    total, before = (sum(sum(s.parameters) for s in each) for each in (stages, parent_stages))
    caption = f"{total:,} parameters"
    if parent != name:
        headline = f"{name} = {parent}, but {variant.change}"
        caption += f" ({parent}: {before:,})"
        note = f"Orange: changed from {parent}; further shapes and counts follow from that."
    axes.text(0.3, 5.85, headline, size=14, weight="bold", color=INK[parent != name])
    axes.text(0.3, 5.57, caption, size=11)
    scale = "Boxes: width shows channels, height and depth show pixels. Bars: height shows √units."
    axes.text(0.3, 0.75, f"{scale}\n{note}", color="#777777", linespacing=1.5, va="top")
    for y, row in ((5.02, "layers"), (4.38, "output"), (4.16, "parameters")):
        axes.text(0.3, y, row, color="#777777", va="top")

    start = end = 0.0  # left ends of the arrow into a stage, and of the line above a part
    for i, (stage, old) in enumerate(zip(trunk, parent_stages, strict=False)):
        x = left + pitch * i
        wider = bool(stage.parameters) and stage.shape[0] != old.shape[0]
        new = [operation not in old.operations for operation in stage.operations]
        for line, operation in enumerate(stage.operations):
            write(x, 5.02 - 0.19 * line, operation, color=INK[new[line]])
        shape = "×".join(f"{size:,}" for size in stage.shape) + f" (was {old.shape[0]})" * wider
        write(x, 4.38, shape, weight="bold", color=INK[wider])
        write(x, 4.16, " + ".join(f"{count:,}" for count in stage.parameters) or "–")
        x0, x1, y0 = _solid(axes, x, middle, stage, wider or any(new))
        if i:
            arrow((x0, middle), (start, middle))
        start = x1
        end = x if stage.part != trunk[i - 1].part else end
        last = stage is trunk[-1] or stage.part != trunk[i + 1].part
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

    halving = variant.halve_learning_rate_every
    ink = INK[halving != parent_variant.halve_learning_rate_every]
    inset = figure.add_axes((1 - 3.2 / width, 0.55 / height, 2.8 / width, 0.9 / height))
    recipe = Recipe(name=name, variant=variant, config=TrainingConfig(learning_rate=1))
    rates = [learning_rate_at(epoch, recipe) for epoch in range(1, recipe.config.epochs + 1)]
    steps(inset, 1, rates, ink)
    schedule = f"halved every {halving} epochs" if halving else "constant"
    schedule = "annealed along a half cosine" if variant.cosine_annealing else schedule
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
    front, top = ((0, 0), (w, 0), (w, h), (0, h)), ((0, h), (w, h), (w + d, h + d), (d, h + d))
    side = ((w, 0), (w, h), (w + d, h + d), (w + d, d))
    faces = np.array((front, top, side)) + origin
    edge = CHANGED if changed else "#3B4B5C"
    axes.add_collection(PolyCollection(faces, facecolors=shades, edgecolors=edge, lw=0.8))
    return origin[0] - 0.04, origin[0] + w + d + 0.04, origin[1] - 0.04
