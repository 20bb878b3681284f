"""Two models compared from what their runs hold."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Recorder, add_training

from lenet_study.errors import UserError
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking.store import NAME
from lenet_study.training.model import CLASSES
from lenet_study.workflows.compare import compare

IMAGES = 200
TRUE = np.arange(IMAGES) % 10


def add(store, name, accuracy, seed=0, *, recipe=None, digest="", **options):
    """A training with its recipe; ``options`` beside those of ``add_training`` are of its configuration."""
    known = {key: options.pop(key) for key in ("stage", "status") if key in options}
    config = TrainingConfig(**options)
    recipe = recipe or variant_recipes(config)[name]
    tags = {"variant": name, "weights.sha256": f"{name} {seed} {options}"}
    tags |= {"dataset.validation.sha256": digest or f"split {seed}"}
    run_id = add_training(store, name, accuracy, **known, **tags)
    store.log_param(run_id, "seed", seed)
    store.log_text(run_id, recipe_file.dumps(recipe), "recipe.json")
    return run_id


def evaluate(store, run_id, wrong, images=IMAGES, status="FINISHED"):
    """The evaluation of a training that has so many of the test images wrong, from the first on."""
    training = store.get_run(run_id)
    tags = {
        "stage": "evaluate",
        "model.run_id": run_id,
        "weights.sha256": training.data.tags["weights.sha256"],
    }
    run = store.create_run(training.info.experiment_id, run_name="on test", tags=tags)
    predicted = np.where(np.arange(images) < wrong, (TRUE[:images] + 1) % 10, TRUE[:images])
    names = np.array(CLASSES)
    table = pd.DataFrame({"true": names[TRUE[:images]], "predicted": names[predicted]})
    store.log_text(run.info.run_id, table.to_csv(index=False), "predictions.csv")
    store.set_terminated(run.info.run_id, status)
    return run.info.run_id


def compared(a, b):
    """Compare two models; return the result and what the user is told."""
    reporter = Recorder()
    return compare(a, b, reporter), reporter.text


def last_run(store):
    experiment = store.get_experiment_by_name(NAME)
    (run, *_) = store.search_runs([experiment.experiment_id], "tags.stage = 'compare'")
    return run


def refused(a, b, *named):
    with pytest.raises(UserError) as caught:
        compare(a, b)
    for words in (f"a={a}", *named):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


FIRST, SECOND = (0.92, 0.925, 0.93, 0.922), (0.91, 0.914, 0.918, 0.911)


@pytest.fixture
def seeds(store):
    """v4 and v3 with four seeds, v3's in the other order."""
    for seed, accuracy in enumerate(FIRST):
        add(store, "v4", accuracy, seed)
    for seed, accuracy in reversed([*enumerate(SECOND)]):
        add(store, "v3", accuracy, seed)
    return store


def test_variants_are_paired_by_seed(seeds):
    result, text = compared("v4", "v3")
    assert [pair.seeds for pair in result.pairs] == [(seed, seed) for seed in range(4)]
    assert [pair.validation for pair in result.pairs] == list(zip(FIRST, SECOND, strict=True))
    assert result.validation.outcome == "first"
    assert result.test is None
    for words in ("+1.00", "+1.20", "4 of 4 seeds", "never below 0.125", "Nadeau", "v4 is better than v3"):
        assert words in text
    assert "`evaluate`" in text


def test_a_comparison_is_a_run_with_figures_files_and_words(seeds):
    result, text = compared("v4", "v3")
    run = last_run(seeds)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "v4 and v3")
    assert {"a": "v4", "b": "v3"}.items() <= run.data.params.items()
    assert run.data.tags["comparison.val"] == "first"
    assert run.data.metrics["compare/val_difference"] == pytest.approx(np.mean(FIRST) - np.mean(SECOND))
    assert run.data.metrics["compare/val_seeds"] == 4
    assert run.data.metrics["compare/val_sign_flip_p"] == 0.125
    files = {file.path for file in seeds.list_artifacts(run.info.run_id)}
    assert {"comparison_pairs.csv", "comparison_pairs.png", "comparison.txt"} <= files
    folder = mlflow.artifacts.download_artifacts(run_id=run.info.run_id)
    table = pd.read_csv(Path(folder, "comparison_pairs.csv"))
    assert list(table["first_seed"]) == [0, 1, 2, 3]
    assert list(table["first_val_accuracy"]) == list(FIRST)
    assert list(table["first_run_id"]) == [pair.run_ids[0] for pair in result.pairs]
    assert Path(folder, "comparison.txt").read_text().strip() in text
    assert run.data.tags["mlflow.note.content"].startswith("v4 is better than v3 on validation images")


def test_swapping_the_models_turns_the_comparison_round(seeds):
    result, swapped = compared("v4", "v3")[0].validation, compared("v3", "v4")[0].validation
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx(
        (-result.difference, -result.high, -result.low)
    )
    assert (result.outcome, swapped.outcome) == ("first", "second")
    assert (swapped.sign_flip_p, swapped.t_p) == (result.sign_flip_p, result.t_p)


