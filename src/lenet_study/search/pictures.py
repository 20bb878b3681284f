"""Pictures of a search: still ones in the study's style, and one page of Optuna's interactive ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from lenet_study.evidence.figures.style import CHANGED, PALETTE, styled

FEWEST = 4  # complete trials that tell importances
_GREY = "#8C8C8C"
_MAP = matplotlib.colormaps["viridis"]


def pictures(study: optuna.Study) -> dict[str, Figure]:
    """Still pictures by name; those that the study has too few trials for are left out."""
    complete = _complete(study)
    if not complete:
        return {}
    found = {
        "optimization_history": optimization_history(study.get_trials(deepcopy=False)),
        "slice": slices(complete),
        "parallel_coordinate": parallel_coordinate(complete),
    }
    if _tells_importances(complete):
        found["parameter_importances"] = parameter_importances(_importances(study))
    if len(study.directions) > 1:
        found["pareto_front"] = pareto_front(complete, {trial.number for trial in study.best_trials})
    return found


@styled
def optimization_history(trials: Sequence[FrozenTrial]) -> Figure:
    """The accuracy of every trial in order, and the best so far."""
    figure = Figure((8, 4.2), layout="constrained")
    axes = figure.subplots()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
    best = np.maximum.accumulate([trial.values[0] for trial in complete])
    numbers = [trial.number for trial in complete]
    end = max(trial.number for trial in [*complete, *pruned])
    axes.step([*numbers, end], [*best, best[-1]], where="post", color=CHANGED, label="best so far")
    axes.plot(numbers, [trial.values[0] for trial in complete], "o", color=PALETTE[2], label="complete")
    last = [trial.intermediate_values[trial.last_step or 0] for trial in pruned]
    axes.plot([trial.number for trial in pruned], last, "x", color=_GREY, label="pruned, at its last epoch")
    shown = [trial.values[0] for trial in complete]
    low = np.quantile([*shown, *last], 0.25)
    axes.set(xlabel="trial", ylabel="validation accuracy", ylim=(low - 0.01, max(shown) + 0.005))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(axis="y")
    for trial in complete:
        if name := trial.user_attrs.get("variant"):
            axes.annotate(name, (trial.number, trial.values[0]), (4, -9), textcoords="offset points", size=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    below = sum(value < low - 0.01 for value in [*shown, *last])
    note = f"{below} below the picture" if below else ""
    axes.set_title(note, loc="right", color=_GREY)
    axes.legend(loc="best")
    return figure


@styled
def parameter_importances(importances: Mapping[str, float]) -> Figure:
    """Shares of the variance of accuracy that single parameters explain, as Optuna estimates them."""
    figure = Figure((7, 0.3 * len(importances) + 1), layout="constrained")
    axes = figure.subplots()
    names = list(importances)[::-1]
    bars = axes.barh(
        [_words(name) for name in names], [importances[name] for name in names], color=PALETTE[2]
    )
    axes.bar_label(bars, fmt="{:.0%}", padding=3)
    axes.set_xlabel("share of the variance of validation accuracy (fANOVA)")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


@styled
def slices(complete: Sequence[FrozenTrial]) -> Figure:
    """Accuracy against every parameter, coloured by the trial's number."""
    names, columns = list(complete[0].params), 5
    rows = -(-len(names) // columns)
    figure = Figure((2.5 * columns, 2.1 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True).flat)
    accuracy = np.array([trial.values[0] for trial in complete])
    numbers = Normalize(0, max(trial.number for trial in complete) or 1)
    low = np.quantile(accuracy, 0.1) - 0.005
    for axes, name in zip(panels, names, strict=False):
        values, ticks = _positions(complete, name)
        axes.scatter(values, accuracy, c=[trial.number for trial in complete], cmap=_MAP, norm=numbers, s=18)
        axes.set(title=_words(name), ylim=(low, accuracy.max() + 0.003))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y")
        logarithmic = _logarithmic(complete[0], name)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks, size=7)
            axes.set_xlim(-0.5, len(ticks) - 0.5)
        else:
            ends = np.array(_ends(complete[0], name))
            axes.set_xlim(ends * (0.9, 1.1) if logarithmic else ends + np.ptp(ends) * np.array((-0.06, 0.06)))
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supylabel("validation accuracy", size=9)
    bar = figure.colorbar(ScalarMappable(numbers, _MAP), ax=panels[: len(names)], shrink=0.6)
    bar.set_label("trial")
    bar.locator = MaxNLocator(integer=True)
    return figure


@styled
def parallel_coordinate(complete: Sequence[FrozenTrial]) -> Figure:
    """Every trial as a line through its parameters, the better the darker; each axis from low to high."""
    names = list(complete[0].params)
    figure = Figure((14, 5.2), layout="constrained")
    axes = figure.subplots()
    accuracy = np.array([trial.values[0] for trial in complete])
    scale = Normalize(np.quantile(accuracy, 0.1), accuracy.max())
    lines = np.stack([_unit(axes, complete, name, place) for place, name in enumerate(names)], axis=1)
    for position in np.argsort(accuracy):
        colour = _MAP(1 - scale(accuracy[position]))
        axes.plot(lines[position], color=colour, lw=1.4, alpha=0.85)
    for place in range(len(names)):
        axes.axvline(place, color="#BBBBBB", lw=0.8, zorder=0)
    axes.set_xticks(range(len(names)), [_words(name) for name in names], rotation=30, ha="right")
    axes.set(xlim=(-0.4, len(names) - 0.4), ylim=(-0.1, 1.1), yticks=())
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(scale, _MAP.reversed()), ax=axes, label="validation accuracy", pad=0.01
    )
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    return figure


