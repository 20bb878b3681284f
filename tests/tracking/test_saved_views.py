"""Saved views: what MLflow's page reads of them; tests/project/test_browser.py looks at the page."""

import json
import re

import pytest

from lenet_study.recipes.recipe import Recipe, TrainingConfig
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import saved_views
from lenet_study.tracking.saved_views import unpacked, views
from lenet_study.tracking.schema import Metric, Tag, names
from lenet_study.workflows.train import TrainingJob

VIEWS = {view.name: view for view in views("s1", 7)}
LIMIT = 20_000  # characters of an experiment's tag


def saved(store, experiment_id):
    """The views that an experiment holds, by their tags."""
    tags = store.get_experiment(experiment_id).tags
    return {
        tag: json.loads(value) for tag, value in tags.items() if tag.startswith("mlflow.sharedViewState.")
    }


def params_of_trainings():
    searched = Recipe(name="slim", variant=VARIANTS["v4"], config=TrainingConfig())
    jobs = [TrainingJob(recipe=searched)]
    jobs += [TrainingJob(recipe=Recipe(name=name, variant=VARIANTS[name])) for name in VARIANTS]
    return {name for job in jobs for name in job.params()}


def test_the_views_of_a_study(store):
    experiment = store.create_experiment("e")
    saved_views.save(experiment, "s1", 7)
    content = saved(store, experiment)
    by_time = sorted(content.values(), key=lambda view: -view["createdAt"])
    assert [view["name"] for view in by_time] == [
        "The five",
        "Seeds",
        "Folds",
        "On test",
        "Search",
        "Ladder of versions",
    ]
    states = {view["name"]: unpacked(view["state"]) for view in by_time}
    assert states["The five"]["searchFilter"] == (
        "tags.study LIKE '%s1%' and tags.stage = 'train' and params.seed = '7'"
    )
    assert states["Folds"]["searchFilter"] == "tags.study LIKE '%s1%' and tags.stage = 'fold'"
    tags = store.get_experiment(experiment).tags
    assert max(len(tags[tag]) for tag in content) < LIMIT


def test_a_later_study_updates_the_views(store):
    experiment = store.create_experiment("e")
    saved_views.save(experiment, "s1", 7)
    before = saved(store, experiment)
    saved_views.save(experiment, "s2", 7)
    after = saved(store, experiment)
    assert after.keys() == before.keys()
    for tag, view in after.items():
        assert view["createdAt"] == before[tag]["createdAt"]
        assert view["updatedAt"] >= before[tag]["updatedAt"]
    assert "s1" not in "".join(str(unpacked(view["state"])) for view in after.values())


@pytest.mark.parametrize("name", VIEWS)
def test_columns_and_charts_are_of_what_runs_hold(name):
    state = VIEWS[name].state()
    known = {f"metrics.`{metric}`" for metric in names(Metric)} | {f"tags.`{tag}`" for tag in names(Tag)}
    known |= {f"params.`{param}`" for param in params_of_trainings()} | {"attributes.start_time"}
    assert {*state["selectedColumns"], state["orderByKey"]} <= known
    metrics, params = set(), set()
    for card in state["compareRunCharts"]:
        metrics |= {card["metricKey"]} if "metricKey" in card else set()
        metrics |= {card[axis]["key"] for axis in ("xaxis", "yaxis") if axis in card}
        metrics |= {*card.get("selectedMetrics", ())}
        params |= {*card.get("selectedParams", ())}
    assert metrics <= set(names(Metric))
    assert params <= params_of_trainings()


@pytest.mark.parametrize("name", VIEWS)
def test_each_chart_is_in_an_open_section(name):
    state = VIEWS[name].state()
    sections = {section["uuid"]: section["display"] for section in state["compareRunSections"]}
    cards = state["compareRunCharts"]
    assert cards
    assert all(sections[card["metricSectionId"]] for card in cards)
    assert len({card["uuid"] for card in cards}) == len(cards)
    assert len({section["name"] for section in state["compareRunSections"]}) == len(sections)


@pytest.mark.parametrize("name", VIEWS)
def test_the_page_s_own_sections_are_closed(name):
    """Every metric of the view's runs without a chart goes to the section of its prefix."""
    closed = {
        section["name"] for section in VIEWS[name].state()["compareRunSections"] if not section["display"]
    }
    assert {"Model metrics", "System metrics"} <= closed
    prefix = "test" if name == "On test" else "best"
    assert prefix in closed


def test_the_five_have_ten_columns_and_the_like_for_like_twin():
    five = VIEWS["The five"]
    assert len(five.columns) == 10
    bars = [card["metricKey"] for card in five.state()["compareRunCharts"] if card["type"] == "BAR"]
    assert bars == ["best/val_accuracy", "best/val_accuracy_augmented"]


def test_parallel_axes_have_a_value_in_every_variant():
    """MLflow leaves out a run that has none."""
    (axes,) = (
        card["selectedParams"]
        for card in VIEWS["The five"].state()["compareRunCharts"]
        if "selectedParams" in card
    )
    for name, variant in VARIANTS.items():
        params = TrainingJob(recipe=Recipe(name=name, variant=variant)).params()
        assert all(params[axis] not in (None, "") for axis in axes)


def test_ids_are_fit_for_addresses():
    assert all(re.fullmatch("[a-z-]+", view.id) for view in VIEWS.values())
