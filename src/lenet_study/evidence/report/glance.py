"""All variants at a glance: the seeds' validation accuracies beside the published figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import Evidence, trainings_of, variants_of
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.statistics import prediction_interval

LEFT, RIGHT, ROW, TOP = 66.0, 330.0, 34.0, 12.0


def glance(evidence: Evidence) -> Markup | None:
    """Return the picture on the first screen; None without trainings.

    Its metric is the published one, the accuracy on augmented validation images, where the store has it.
    """
    values = {name: _accuracies(evidence, name) for name in variants_of(evidence.results)}
    values = {name: numbers for name, numbers in values.items() if len(numbers)}
    if not values:
        return None
    published = evidence.published_models
    theirs = {name: published.loc[published["training"] == name, "val_accuracy"] for name in values}
    ends = {name: _ends(numbers) for name, numbers in values.items()}
    shown = [value for name in values for value in (*values[name], *ends[name], *theirs[name].tolist())]
    x = Scale.around(shown, LEFT, RIGHT)
    bottom = TOP + ROW * len(values)
    ticks = x.ticks(4)
    parts = []
    for tick, label in zip(ticks, svg.labels(ticks, "%"), strict=True):
        parts.append(svg.element("line", x1=x(tick), x2=x(tick), y1=TOP, y2=bottom, class_="grid"))
        parts.append(svg.element("text", label, x=x(tick), y=bottom + 16, class_="tick middle"))
    for position, (name, numbers) in enumerate(values.items()):
        parts.append(_row(TOP + ROW * (position + 0.5), name, numbers, ends[name], theirs[name], x))
    summary = "; ".join(
        f"{name} {svg.percent(numbers.mean(), 2)}"
        + "".join(f", published {svg.percent(figure)}" for figure in theirs[name])
        for name, numbers in values.items()
    )
    return svg.picture(340, bottom + 22, f"Mean validation accuracy: {summary}", *parts)


def _accuracies(evidence: Evidence, variant: str) -> pd.Series:
    table = trainings_of(evidence.results, variant)
    augmented = table["val_accuracy_augmented"].dropna()
    return augmented if len(augmented) else table["val_accuracy"].dropna()


def _ends(numbers: pd.Series) -> tuple[float, float]:
    """Return where one more accuracy would lie: of two seeds, far beyond what an accuracy can be."""
    low, high = np.clip(prediction_interval(numbers.tolist()), 0.0, 1.0).tolist()
    return low, high


def _row(
    y: float, name: str, numbers: pd.Series, ends: tuple[float, float], theirs: pd.Series, x: Scale
) -> Markup:
    parts = [svg.element("text", name, x=LEFT - 12, y=y + 4, class_="value end")]
    if ends[0] == ends[0]:
        width = x(ends[1]) - x(ends[0])
        parts.append(
            svg.element("rect", x=x(ends[0]), y=y - 5, width=width, height=10, rx=5, class_="interval")
        )
    parts += [svg.element("circle", cx=x(value), cy=y, r=2.2, class_="dot") for value in numbers]
    parts.append(
        svg.element("line", x1=x(numbers.mean()), x2=x(numbers.mean()), y1=y - 8, y2=y + 8, class_="mean")
    )
    parts += [svg.diamond(x(figure), y) for figure in theirs if figure == figure]
    return svg.element("g", *parts, class_=f"of-{name}")