def test_test_images_are_compared_where_both_have_predictions(store):
    for seed in range(3):
        one, other = (add(store, name, 0.9 + seed / 1000, seed) for name in ("v4", "v3"))
        if seed:
            evaluate(store, one, 10), evaluate(store, other, 29 + seed)
    evaluate(store, other, 0, status="FAILED")
    result, text = compared("v4", "v3")
    assert [bool(pair.images) for pair in result.pairs] == [False, True, True]
    images = result.pairs[1].images
    assert (images.both, images.first_only, images.second_only, images.neither) == (170, 20, 0, 10)
    assert result.test.first == [0.95, 0.95]
    assert "over trainings, on these 200 images" in text
    assert f"{images.test.p_value:.2g}" in text


def test_the_latest_evaluation_of_the_same_weights_counts(store):
    one, other = add(store, "v4", 0.9), add(store, "v3", 0.9)
    evaluate(store, one, 50), evaluate(store, one, 10), evaluate(store, other, 20)
    foreign = evaluate(store, one, 100)
    store.set_tag(foreign, "weights.sha256", "others")
    assert compared("v4", "v3")[0].test.first == [0.95]


def test_one_seed_tells_of_two_models_and_not_of_recipes(store):
    for name, wrong in (("v4", 10), ("v3", 40)):
        evaluate(store, add(store, name, 0.9), wrong)
    result, text = compared("v4", "v3")
    assert np.isnan(result.test.low)
    assert "v4 beats v3" in text
    assert "nothing of how the next training would come out" in text
    assert last_run(store).data.tags["comparison.test"] == "undecided"
    assert "compare/test_difference_low" not in last_run(store).data.metrics


def test_one_seed_without_predictions_is_refused(store):
    add(store, "v4", 0.9), add(store, "v3", 0.9)
    before = len(store.search_runs(["1"]))
    refused("v4", "v3", "b=v3", "one seed in common (0)", "no predictions", "`evaluate`")
    assert len(store.search_runs(["1"])) == before


def test_of_a_seed_trained_twice_the_latest_counts(seeds):
    latest = add(seeds, "v4", 0.95, seed=2)
    result, text = compared("v4", "v3")
    assert result.pairs[2].run_ids[0] == latest
    assert f"v4 seed 2: trained 2 times; the latest counts, run {latest}" in text


@pytest.mark.parametrize("options", [{"epochs": 1}, {"batch_size": 64}, {"learning_rate": 0.01}])
def test_only_trainings_of_equal_settings_are_paired(seeds, options):
    for name in ("v4", "v3"):
        add(seeds, name, 0.5, seed=7, **options)
    result, text = compared("v4", "v3")
    assert [pair.seeds[0] for pair in result.pairs] == [0, 1, 2, 3]
    ((name, value),) = options.items()
    assert f"v4: passed over, because trained otherwise ({name}={value} and" in text


def test_trainings_without_equal_settings_are_refused(store):
    for seed in range(3):
        add(store, "v4", 0.9, seed, epochs=2), add(store, "v3", 0.9, seed, epochs=3)
    refused("v4", "v3", "b=v3", "epochs=2 and 3", "train both alike")


def test_trainings_without_a_common_seed_are_refused(store):
    for seed in range(2):
        add(store, "v4", 0.9, seed), add(store, "v3", 0.9, seed + 2)
    refused("v4", "v3", "seeds 0, 1 and 2, 3", "same seeds")


def test_seeds_of_one_model_alone_are_passed_over_in_words(seeds):
    add(seeds, "v4", 0.9, seed=9)
    result, text = compared("v4", "v3")
    assert len(result.pairs) == 4
    assert "v4: passed over, because the other model lacks them: seeds 9" in text


def test_other_validation_images_are_not_compared(seeds):
    add(seeds, "v4", 0.99, seed=3, digest="other images")
    result, text = compared("v4", "v3")
    assert [pair.seeds[0] for pair in result.pairs] == [0, 1, 2]
    assert "have other validation images" in text


def test_other_test_images_are_not_compared(store):
    one, other = add(store, "v4", 0.9), add(store, "v3", 0.9)
    evaluate(store, one, 5), evaluate(store, other, 5, images=100)
    refused("v4", "v3", "no predictions of both")


@pytest.mark.parametrize("content", ["", "no,table", '"'])
def test_predictions_that_cannot_be_read_are_passed_over_in_words(seeds, content):
    runs = [pair.run_ids for pair in compared("v4", "v3")[0].pairs][1]
    evaluations = [evaluate(seeds, run_id, 10) for run_id in runs]
    seeds.log_text(evaluations[0], content, "predictions.csv")
    result, text = compared("v4", "v3")
    assert result.test is None
    assert f"run {evaluations[0]} is passed over" in text


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_only_finished_trainings_count(seeds, status):
    unfinished = add(seeds, "v4", 0.99, seed=2, status=status)
    assert compared("v4", "v3")[0].validation.first == list(FIRST)
    refused(unfinished, "v3", status)


