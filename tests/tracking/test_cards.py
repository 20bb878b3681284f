"""Cards of runs, versions, the registered model and studies, made of what a store holds."""

import pandas as pd
import pytest
from conftest import add_training

from lenet_study.tracking import cards, saved_views
from lenet_study.tracking.run import open_run
from lenet_study.tracking.stored_training import StoredTraining

NAME = "fashion-mnist-lenet"


def add_evaluation(run_id, accuracy=0.925, **where):
    """What an evaluation leaves in the store; returns the run's id."""
    tags = {"model.run_id": run_id, "variant": "v4"}
    with open_run("v4 on test", stage="evaluate", params={"model": run_id}, tags=tags, **where) as run:
        interval = {"test/accuracy_low": accuracy - 0.005, "test/accuracy_high": accuracy + 0.005}
        run.log_metrics({"test/accuracy": accuracy, **interval})
    return run.id


def note(store, run_id):
    return store.get_run(run_id).data.tags["mlflow.note.content"]


def description(store, version="1"):
    return store.get_model_version(NAME, version).description


def test_a_run_leads_to_its_study_version_and_evaluation(store):
    run_id = add_training(store, "v4", 0.93, study="s1", **{"mlflow.note.content": "**v4**: mine."})
    evaluation = add_evaluation(run_id)
    cards.renew_run(run_id)
    text = note(store, run_id)
    assert text.startswith("**v4**: mine.\n\n---\n\n[study](#/experiments/1/runs/s1?")
    assert f"[version 1](#/models/{NAME}/versions/1?" in text
    assert f"[on test](#/experiments/1/runs/{evaluation}?" in text
    assert store.get_run(run_id).data.tags["version"] == "1"
    cards.renew_run(run_id)
    assert note(store, run_id) == text


def test_an_evaluation_leads_to_its_training(store):
    run_id = add_training(store, "v4", 0.93)
    evaluation = add_evaluation(run_id)
    assert f"[training of the model](#/experiments/1/runs/{run_id}?" in note(store, evaluation)


def test_a_version_s_card(store):
    what = {"mlflow.note.content": "**v4**: v3, but batch norm."}
    run_id = add_training(store, "v4", 0.93, **what, **{"weights.sha256": "abc123"})
    store.log_param(run_id, "epochs", 15)
    store.log_param(run_id, "seed", 0)
    cards.renew_version(run_id)
    before = description(store)
    assert before.startswith("**v4**: v3, but batch norm.\n")
    for heading in ("Figures", "Protocol", "Data", "Intended use", "Limits", "Proof"):
        assert f"### {heading}\n" in before
    assert "| validation accuracy | 93.00% |" in before
    assert "epochs 15, seed 0. Kept: the best epoch" in before
    assert "Parity: passed" in before
    assert "weights.sha256 `abc123`" in before
    assert "test accuracy" not in before

    add_evaluation(run_id)
    cards.renew_version(run_id)
    assert "| test accuracy | 92.50% | 92.00% to 93.00% |" in description(store)


def test_an_interval_is_over_the_validation_images(store, toy_files):
    from lenet_study.training.dataset import split

    images = toy_files.train()
    _, held_out = split(images.labels, 0)
    with open_run("v4", stage="train", params={}) as run:
        run.log_dataset(images.subset(held_out), "validation")
        run.log_metrics({"best/val_accuracy": 0.95})
    stored = StoredTraining.load(run.id)
    assert stored.image_count("validation") == len(held_out) == 40
    assert stored.image_count("train") == 0
    assert "| validation accuracy | 95.00% | 83.50% to 98.62% |" in cards.version_card(stored, [])


def test_a_card_is_never_longer_than_a_database_takes(store):
    run_id = add_training(store, "v4", 0.93, **{"mlflow.note.content": "x" * 8000})
    cards.renew_version(run_id)
    assert len(description(store)) == cards.VERSION_LIMIT


def test_a_run_without_a_version_has_no_card(store):
    cards.renew_version(add_training(store, "v4", 0.93, registered=False))
    cards.renew_model()  # nor is there a model


def test_a_user_s_description_of_a_version_stays(store):
    run_id = add_training(store, "v4", 0.93)
    store.update_model_version(NAME, "1", "Chosen by the board.")
    cards.renew_version(run_id)
    assert store.get_model_version(NAME, "1").description == "Chosen by the board."


def test_the_model_s_card_names_its_champion(store):
    add_training(store, "v4", 0.93)
    store.set_registered_model_alias(NAME, "champion", "1")
    store.set_model_version_tag(NAME, "1", "promoted.reason", "the best")
    cards.renew_model()
    text = store.get_registered_model(NAME).description
    assert f"- **champion**: [version 1](#/models/{NAME}/versions/1?" in text
    assert "the best" in text
    assert "### Limits" in text


def test_versions_without_a_card_are_found(store):
    first, second = (add_training(store, name, 0.93) for name in ("v3", "v4"))
    cards.renew_version(first)
    assert cards.without_card() == {second}


@pytest.fixture
def study(store):
    """A study's run with its comparison."""
    with open_run("study", stage="study", params={"seed": 0}, description="5 variants.") as run:
        run.set_tags({"study": run.id})
        rows = {"training": ["v4", "v4-retrained"], "val_accuracy": [0.93, None], "seeds": [1.0, 1.0]}
        run.log_table(pd.DataFrame(rows), "comparison.csv")
        run.log_metrics({"best/val_accuracy": 0.93, "test/accuracy": 0.925})
    return store.get_run(run.id)


def test_a_study_s_note_has_its_result_and_leads_to_its_views(store, study):
    cards.renew_study(study)
    text = note(store, study.info.run_id)
    assert text.startswith("5 variants.\n\nBest validation accuracy 93.00%, test 92.50%\n\n| training | val ")
    assert "| v4 | 93.00% | 1 |\n| v4-retrained |  | 1 |" in text
    for view in saved_views.views("", 0):
        assert f"[{view.name}](#/experiments/1/runs?viewStateShareKey={view.id}&" in text
    assert "report" not in text
    cards.renew_study(store.get_run(study.info.run_id))
    assert note(store, study.info.run_id) == text


def test_an_experiment_s_note_leads_to_the_study_and_its_report(store, study):
    store.log_text(study.info.run_id, "<html>", "report.html")
    cards.renew_study(study)
    text = store.get_experiment("1").tags["mlflow.note.content"]
    assert text.startswith("LeNet-5 variants on Fashion-MNIST")
    assert f"[study](#/experiments/1/runs/{study.info.run_id}?" in text
    assert f"[report](#/experiments/1/runs/{study.info.run_id}/artifacts/report.html?" in text
    assert f"[registered model](#/models/{NAME}?" in text


def test_a_user_s_note_of_the_experiment_stays(store, study):
    store.set_experiment_tag("1", "mlflow.note.content", "Ours.")
    cards.renew_study(study)
    assert store.get_experiment("1").tags["mlflow.note.content"].startswith("Ours.\n\n---\n\n[study]")
