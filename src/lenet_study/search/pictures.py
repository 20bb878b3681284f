"""Pictures of a search: a few still ones, and one page with all of Optuna's interactive ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from optuna.trial import FrozenTrial, TrialState

from lenet_study.evidence.figures.style import CHANGED, PALETTE, new_figure, styled
from lenet_study.search import attributes
from lenet_study.search.sampling import quiet

FEWEST = 4  # complete trials from which importances can be estimated
ACCURACY = attributes.OBJECTIVES[0]
_GREY = "#8C8C8C"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>body {font-family: sans-serif; margin: 2rem} body > div {overflow-x: auto}</style></head>
<body><h1>{{ title }}</h1>
{% for heading, plot in plots.items() %}<h2>{{ heading }}</h2><div>{{ plot | safe }}</div>{% endfor %}
</body></html>
"""


def still_pictures(study: optuna.Study) -> dict[str, Figure]:
    """Return still pictures by name; those that the study has too few trials for are left out.

    Slices and parallel coordinates are on the page alone: nobody can read a still picture of 19 parameters.
    """
    plots = _plots(study)
    if not plots:
        return {}
    title = f"Search {study.study_name}"
    figures = {"optimization_history": optimization_history(study.get_trials(deepcopy=False), title)}
    if "param_importances" in plots:
        figures["parameter_importances"] = parameter_importances(study, title)
    if "pareto_front" in plots:
        figures["pareto_front"] = pareto_front(study, title)
    return figures


@styled
def optimization_history(trials: Sequence[FrozenTrial], title: str = "") -> Figure:
    """Draw the accuracy of every trial in order, and the best so far."""
    figure = new_figure(8, 4.4, title)
    axes = figure.subplots()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
    numbers, accuracies = [trial.number for trial in complete], [trial.values[0] for trial in complete]
    last = [trial.intermediate_values[trial.last_step or 0] for trial in pruned]
    best = np.maximum.accumulate(accuracies)
    end = max(trial.number for trial in [*complete, *pruned])
    axes.step([*numbers, end], [*best, best[-1]], where="post", color=CHANGED, label="best so far")
    axes.plot(numbers, accuracies, "o", color=PALETTE[2], label="complete")
    axes.plot([trial.number for trial in pruned], last, "x", color=_GREY, label="pruned, at its last epoch")
    # One trial that failed to learn would press all others into a line: the lowest quarter is cut off.
    low = np.quantile([*accuracies, *last], 0.25) - 0.01
    axes.set(xlabel="trial", ylabel=ACCURACY, ylim=(low, max(accuracies) + 0.005))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(axis="y")
    for trial in complete:
        if name := trial.user_attrs.get(attributes.VARIANT):
            axes.annotate(name, (trial.number, trial.values[0]), (4, -9), textcoords="offset points", size=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    below = sum(value < low for value in [*accuracies, *last])
    axes.set_title(f"{below} below the picture" if below else "", loc="right", color=_GREY)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


@styled
def parameter_importances(study: optuna.Study, title: str = "") -> Figure:
    """Draw the share of each parameter in the accuracy's variance, and from how many trials it is known."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters that did not vary
        importances = optuna.importance.get_param_importances(study, evaluator=_evaluator(), target=_accuracy)
    figure = new_figure(8, 1.2 + 0.24 * len(importances), title)
    axes = figure.subplots()
    names, shares = list(importances)[::-1], list(importances.values())[::-1]
    bars = axes.barh(names, shares, color=PALETTE[2])
    axes.bar_label(bars, [f"{share:.0%}" if share >= 0.005 else "" for share in shares], padding=3, size=8)
    axes.set(xlim=(0, 1.1 * max(shares)), xlabel=f"share of the variance of {ACCURACY} (fANOVA)")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(f"estimated from {len(_complete(study))} complete trials", loc="right", color=_GREY)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure


@styled
def pareto_front(study: optuna.Study, title: str = "") -> Figure:
    """Draw accuracy and number of parameters of every complete trial, and those that none beats in both."""
    trials = _complete(study)
    front = sorted(study.best_trials, key=lambda trial: trial.values[0])
    others = [trial for trial in trials if trial.number not in {best.number for best in front}]
    figure = new_figure(8, 5, title)
    axes = figure.subplots()
    axes.step(*_objectives(front), where="pre", color=CHANGED, lw=1, zorder=1)
    axes.scatter(*_objectives(others), color=_GREY, marker="x", label="another trial is better")
    axes.scatter(*_objectives(front), color=CHANGED, label="no trial is better in both")
    for trial in front:
        name = trial.user_attrs.get(attributes.VARIANT) or f"trial {trial.number}"
        axes.annotate(name, trial.values, (5, -9), textcoords="offset points", size=8)
    axes.set(xlabel=ACCURACY, ylabel=attributes.OBJECTIVES[1])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.margins(0.1)
    axes.grid(visible=True)
    axes.set_title(f"{len(trials)} complete trials", loc="right", color=_GREY)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _objectives(trials: Sequence[FrozenTrial]) -> tuple[list[float], list[float]]:
    return [trial.values[0] for trial in trials], [trial.values[1] for trial in trials]


def _accuracy(trial: FrozenTrial) -> float:
    return trial.values[0]  # the first objective


def _evaluator() -> optuna.importance.FanovaImportanceEvaluator:
    """Return what estimates importances; it grows random trees, and a seed gives the same ones each time."""
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def interactive_page(study: optuna.Study) -> str:
    """Return Optuna's own plots as one HTML page that needs nothing else; they can be zoomed and asked."""
    plots: dict[str, str] = {}
    for name, options in _plots(study).items():
        with quiet():
            figure: Any = getattr(optuna.visualization, f"plot_{name}")(study, **options)
        heading = name.removeprefix("param_").replace("_", " ").capitalize()
        if name == "param_importances":
            heading += f" (from {len(_complete(study))} complete trials)"
        # The first plot brings plotly's script along, 4 MB, for all of them.
        plots[heading] = figure.to_html(full_html=False, include_plotlyjs=not plots)
    title = f"Search {study.study_name}"
    return jinja2.Template(_PAGE, autoescape=True).render(title=title, plots=plots)


def _plots(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return the names of those of Optuna's plots that the study has enough trials for, and their options."""
    complete = _complete(study)
    if not complete:
        return {}
    options: dict[str, Any] = {"target_name": ACCURACY}
    if len(study.directions) > 1:
        options["target"] = _accuracy
    plots = dict.fromkeys(("optimization_history", "parallel_coordinate", "slice"), options)
    if len(complete) >= FEWEST and len({_accuracy(trial) for trial in complete}) > 1:
        plots["param_importances"] = options | {"evaluator": _evaluator()}
    if len(study.directions) > 1:
        plots["pareto_front"] = {"target_names": list(attributes.OBJECTIVES)}
    return plots
