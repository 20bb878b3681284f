"""Curves of all seeds: each seed thin, their mean, where one more seed would lie, and the published curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import Chart, Evidence, Table, trainings_of, variants_of
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.statistics import prediction_interval

METRICS = {  # title, unit
    "val_accuracy": ("Validation accuracy", "%"),
    "val_loss": ("Validation loss", ""),
    "train_accuracy": ("Training accuracy", "%"),
    "train_loss": ("Training loss", ""),
}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 340, 214, 46, 10, 332, 184


@dataclass(frozen=True)
class Tab:
    """The panels of one metric, one for each variant, and the numbers of their last epoch."""

    metric: str
    title: str
    charts: Sequence[Chart]
    table: Table


@dataclass(frozen=True)
class Curves:
    """One metric of a variant: float [seeds, epochs] and what follows from it, NaN where there is none."""

    values: np.ndarray
    mean: np.ndarray
    low: np.ndarray  # of the prediction interval at each epoch; NaN for one seed
    high: np.ndarray
    published: np.ndarray

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return int(self.values.shape[1])


def tabs(evidence: Evidence) -> list[Tab]:
    """Return the panels of every metric that the store holds."""
    made = []
    for metric, (title, unit) in METRICS.items():
        curves = {name: curves_of(evidence, name, metric) for name in variants_of(evidence.results)}
        drawn = {name: each for name, each in curves.items() if each.values.size}
        if drawn:
            made.append(_tab(metric, title, unit, drawn))
    return made


def curves_of(evidence: Evidence, variant: str, metric: str) -> Curves:
    """Return the curves of a variant; epochs that a seed does not have are NaN."""
    histories = evidence.results.histories
    runs = [run_id for run_id in trainings_of(evidence.results, variant).index if run_id in histories]
    columns = {run_id: histories[run_id].set_index("epoch")[metric] for run_id in runs}
    table = pd.DataFrame(columns).sort_index().dropna(how="all")
    values = table.to_numpy(dtype=float).T
    intervals = [prediction_interval(column[np.isfinite(column)].tolist()) for column in values.T]
    low, high = np.array(intervals, dtype=float).reshape(-1, 2).T
    published = evidence.published_epochs
    theirs = published[published["training"] == variant]
    ours = theirs.set_index("epoch")[metric].reindex(table.index) if len(theirs) else None
    return Curves(
        values,
        np.nanmean(values, axis=0) if values.size else np.empty(0),
        low,
        high,
        np.full(values.shape[-1], np.nan) if ours is None else ours.to_numpy(dtype=float),
    )


def _tab(metric: str, title: str, unit: str, curves: Mapping[str, Curves]) -> Tab:
    # The first epochs are far from all others: with them, curves would be a line at the top.
    settled = [
        value
        for each in curves.values()
        for line in (*each.values, each.published)
        for value in line[min(2, each.epochs - 1) :].tolist()
    ]
    scale = Scale.around(settled, BOTTOM, TOP)
    charts = [
        Chart(name, _panel(name, title, each, scale, unit), name, readout=_readout(each))
        for name, each in curves.items()
    ]
    rows = [_row(name, each, unit) for name, each in curves.items()]
    head = ("model", "seeds", "mean of the last epoch", "lowest seed", "highest seed", "published")
    return Tab(metric, title, charts, Table(f"{title} after the last epoch", head, rows))


def _panel(variant: str, title: str, curves: Curves, y: Scale, unit: str) -> Markup:
    epochs = list(range(1, curves.epochs + 1))
    x = Scale(1, max(2, curves.epochs), LEFT, RIGHT)
    xs = [x(epoch) for epoch in epochs]

    def ys(values: np.ndarray) -> list[float]:
        return [y(value) for value in values.tolist()]

    lines = []
    if np.isfinite(curves.low).all():
        lines.append(_band(xs, ys(curves.low), ys(curves.high)))
    lines += [svg.polyline(xs, ys(line), "seed") for line in curves.values]
    lines.append(svg.polyline(xs, ys(curves.mean), "mean"))
    if np.isfinite(curves.published).any():
        lines.append(svg.polyline(xs, ys(curves.published), "theirs"))
    # A picture within the picture cuts off what the first epochs have below the scale.
    box = f"{LEFT} {TOP} {RIGHT - LEFT} {BOTTOM - TOP}"
    inner = svg.element(
        "svg", *lines, x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP, viewBox=box, class_="plot"
    )
    cursor = svg.element("line", x1=LEFT, x2=LEFT, y1=TOP, y2=BOTTOM, class_="cursor")
    ticks = [float(epoch) for epoch in epochs if epoch in (1, curves.epochs) or epoch % 5 == 0]
    ground = svg.grid(x, y, ticks, [f"{tick:.0f}" for tick in ticks], unit)
    name = f"{title} of {variant} by epoch, {len(curves.values)} seeds"
    return svg.picture(WIDTH, HEIGHT, name, ground, inner, cursor, class_=f"chart curves of-{variant}")


def _band(xs: Sequence[float], low: Sequence[float], high: Sequence[float]) -> Markup:
    around = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
    points = " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in around)
    return svg.element("polygon", points=points, class_="band")


def _readout(curves: Curves) -> dict[str, list[float | None]]:
    lines = {"mean": curves.mean, "low": curves.low, "high": curves.high, "published": curves.published}
    return {
        name: [round(value, 5) if value == value else None for value in line.tolist()]
        for name, line in lines.items()
    }


def _row(name: str, curves: Curves, unit: str) -> tuple[str, ...]:
    last = curves.values[:, -1]
    numbers = (curves.mean[-1], np.nanmin(last), np.nanmax(last), curves.published[-1])
    texts = [svg.percent(value, 2) if unit else svg.decimal(value, 4) for value in numbers]
    return (name, str(len(curves.values)), *texts)
