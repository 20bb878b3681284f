"""Pictures of a search: a few still ones, and one page with all of Optuna's interactive ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from optuna.trial import FrozenTrial, TrialState

from lenet_study.evidence.figures.style import CHANGED, PALETTE, new_figure, styled
from lenet_study.search import attributes
from lenet_study.search.sampling import quiet

FEWEST = 4  # complete trials from which importances can be estimated
ACCURACY = "validation accuracy"
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
    figures = {"optimization_history": optimization_history(study.get_trials(deepcopy=False))}
    for name, plot in (("parameter_importances", "param_importances"), ("pareto_front", "pareto_front")):
        if plot in plots:
            figures[name] = _still(study, plot, plots[plot])
    return figures


@styled
def optimization_history(trials: Sequence[FrozenTrial]) -> Figure:
    """Draw the accuracy of every trial in order, and the best so far."""
    figure = new_figure(8, 4.2)
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


def _still(study: optuna.Study, name: str, options: Mapping[str, Any]) -> Figure:
    """Return one of Optuna's plots, which would change matplotlib's settings and leave the figure open."""
    from matplotlib import pyplot  # noqa: PLC0415 -- it chooses a backend for the whole process

    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # parameters that did not vary, and experimental parts
        figure: Figure = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study, **options).figure
        figure.set_size_inches(8, 5.5)  # of 19 names none overlaps another
        figure.set_layout_engine("tight")  # and none is cut off
        pyplot.close(figure)
    return figure


def interactive_page(study: optuna.Study) -> str:
    """Return Optuna's own plots as one HTML page that needs nothing else; they can be zoomed and asked."""
    plots: dict[str, str] = {}
    for name, options in _plots(study).items():
        with quiet():
            figure: Any = getattr(optuna.visualization, f"plot_{name}")(study, **options)
        heading = name.removeprefix("param_").replace("_", " ").capitalize()
        # The first plot brings plotly's script along, 4 MB, for all of them.
        plots[heading] = figure.to_html(full_html=False, include_plotlyjs=not plots)
    title = f"Search {study.study_name}"
    return jinja2.Template(_PAGE, autoescape=True).render(title=title, plots=plots)


def _plots(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return the names of those of Optuna's plots that the study has enough trials for, and their options."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return {}
    options: dict[str, Any] = {"target_name": ACCURACY}
    if len(study.directions) > 1:  # the accuracy is the first objective
        options["target"] = lambda trial: trial.values[0]
    plots = dict.fromkeys(("optimization_history", "parallel_coordinate", "slice"), options)
    if len(complete) >= FEWEST and len({trial.values[0] for trial in complete}) > 1:
        # fANOVA grows random trees: a seed gives the same importances each time.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        plots["param_importances"] = options | {"evaluator": evaluator}
    if len(study.directions) > 1:
        plots["pareto_front"] = {"target_names": [ACCURACY, "parameters"]}
    return plots
