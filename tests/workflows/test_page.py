"""MLflow's page of a study: views, notes and cards at once, and the command that prints the addresses."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import Recorder, add_training

from lenet_study.tracking.run import open_run
from lenet_study.workflows.page import renew_cards, renew_model_card, renew_page_of, result_metrics, views

NAME = "fashion-mnist-lenet"


@pytest.fixture
def study(store):
    """The ids of a study's run and of its only training's."""
    with open_run("study", stage="study", params={"seed": 3}) as run:
        run.set_tags({"study": run.id})
    return run.id, add_training(store, "v4", 0.93, study=run.id)


def test_views_renews_the_page_of_the_latest_study_and_prints_its_addresses(store, study):
    study_id, training = study
    older = add_training(store, "older", 0.9)  # of no study, without a card
    recorder = Recorder()
    views(recorder)
    addresses = {name: address for kind, _, name, address in recorder.events if kind == "on_address"}
    assert [*addresses] == [
        "The five",
        "The five, in a table",
        "Seeds",
        "Folds",
        "On test",
        "Search",
        "Ladder of versions",
    ]
    tags = store.get_experiment("1").tags
    assert len([tag for tag in tags if tag.startswith("mlflow.sharedViewState.")]) == 6
    assert study_id in tags["mlflow.note.content"]
    assert all(version.description for version in store.search_model_versions(f"name = '{NAME}'"))
    for run_id in (training, older):
        assert "[version " in store.get_run(run_id).data.tags["mlflow.note.content"]
    assert store.get_registered_model(NAME).description


def test_without_a_study_there_is_nothing_to_look_at(store):
    recorder = Recorder()
    views(recorder)
    assert recorder.text == "There is no study to look at yet: `make study` makes one."


def test_a_store_that_fails_undoes_no_work(store, study, monkeypatch):
    delivered = SimpleNamespace(id=study[0], delivery=SimpleNamespace(wait=lambda patience: True))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    recorder = Recorder()
    renew_page_of(delivered, recorder)
    renew_cards(study[1], recorder)
    renew_model_card(recorder)
    lines = recorder.text.splitlines()
    things = ("page of the study", f"card of run {study[1]}", "card of the registered model")
    for line, thing in zip(lines, things, strict=True):
        assert line.startswith(f"The {thing} in MLflow was not renewed (")
        assert line.endswith("`lenet-study views` does")


def comparison(**rows):
    columns = ("val_accuracy", "val_accuracy_augmented", "test_accuracy")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("training").reset_index()


def test_the_metrics_of_a_study():
    table = comparison(
        baseline=(0.90, 0.89, math.nan),
        v4=(0.93, 0.92, 0.925),
        **{"v4-retrained": (math.nan, math.nan, 0.928), "v4-kfold-mean": (0.931, 0.923, math.nan)},
    )
    metrics = result_metrics(table, "v4")
    assert metrics == pytest.approx(
        {
            "best/val_accuracy": 0.93,
            "best/val_accuracy_augmented": 0.92,
            "test/accuracy": 0.925,
            "test/accuracy_retrained": 0.928,
            "kfold/val_accuracy_mean": 0.931,
            "gain/over_baseline": 0.03,
            "gain/retraining": 0.003,
        }
    )


def test_what_a_failed_job_left_out_is_no_metric():
    metrics = result_metrics(comparison(v1=(0.9, 0.89, math.nan)), "v1")
    missing = {"test/accuracy", "test/accuracy_retrained", "kfold/val_accuracy_mean"}
    missing |= {"gain/retraining", "gain/over_baseline"}
    assert {name for name, value in metrics.items() if value is None} == missing


def test_a_deleted_run_keeps_no_page_from_being_renewed(store):
    add_training(store, "v1", 0.9)
    deleted = store.get_model_version(NAME, "1").run_id
    store.delete_run(deleted)
    with open_run("study", stage="study", params={"seed": 0}) as run:
        run.set_tags({"study": run.id})
    recorder = Recorder()
    views(recorder)
    assert "viewStateShareKey=lenet-five" in recorder.text
    assert store.get_model_version(NAME, "1").description
