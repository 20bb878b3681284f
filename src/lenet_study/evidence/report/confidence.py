"""Calibration: how often a model is right where it is so sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from lenet_study.evidence.calibration import calibration_error, reliability
from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import Chart, Table, evaluated_groups, predictions_of
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.results import StudyResults

LEFT, TOP, RIGHT, BOTTOM = 46, 10, 300, 264


@dataclass(frozen=True)
class Calibration:
    """Reliability diagrams of the groups, and their errors."""

    charts: Sequence[Chart]
    table: Table


def calibration(results: StudyResults) -> Calibration | None:
    """Return the calibration of each group of evaluated models; None without predictions."""
    charts, rows, predictions = [], [], predictions_of(results)
    for name, run_ids in evaluated_groups(results).items():
        tables = [predictions[run_id] for run_id in run_ids if run_id in predictions]
        if not tables:
            continue
        charts.append(Chart(name, _diagram(name, reliability(*_columns(pd.concat(tables))))))
        rows.append((name, str(len(tables)), *_errors(tables)))
    head = ("models", "evaluations", "15 equal bins", "15 bins of equal mass", "mean log-loss")
    caption = "Expected calibration error, and negative log-likelihood in nats; mean ± deviation over seeds"
    return Calibration(charts, Table(caption, head, rows)) if charts else None


def _columns(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    correct = (table["true"] == table["predicted"]).to_numpy()
    return table["probability"].to_numpy(dtype=float), correct


def _errors(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return mean and deviation of both calibration errors and of the log-loss."""
    width = [calibration_error(reliability(*_columns(table))) for table in tables]
    mass = [calibration_error(reliability(*_columns(table), binning="mass")) for table in tables]
    tiny = np.finfo(np.float32).tiny  # a probability of 0 has no logarithm
    losses = [float(-np.log(np.maximum(table["true_probability"], tiny)).mean()) for table in tables]
    return [_spread(width, "%"), _spread(mass, "%"), _spread(losses)]


def _spread(values: Sequence[float], unit: str = "") -> str:
    scaled = np.array(values) * (100 if unit else 1)
    digits = 2 if unit else 4
    deviation = f" ± {scaled.std(ddof=1):.{digits}f}" if len(scaled) > 1 else ""
    return f"{scaled.mean():.{digits}f}{deviation}" + (f"\u202f{unit}" if unit else "")


def _diagram(name: str, table: pd.DataFrame) -> Markup:
    x, y = Scale(0, 1, LEFT, RIGHT), Scale(0, 1, BOTTOM, TOP)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [svg.grid(x, y, ticks, svg.labels(ticks, "%"), "%")]
    parts.append(svg.element("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal"))
    for _, row in table.iterrows():
        left, right, top = x(row["low"]) + 1, x(row["high"]) - 1, y(row["accuracy"])
        bar = {"x": left, "width": max(1.0, right - left), "y": top, "height": BOTTOM - top}
        parts.append(svg.element("rect", **bar, class_="bar"))
        ideal = y(row["confidence"])
        parts.append(svg.element("line", x1=left, x2=right, y1=ideal, y2=ideal, class_="ideal"))
    caption = "share of images that are right, by the probability of the predicted class"
    parts.append(
        svg.element("text", "probability of the predicted class", x=173, y=300, class_="tick middle")
    )
    return svg.picture(310, 306, f"{name}: {caption}", *parts)