def test_a_run_is_compared_with_the_training_of_its_seed(store):
    runs = {name: [add(store, name, 0.9, seed) for seed in range(3)] for name in ("v4", "v3")}
    for name in runs:
        evaluate(store, runs[name][1], 10)
    result, text = compared(runs["v4"][1], "v3")
    assert [pair.run_ids for pair in result.pairs] == [(runs["v4"][1], runs["v3"][1])]
    assert "v3: passed over, because the other model lacks them: seeds 0, 2" in text
    assert "one training of each, seed 1" in text


def test_two_runs_of_other_seeds_and_settings_are_compared_on_test_images_alone(store):
    one, other = add(store, "v4", 0.9, epochs=1), add(store, "v4", 0.8, seed=5)
    evaluation = evaluate(store, one, 10)
    evaluate(store, other, 20)
    result, text = compared(evaluation, other)  # an evaluation stands for its training
    assert result.validation is None
    assert result.pairs[0].label == "0 / 5"
    assert result.names == (f"v4 (run {one[:8]})", f"v4 (run {other[:8]})")
    assert "trained otherwise (epochs=1 and 15, seed=0 and 5)" in text


def test_a_retraining_has_no_validation(store):
    one, other = add(store, "v4", None, stage="retrain"), add(store, "v4", 0.9)
    evaluate(store, one, 10), evaluate(store, other, 20)
    result, _ = compared(one, other)
    assert result.validation is None
    assert result.test.difference == pytest.approx(0.05)


def test_versions_are_named_by_number_alias_and_address(store):
    runs = [add(store, name, 0.9) for name in ("v4", "v3")]
    for run_id, wrong in zip(runs, (10, 20), strict=True):
        evaluate(store, run_id, wrong)
    store.set_registered_model_alias(NAME, "champion", 2)
    for a, b in (("1", "champion"), (f"models:/{NAME}/1", f"models:/{NAME}@champion"), ("1", "v3")):
        result, _ = compared(a, b)
        assert result.pairs[0].run_ids == tuple(runs)
    assert compared("1", "champion")[0].names == ("v4 (version 1)", "v3 (champion)")
    refused("2", "champion", "the same training")
    refused("9", "v3", "no such version")
    refused("previous", "v3", "no such version")
    refused("models:/nosuch/1", "v3", "names no registered model")


def test_a_searched_model_is_named_like_a_variant(store):
    slim = Recipe(name="slim", variant=replace(VARIANTS["v1"], channels=(4, 8)))
    for seed in range(2):
        (
            add(store, "slim", 0.8, seed, recipe=slim, stage="recipe"),
            add(store, "v1", 0.9, seed, stage="confirm"),
        )
    assert compared("slim", "v1")[0].validation.second == [0.9, 0.9]


def test_a_training_whose_recipe_is_missing_is_passed_over(seeds):
    broken = add_training(seeds, "v4", 0.9, variant="v4")
    result, text = compared("v4", "v3")
    assert len(result.pairs) == 4
    assert f"run {broken} is passed over" in text
    refused(broken, "v3", "recipe.json")


def test_what_names_nothing_is_refused(seeds):
    fold = add_training(seeds, "5-fold", None, stage="kfold")
    refused("v2", "v3", "no finished training", "variant=v2")
    refused("v9", "v3", "no model that was trained", "baseline")
    refused("' or 1=1", "v3", "no model")
    refused("", "v3", "empty")
    refused("v3", "v3", "the same")
    refused("0" * 32, "v3", "no run of this store")
    refused(fold, "v3", "kfold")
    with pytest.raises(UserError, match=r"^b=v2 has no finished training"):
        compare("v3", "v2")


def test_a_run_is_not_compared_with_its_own_variant_s_same_training(seeds):
    run_id = add(seeds, "v4", 0.9, seed=11)
    refused(run_id, "v4", "share a training", run_id)


def test_another_model_of_the_same_name_is_passed_over(store):
    config = TrainingConfig()
    former = Recipe(name="mine", variant=VARIANTS["v2"], config=config)
    changed = Recipe(name="mine", variant=VARIANTS["v3"], config=config)
    old = add(store, "mine", 0.99, seed=0, recipe=former, stage="recipe")
    for seed, accuracy in enumerate(FIRST):
        add(store, "mine", accuracy, seed=seed, recipe=changed, stage="recipe")
        add(store, "v4", accuracy - 0.01, seed=seed)
    result, text = compared("mine", "v4")
    assert f"run {old} is passed over: it is another model of this name" in text
    assert [pair.validation[0] for pair in result.pairs] == list(FIRST)