@styled
def pareto_front(complete: Sequence[FrozenTrial], best: set[int]) -> Figure:
    """Accuracy against parameters; the front is what no trial beats in both."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    others = [trial for trial in complete if trial.number not in best]
    axes.plot(
        [t.values[1] for t in others], [t.values[0] for t in others], "o", color=_GREY, label="other trials"
    )
    front = sorted((t for t in complete if t.number in best), key=lambda trial: trial.values[1])
    axes.plot(
        [t.values[1] for t in front], [t.values[0] for t in front], "o-", color=CHANGED, label="Pareto front"
    )
    for trial in front:
        axes.annotate(
            str(trial.number), (trial.values[1], trial.values[0]), (4, 4), textcoords="offset points"
        )
    axes.set(xlabel="parameters", ylabel="validation accuracy")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid()
    axes.legend(loc="lower right")
    return figure


def page(study: optuna.Study) -> str:
    """Optuna's own pictures as one HTML page that needs nothing else; they can be zoomed and asked."""
    parts: list[str] = []
    for name, options in _interactive(study).items():
        figure: Any = getattr(optuna.visualization, f"plot_{name}")(study, **options)
        heading = f"<h2>{name.removeprefix('param_').replace('_', ' ').capitalize()}</h2>"
        script = not parts  # plotly itself, once
        parts.append(f"{heading}<div>{figure.to_html(full_html=False, include_plotlyjs=script)}</div>")
    title = f"Search {study.study_name}"
    style = "<style>body {font-family: sans-serif; margin: 2rem} body > div {overflow-x: auto}</style>"
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{style}</head>'
    return f"{head}<body><h1>{title}</h1>{''.join(parts)}</body></html>"


def _interactive(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Optuna's plots and their options."""
    complete = _complete(study)
    if not complete:
        return {}
    several = len(study.directions) > 1
    target = {"target": lambda trial: trial.values[0]} if several else {}
    options: dict[str, Any] = {"target_name": "validation accuracy", **target}
    plots = dict.fromkeys(("optimization_history", "parallel_coordinate", "slice"), options)
    if _tells_importances(complete):
        plots["param_importances"] = {**options, "evaluator": _evaluator()}
    if several:
        plots["pareto_front"] = {"target_names": ["validation accuracy", "parameters"]}
    return plots


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _tells_importances(complete: Sequence[FrozenTrial]) -> bool:
    return len(complete) >= FEWEST and len({trial.values[0] for trial in complete}) > 1


def _importances(study: optuna.Study) -> dict[str, float]:
    """By parameter, the largest first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters that did not vary, and experimental parts
        return optuna.importance.get_param_importances(
            study, evaluator=_evaluator(), target=lambda trial: trial.values[0]
        )


def _evaluator() -> optuna.importance.FanovaImportanceEvaluator:
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def _positions(complete: Sequence[FrozenTrial], name: str) -> tuple[list[float], list[str]]:
    """Where each trial lies on a parameter's axis, and the names of its ticks if it has classes."""
    distribution = complete[0].distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        positions = [float(choices.index(trial.params[name])) for trial in complete]
        return positions, [
            str(choice) if isinstance(choice, str | bool) else f"{choice:g}" for choice in choices
        ]
    return [float(trial.params[name]) for trial in complete], []


def _unit(axes: Axes, complete: Sequence[FrozenTrial], name: str, place: int) -> np.ndarray:
    """Each trial's position in [0, 1] between the ends of a parameter's range, which it writes down."""
    positions, ticks = _positions(complete, name)
    if ticks:
        last = max(1, len(ticks) - 1)
        for position, tick in enumerate(ticks):
            axes.text(place + 0.04, position / last, tick, size=7, color="#555555", va="center")
        return np.array(positions) / last
    low, high = _ends(complete[0], name)
    axes.text(place, -0.03, f"{low:g}", size=7, color="#555555", ha="center", va="top")
    axes.text(place, 1.03, f"{high:g}", size=7, color="#555555", ha="center", va="bottom")
    if _logarithmic(complete[0], name):
        return np.log(np.array(positions) / low) / np.log(high / low)
    return (np.array(positions) - low) / max(high - low, 1e-12)


def _ends(trial: FrozenTrial, name: str) -> tuple[float, float]:
    """The lowest and the highest value that a parameter without classes may have."""
    distribution: Any = trial.distributions[name]
    return float(distribution.low), float(distribution.high)


def _logarithmic(trial: FrozenTrial, name: str) -> bool:
    distribution = trial.distributions[name]
    return isinstance(distribution, FloatDistribution) and distribution.log


def _words(name: str) -> str:
    return name.replace("_", " ")
