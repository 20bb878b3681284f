"""Test accuracy by depth: the auxiliary heads after the first and the second wave, and the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    groups = {
        name: table.loc[run_ids] for name, run_ids in evaluated_groups(results, untrained_heads=True).items()
    }
    for name, chosen in groups.items():
        means = [svg.percent(chosen[depth].mean(), 2) for depth in DEPTHS]
        rows.append((name, str(len(chosen)), *means, svg.percent(chosen["auxiliary_agreement"].mean(), 1)))
    head = ("models", "evaluations", *DEPTHS.values(), "heads agree")
    trained = [run_id for run_ids in evaluated_groups(results).values() for run_id in run_ids]
    agreement = float(table.loc[trained, "auxiliary_agreement"].mean())
    return Depth(_picture(groups, trained), Table("Mean test accuracy by depth", head, rows), agreement)


def _picture(groups: Mapping[str, pd.DataFrame], trained: Sequence[str]) -> Markup:
    x, y = Scale(-0.5, len(DEPTHS) - 0.5, LEFT, RIGHT), Scale(0, 1, BOTTOM, TOP)
    parts = [svg.grid(x, y, list(range(len(DEPTHS))), list(DEPTHS.values()), "%")]
    parts.append(svg.element("line", x1=LEFT, x2=RIGHT, y1=y(CHANCE), y2=y(CHANCE), class_="diagonal"))
    parts.append(svg.element("text", "chance", x=RIGHT, y=y(CHANCE) - 5, class_="tick end"))
    centres = [x(position) for position in range(len(DEPTHS))]
    for table in groups.values():
        heads_trained = table.index.isin(trained).all()
        means = [y(table[depth].mean()) for depth in DEPTHS]
        parts.append(svg.polyline(centres, means, "mean" if heads_trained else "theirs"))
        for centre, depth in zip(centres, DEPTHS, strict=True):
            parts += _dots(centre, [y(value) for value in table[depth].dropna()])
    every = pd.concat(
        [table for table in groups.values() if table.index.isin(trained).all()] or [*groups.values()]
    )
    for centre, depth in zip(centres, DEPTHS, strict=True):
        mean = every[depth].mean()
        parts.append(svg.element("text", svg.percent(mean), x=centre, y=y(mean) + 20, class_="value middle"))
    count = sum(map(len, groups.values()))
    name = f"Test accuracy after {', '.join(DEPTHS.values())}: {count} evaluations"
    return svg.picture(340, 232, name, *parts)


def _dots(centre: float, ys: Sequence[float]) -> list[Markup]:
    """Return a dot for each evaluation, side by side around the centre."""
    across = Scale(0, max(1, len(ys) - 1), centre - _SPREAD / 2, centre + _SPREAD / 2)
    return [
        svg.element("circle", cx=across(position), cy=y, r=2.0, class_="dot") for position, y in enumerate(ys)
    ]
