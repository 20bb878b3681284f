"""Pictures of a search: what they show, and that they can be read."""

import optuna
import pytest
from drawing import assert_global_state_stays, assert_readable, words
from optuna.trial import TrialState

from lenet_study.search import pictures
from lenet_study.search.pictures import interactive_page, still_pictures
from lenet_study.search.space import Space

SPACE = Space(500_000, 10)


def made(count, directions=("maximize",), pruned=(), name="toy"):
    """A search whose trials are the better the later, but for those that are pruned."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name, directions=directions, sampler=optuna.samplers.RandomSampler(0)
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
    assert still_pictures(made(0)) == {}
    assert still_pictures(made(2, pruned=(0, 1))) == {}
    assert "toy" in interactive_page(made(0))


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_trials_tell_no_importances(count):
    assert still_pictures(made(count)).keys() == {"optimization_history"}


def test_many_trials_give_every_picture():
    names = still_pictures(made(8)).keys()
    assert names == {"optimization_history", "parameter_importances"}
    several = still_pictures(made(8, ("maximize", "minimize"))).keys()
    assert several == names | {"pareto_front"}


def test_the_history_shows_the_best_so_far_and_pruned_trials():
    figure = still_pictures(made(6, pruned=(2,)))["optimization_history"]
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["best so far"].get_ydata().tolist() == [0.9, 0.901, 0.903, 0.904, 0.905, 0.905]
    assert lines["complete"].get_xdata().tolist() == [0, 1, 3, 4, 5]
    assert lines["pruned, at its last epoch"].get_xdata().tolist() == [2]


def test_the_history_ends_with_the_last_trial_that_was_judged():
    study = made(3)
    study.enqueue_trial({})
    (axes,) = still_pictures(study)["optimization_history"].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["best so far"].get_xdata().tolist() == [0, 1, 2, 2]


def test_importances_name_every_parameter_the_largest_on_top():
    study = made(8)
    (axes,) = still_pictures(study)["parameter_importances"].axes
    bars = sorted(axes.patches, key=lambda bar: bar.get_y(), reverse=True)
    widths = [bar.get_width() for bar in bars]
    assert widths == sorted(widths, reverse=True)
    assert not axes.yaxis_inverted()
    assert sum(widths) == pytest.approx(1)
    assert {label.get_text() for label in axes.get_yticklabels()} == set(study.trials[0].params)


def test_importances_say_from_how_many_trials():
    study = made(9, pruned=(2,), name="wide")
    written = words(still_pictures(study)["parameter_importances"])
    assert {"Search wide", "estimated from 8 complete trials"} <= set(written)
    assert "share of the variance of validation accuracy (fANOVA)" in written
    assert "<h2>Importances (from 8 complete trials)</h2>" in interactive_page(study)


def test_the_front_is_what_no_trial_beats_in_both():
    study = made(5, ("maximize", "minimize"))
    trial = study.ask()
    SPACE.suggest(trial)
    study.tell(trial, [0.8, 9000])  # worse and larger than all
    (axes,) = still_pictures(study)["pareto_front"].axes
    points = {dots.get_label(): dots.get_offsets().tolist() for dots in axes.collections}
    assert sorted(points["no trial is better in both"]) == [[0.9 + n / 1000, 1000 * n] for n in range(5)]
    assert points["another trial is better"] == [[0.8, 9000]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("validation accuracy", "parameters")
    assert "6 complete trials" in words(axes.figure)


@pytest.mark.parametrize("name", ["optimization_history", "parameter_importances", "pareto_front"])
def test_still_pictures_name_their_search_and_can_be_read(name):
    figure = still_pictures(made(8, ("maximize", "minimize"), name="wide"))[name]
    assert "Search wide" in words(figure)
    assert_readable(figure)


def test_the_page_stands_alone_and_has_every_plot():
    page = interactive_page(made(8, ("maximize", "minimize")))
    for heading in ("Optimization history", "Parallel coordinate", "Slice", "Importances", "Pareto front"):
        assert f"<h2>{heading}" in page
    assert "Objective" not in page.split("</script>")[-1]  # both have names
    assert page.count("<script src=") == 0  # nothing is fetched


def test_a_name_is_no_markup():
    assert "<h1>Search a&lt;b</h1>" in interactive_page(made(0, name="a<b"))


def test_still_pictures_leave_global_state_as_it_was(monkeypatch):
    study = made(8, ("maximize", "minimize"))
    assert_global_state_stays(monkeypatch, pictures, lambda: still_pictures(study))
