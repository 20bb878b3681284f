"""Finished trainings read back from the store, also those that older versions wrote."""

from dataclasses import asdict, replace

import pandas as pd
import pytest
from conftest import add_training, open_store

from lenet_study.errors import StoreError, UserError
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking.run import open_run
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.stored_training import (
    StoredTraining,
    best_training,
    evaluation_of,
    finished_trainings,
    trainings_named,
)
from lenet_study.training.history import Epoch

HISTORY = tuple(
    Epoch(
        epoch=number,
        learning_rate=0.1 / 3,  # which has no short decimal
        train_loss=2 / number / 3,
        train_accuracy=0.7,
        val_loss=0.5,
        val_accuracy=accuracy,
        seconds=1.5,
    )
    for number, accuracy in ((1, 0.25), (2, 2 / 3), (3, 0.5))
)
RECIPE = Recipe(
    name="v2",
    variant=VARIANTS["v2"],
    config=TrainingConfig(epochs=3, seed=7, learning_rate=0.1, precision="bfloat16"),
)


def write_training(history=HISTORY, **options):
    """What a training leaves in its run, without the model."""
    params = {"seed": RECIPE.config.seed, "precision": RECIPE.config.precision}
    tags = {Tag.VARIANT: "v2", Tag.THREADS: 1}
    with open_run("v2 seed 7", **{"stage": "confirm", "params": params, "tags": tags, **options}) as run:
        run.log_text(recipe_file.dumps(RECIPE), "recipe.json")
        run.log_table(pd.DataFrame(map(asdict, history)), "history.csv")
        run.log_best(history[1])
        run.log_metrics({Metric.PARAMETER_COUNT: 333_970})
    return run.id


@pytest.fixture(scope="module")
def written(initialised_database, tmp_path_factory):
    """The run id of a training, in a store that stays open for the module."""
    with open_store(initialised_database, tmp_path_factory.mktemp("stored")):
        yield write_training()


def test_a_training_tells_what_it_was(written):
    training = StoredTraining.load(written)
    assert (training.run_id, training.name, training.status) == (written, "v2 seed 7", "FINISHED")
    assert (training.stage, training.variant) == ("confirm", "v2")
    assert training.params == {"seed": "7", "precision": "bfloat16"}
    assert 0 < training.seconds < 60
    assert training.tag(Tag.THREADS) == "1"
    assert training.tag(Tag.PARITY) == ""
    assert training.metric(Metric.PARAMETER_COUNT) == 333_970
    assert training.metric(Metric.BEST_VAL_ACCURACY) == 2 / 3
    assert training.metric(Metric.TEST_ACCURACY) is None


def test_the_recipe_has_the_runs_seed_and_precision(written):
    assert StoredTraining.load(written).recipe == RECIPE


def test_the_history_has_its_numbers_exactly_as_they_were(written):
    training = StoredTraining.load(written)
    assert training.history == HISTORY
    assert training.best == HISTORY[1]


def test_a_history_without_validation_has_none(store):
    blind = tuple(replace(epoch, val_loss=None, val_accuracy=None) for epoch in HISTORY)
    training = StoredTraining.load(write_training(blind, stage="retrain"))
    assert training.history == blind
    assert training.best == blind[1]


def test_what_older_versions_wrote_is_read(store):
    run_id = add_training(store, "old", 0.9, stage="spec", **{"machine.threads": "2"})
    store.log_metric(run_id, "parameters", 77_486)
    training = StoredTraining.load(run_id)
    assert training.stage == "recipe"
    assert training.tag(Tag.THREADS) == "2"
    assert training.metric(Metric.PARAMETER_COUNT) == 77_486
    assert [found.run_id for found in finished_trainings(9, stage="recipe")] == [run_id]


def test_a_run_that_is_not_there_is_refused(store):
    with pytest.raises(UserError, match="run_id=0123456789abcdef0123456789abcdef names no run"):
        StoredTraining.load("0123456789abcdef0123456789abcdef")


def test_what_a_run_lacks_is_named_with_the_cure(store):
    training = StoredTraining.load(add_training(store, "v1", 0.8, registered=False))
    with pytest.raises(StoreError, match=f"Run {training.run_id} has no recipe.json: train it again"):
        training.recipe  # noqa: B018
    with pytest.raises(StoreError, match="no logged model: train it again"):
        training.model_uri  # noqa: B018
    with pytest.raises(UserError, match=r"history\.csv of run .* is missing .*: train again"):
        training.history  # noqa: B018


