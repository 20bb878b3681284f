"""The variants' layers side by side; what a variant changed is marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from markupsafe import Markup

from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import Chart
from lenet_study.recipes.variants import VARIANTS, Variant, parameter_count
from lenet_study.training.model import CLASSES, SIDE

COLUMNS = (26.0, 86.0, 152.0, 214.0, 264.0, 312.0)  # centre of each layer
MIDDLE, HEIGHT = 54.0, 164.0
_PIXEL, _CHANNEL, _UNIT = 2.1, 0.42, 5.2  # units of a picture per pixel, channel, and root of a unit


@dataclass(frozen=True)
class Layer:
    """A layer as it is drawn and listed."""

    name: str
    side: int  # pixels of a feature map; 0 for a fully connected layer
    size: int  # channels or units
    parameters: int
    normalised: bool = False

    @property
    def output(self) -> str:
        """Shape of the output in words."""
        return f"{self.size} × {self.side} × {self.side}" if self.side else f"{self.size}"


@dataclass(frozen=True)
class LayerRow:
    """A row of the table of layers: a cell for each variant, and whether it differs from the parent's."""

    name: str
    cells: Sequence[tuple[str, bool]]


def layers_of(variant: Variant) -> list[Layer]:
    """Return the layers from image to logits, batch norm counted with the layer before it."""
    (first, second), (wide, narrow), norm = variant.channels, variant.hidden_units, variant.batch_norm
    classes = len(CLASSES)
    return [
        Layer("image", SIDE, 1, 0),
        Layer("conv 1", 14, first, first * (25 + 1) + 2 * first * norm, norm),
        Layer("conv 2", 5, second, second * (25 * first + 1) + 2 * second * norm, norm),
        Layer("full 1", 0, wide, wide * (second * 25 + 1) + 2 * wide * norm, norm),
        Layer("full 2", 0, narrow, narrow * (wide + 1) + 2 * narrow * norm, norm),
        Layer("logits", 0, classes, classes * (narrow + 1)),
    ]


def drawings(names: Sequence[str], variants: Mapping[str, Variant] = VARIANTS) -> list[Chart]:
    """Return a picture of each variant."""
    return [
        Chart(name, _drawing(name, variants), name, _note(variants[name]))
        for name in names
        if name in variants
    ]


def layer_rows(names: Sequence[str], variants: Mapping[str, Variant] = VARIANTS) -> list[LayerRow]:
    """Return output and parameters of each layer, and all else that tells variants apart."""
    chosen = {name: variants[name] for name in names if name in variants}
    parents = [variants.get(variant.parent or "", variant) for variant in chosen.values()]
    pairs = list(zip(chosen.values(), parents, strict=True))
    rows = []
    for position, layer in enumerate(layers_of(next(iter(chosen.values()))) if chosen else []):
        columns = [(layers_of(own)[position], layers_of(parent)[position]) for own, parent in pairs]
        rows.append(
            LayerRow(
                f"{layer.name}: output", [(own.output, own.output != was.output) for own, was in columns]
            )
        )
        if position:
            counts = [(f"{own.parameters:,}", own.parameters != was.parameters) for own, was in columns]
            rows.append(LayerRow(f"{layer.name}: parameters", counts))
    rows.append(_row("batch norm", pairs, lambda variant: "yes" if variant.batch_norm else "no"))
    rows.append(_row("learning rate", pairs, _schedule))
    rows.append(_row("all parameters, with auxiliary heads", pairs, lambda v: f"{parameter_count(v):,}"))
    return rows


def _row(name: str, pairs: Sequence[tuple[Variant, Variant]], describe: Callable[[Variant], str]) -> LayerRow:
    return LayerRow(name, [(describe(own), describe(own) != describe(parent)) for own, parent in pairs])


def _schedule(variant: Variant) -> str:
    if variant.cosine_annealing:
        return "half a cosine"
    every = variant.halve_learning_rate_every
    return f"halved every {every} epochs" if every else "constant"


def _note(variant: Variant) -> str:
    parent = f"{variant.parent}, but " if variant.parent else ""
    return f"{parent}{variant.change}; {parameter_count(variant):,} parameters"


def _drawing(name: str, variants: Mapping[str, Variant]) -> Markup:
    variant = variants[name]
    layers, former = layers_of(variant), layers_of(variants.get(variant.parent or "", variant))
    parts = []
    for x, layer, was in zip(COLUMNS, layers, former, strict=True):
        resized, normed = layer.size != was.size, layer.normalised and not was.normalised
        parts.append(_solid(x, layer, resized or normed))
        mark = " changed" * resized
        parts.append(svg.element("text", layer.name, x=x, y=106, class_="tick middle"))
        parts.append(svg.element("text", str(layer.size), x=x, y=123, class_=f"value middle{mark}"))
        shape = f"{layer.side}×{layer.side}" if layer.side else "units"
        parts.append(svg.element("text", shape, x=x, y=138, class_="tick middle"))
        if layer.normalised:
            text = "+ norm"
            parts.append(svg.element("text", text, x=x, y=154, class_=f"tick middle{' changed' * normed}"))
    summary = ", ".join(f"{layer.name} {layer.output}" for layer in layers)
    return svg.picture(336, HEIGHT, f"{name}: {summary}", *parts)


def _solid(x: float, layer: Layer, changed: bool) -> Markup:
    """Draw feature maps as a box as deep as there are channels, units as a bar."""
    class_ = "solid changed" if changed else "solid"
    if not layer.side:
        height = _UNIT * sqrt(layer.size)
        return svg.element(
            "rect", x=x - 4, y=MIDDLE - height / 2, width=8, height=height, rx=2, class_=class_
        )
    side, depth = _PIXEL * layer.side, max(2.0, _CHANNEL * layer.size)
    width = 0.32 * side  # seen at an angle
    left, top = x - (width + depth) / 2, MIDDLE - side / 2
    rise = 0.3 * width

    def face(*corners: tuple[float, float]) -> Markup:
        text = " ".join(f"{svg.number(across)},{svg.number(down)}" for across, down in corners)
        return svg.element("polygon", points=text, class_=class_)

    front = face(
        (left + depth, top + rise),
        (left + depth + width, top - rise),
        (left + depth + width, top + side - rise),
        (left + depth, top + side + rise),
    )
    flank = face(
        (left, top + rise),
        (left + depth, top + rise),
        (left + depth, top + side + rise),
        (left, top + side + rise),
    )
    roof = face(
        (left, top + rise),
        (left + width, top - rise),
        (left + depth + width, top - rise),
        (left + depth, top + rise),
    )
    return flank + roof + front
