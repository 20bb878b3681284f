"""Pictures of a search: what they show, and that they can be read."""

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from drawing import assert_global_state_stays
from optuna.trial import TrialState

from lenet_study.search import pictures as search_figures
from lenet_study.search.space import Space

SPACE = Space(500_000, 10)


def made(count, directions=("maximize",), pruned=()):
    """A search whose trials are the better the later, but for those that are pruned."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="toy", directions=directions, sampler=optuna.samplers.RandomSampler(0)
    )
    for number in range(count):
        trial = study.ask()
        SPACE.suggest(trial)
        if number in pruned:
            trial.report(0.5, 1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [0.9 + number / 1000, 1000 * number][: len(directions)])
    return study


def test_a_search_without_complete_trials_has_no_pictures():
    assert search_figures.pictures(made(0)) == {}
    assert search_figures.pictures(made(2, pruned=(0, 1))) == {}
    assert "toy" in search_figures.page(made(0))


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_trials_tell_no_importances(count):
    expected = {"optimization_history", "slice", "parallel_coordinate"}
    assert search_figures.pictures(made(count)).keys() == expected


def test_many_trials_give_every_picture():
    names = search_figures.pictures(made(8)).keys()
    assert names == {"optimization_history", "slice", "parallel_coordinate", "parameter_importances"}
    several = search_figures.pictures(made(8, ("maximize", "minimize"))).keys()
    assert several == names | {"pareto_front"}


def test_the_history_shows_the_best_so_far_and_pruned_trials():
    figure = search_figures.pictures(made(6, pruned=(2,)))["optimization_history"]
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["best so far"].get_ydata().tolist() == [0.9, 0.901, 0.903, 0.904, 0.905, 0.905]
    assert lines["complete"].get_xdata().tolist() == [0, 1, 3, 4, 5]
    assert lines["pruned, at its last epoch"].get_xdata().tolist() == [2]


def test_the_history_ends_with_the_last_trial_that_was_judged():
    study = made(3)
    study.enqueue_trial({})
    (axes,) = search_figures.pictures(study)["optimization_history"].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["best so far"].get_xdata().tolist() == [0, 1, 2, 2]


def test_a_slice_has_a_panel_for_every_parameter_and_all_trials_within_it():
    study = made(8)
    figure = search_figures.pictures(study)["slice"]
    panels = [axes for axes in figure.axes if axes.get_title()]
    names = [name.replace("_", " ") for name in study.trials[0].params]
    assert [axes.get_title() for axes in panels] == names
    for axes in panels:
        points = axes.collections[0].get_offsets()
        assert len(points) == 8
        low, high = axes.get_xlim()
        assert np.all((low <= points[:, 0]) & (points[:, 0] <= high))


def test_parallel_coordinates_lie_between_the_ends_of_each_axis():
    figure = search_figures.pictures(made(8))["parallel_coordinate"]
    lines = [line for line in figure.axes[0].lines if len(line.get_ydata()) > 2]
    assert len(lines) == 8
    assert all(np.all((line.get_ydata() >= 0) & (line.get_ydata() <= 1)) for line in lines)


def test_importances_are_shares_the_largest_on_top():
    figure = search_figures.parameter_importances({"epochs": 0.7, "dropout": 0.3})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.7]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dropout", "epochs"]


def test_the_front_is_what_no_trial_beats_in_both():
    study = made(5, ("maximize", "minimize"))
    trial = study.ask()
    SPACE.suggest(trial)
    study.tell(trial, [0.8, 9000])  # worse and larger than all
    figure = search_figures.pictures(study)["pareto_front"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["Pareto front"].get_xdata().tolist() == [0, 1000, 2000, 3000, 4000]
    assert lines["other trials"].get_ydata().tolist() == [0.8]


def test_the_page_stands_alone_and_has_every_plot():
    page = search_figures.page(made(8, ("maximize", "minimize")))
    for heading in ("Optimization history", "Parallel coordinate", "Slice", "Importances", "Pareto front"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<script src=") == 0  # nothing is fetched


def test_global_state_stays_as_it_was(monkeypatch):
    study = made(8)
    assert_global_state_stays(monkeypatch, search_figures, lambda: search_figures.pictures(study)["slice"])
    assert plt.get_fignums() == []