def test_a_damaged_recipe_names_its_run(store):
    with open_run("v2", stage="train", params={"seed": 0}) as run:
        run.log_text("{", "recipe.json")
    with pytest.raises(UserError, match=f"recipe.json of run {run.id} is no JSON"):
        StoredTraining.load(run.id).recipe  # noqa: B018


def names(trainings):
    return [training.name for training in trainings]


def test_no_training_is_the_best_of_an_empty_store(store):
    assert best_training(variant_recipes(TrainingConfig())["v4"]) is None
    assert finished_trainings(limit=5) == []


def test_trainings_are_sorted_by_validation_accuracy_then_age(store):
    for name, accuracy in (("a", 0.8), ("b", 0.9), ("c", 0.85), ("d", 0.9)):
        add_training(store, name, accuracy)
    assert names(finished_trainings(limit=10)) == ["b", "d", "c", "a"]
    assert names(finished_trainings(limit=2)) == ["b", "d"]


def test_only_finished_trainings_count_in_whatever_experiment(store):
    add_training(store, "ours", 0.5)
    add_training(store, "elsewhere", 0.6, experiment="class of spring")
    for status in ("RUNNING", "FAILED", "KILLED"):
        add_training(store, status, 0.9, status=status)
    for stage in ("fold", "retrain", "evaluate", "study", "kfold", "recipe"):
        add_training(store, stage, 0.9, stage=stage)
    store.delete_run(add_training(store, "deleted", 0.9))
    assert names(finished_trainings(limit=99)) == ["elsewhere", "ours"]


def test_a_training_without_a_metric_does_not_count(store):
    add_training(store, "none", None)
    add_training(store, "low", 0.1)
    assert names(finished_trainings(limit=99)) == ["low"]


def test_trainings_of_one_variant(store):
    add_training(store, "v1", 0.9, variant="v1", study="s1")
    add_training(store, "v2", 0.8, variant="v2", study="s1")
    add_training(store, "v2 again", 0.7, variant="v2", study="s2")
    recipes = variant_recipes(TrainingConfig())
    assert best_training(recipes["v2"]).name == "v2"
    assert best_training(recipes["v3"]) is None


def test_the_best_training_of_a_searched_model_is_one_of_a_recipe_file(store):
    searched = Recipe(name="slim", variant=replace(VARIANTS["v1"], channels=(4, 8)))
    add_training(store, "slim", 0.9, variant="slim", stage="trial")
    assert best_training(searched) is None
    add_training(store, "slim", 0.7, variant="slim", stage="recipe")
    expected = add_training(store, "slim", 0.8, variant="slim", stage="spec")
    assert best_training(searched).run_id == expected


def test_all_trainings_of_a_model_the_latest_first(store):
    runs = [
        add_training(store, "v1", 0.9, variant="v1", stage=stage) for stage in ("train", "confirm", "spec")
    ]
    add_training(store, "v1 retrained", 0.9, variant="v1", stage="retrain")
    add_training(store, "v2", 0.9, variant="v2")
    add_training(store, "v1", 0.9, variant="v1", status="FAILED")
    assert {training.run_id for training in trainings_named("v1")} == {*runs}
    starts = [training.start for training in trainings_named("v1")]
    assert starts == sorted(starts, reverse=True)
    assert trainings_named("v3") == []


def test_the_evaluation_of_a_training_is_of_its_weights(store):
    training = StoredTraining.load(add_training(store, "v1", 0.9, **{"weights.sha256": "abc"}))
    assert evaluation_of(training) is None
    options = {"stage": "evaluate", "registered": False, "model.run_id": training.run_id}
    add_training(store, "of others", None, **options, **{"weights.sha256": "def"})
    add_training(store, "failed", None, status="FAILED", **options, **{"weights.sha256": "abc"})
    assert evaluation_of(training) is None
    expected = add_training(store, "on test", None, **options, **{"weights.sha256": "abc"})
    assert evaluation_of(training).run_id == expected


def test_the_digest_of_a_split(store):
    tags = {"dataset.validation.sha256": "abc"}
    training = StoredTraining.load(add_training(store, "v1", 0.9, **tags))
    assert (training.digest("validation"), training.digest("test")) == ("abc", "")
