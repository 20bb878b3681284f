"""Test accuracy by depth: the auxiliary heads after the first and the second wave, and the classifier."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import Table, evaluated_groups
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.results import StudyResults

DEPTHS = {
    "auxiliary_first": "first wave",
    "auxiliary_second": "second wave",
    "test_accuracy": "classifier",
}
CHANCE = 0.1  # ten classes, equally many images
LEFT, TOP, RIGHT, BOTTOM = 46, 10, 332, 204
_SPREAD = 34.0  # units of width that a column of seeds takes


@dataclass(frozen=True)
class Depth:
    """Accuracies by depth, of every evaluation."""

    picture: Markup
    table: Table
    agreement: float  # mean share of images on which both heads agree, 0..1


def by_depth(results: StudyResults) -> Depth | None:
    """Return the accuracies of all heads; None without evaluations."""
    table = results.evaluations
    if table.empty or table[list(DEPTHS)].isna().all(axis=None):
        return None
    rows = []
    for name, run_ids in evaluated_groups(results).items():
        chosen = table.loc[run_ids]
        means = [svg.percent(chosen[depth].mean(), 2) for depth in DEPTHS]
        rows.append((name, str(len(chosen)), *means, svg.percent(chosen["auxiliary_agreement"].mean(), 1)))
    head = ("models", "evaluations", *DEPTHS.values(), "heads agree")
    return Depth(
        _picture(table),
        Table("Mean test accuracy by depth", head, rows),
        float(table["auxiliary_agreement"].mean()),
    )


def _picture(table: pd.DataFrame) -> Markup:
    y = Scale(0, 1, BOTTOM, TOP)
    x = Scale(-0.5, len(DEPTHS) - 0.5, LEFT, RIGHT)
    parts = [svg.grid(x, y, list(range(len(DEPTHS))), list(DEPTHS.values()), "%")]
    parts.append(svg.element("line", x1=LEFT, x2=RIGHT, y1=y(CHANCE), y2=y(CHANCE), class_="diagonal"))
    parts.append(svg.element("text", "chance", x=RIGHT, y=y(CHANCE) - 5, class_="tick end"))
    means = [table[depth].mean() for depth in DEPTHS]
    centres = [x(position) for position in range(len(DEPTHS))]
    parts.append(svg.polyline(centres, [y(mean) for mean in means], "mean"))
    for centre, depth, mean in zip(centres, DEPTHS, means, strict=True):
        values = table[depth].dropna().tolist()
        offsets = Scale(0, max(1, len(values) - 1), -_SPREAD / 2, _SPREAD / 2)
        for position, value in enumerate(values):
            parts.append(
                svg.element("circle", cx=centre + offsets(position), cy=y(value), r=2.4, class_="dot")
            )
        parts.append(svg.element("text", svg.percent(mean), x=centre, y=y(mean) - 12, class_="value middle"))
    name = f"Test accuracy after {', '.join(DEPTHS.values())}: {len(table)} evaluations"
    return svg.picture(340, 232, name, *parts)
