"""A study with several seeds: what is trained, what is used again, and what is set side by side."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import Recorder, open_store

from lenet_study.errors import UserError
from lenet_study.recipes.recipe import SEED_LIMIT, TrainingConfig
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.report import make_report
from lenet_study.workflows.study import study

CONFIG = TrainingConfig(epochs=1, batch_size=16, learning_rate=0.002, seed=3)
OPTIONS = {"folds": 2, "hardware": Hardware(device="cpu"), "workers": 1, "variants": ["baseline", "v1"]}


def run_study(files, repeats, config=CONFIG, reporter=None):
    return study(config, repeats=repeats, data=files, reporter=reporter or Recorder(), **OPTIONS)


@pytest.fixture(scope="module")
def studies(initialised_database, tmp_path_factory, toy_files):
    """A store with a study of one seed, then one of two; the second one's result and what it told."""
    with open_store(initialised_database, tmp_path_factory.mktemp("repeats")) as store:
        run_study(toy_files, 1)
        recorder = Recorder()
        yield store, run_study(toy_files, 2, reporter=recorder), recorder.text


def runs(store, stage):
    """Runs of a stage that belong to the second study."""
    _, second = sorted(
        (run for run in store.search_runs(["1"]) if run.data.tags["stage"] == "study"),
        key=lambda run: run.info.start_time,
    )
    belonging = store.search_runs(
        ["1"], f"tags.stage = '{stage}' and tags.study LIKE '%{second.info.run_id}%'"
    )
    return {run.info.run_name: run for run in belonging}


def test_every_variant_is_trained_with_every_seed_and_the_split_of_a_seed_is_shared(studies):
    store, result, _ = studies
    trainings = runs(store, "train")
    assert trainings.keys() == {"baseline", "v1", "baseline seed 4", "v1 seed 4"}
    sums = {name: run.data.tags["dataset.validation.sha256"] for name, run in trainings.items()}
    assert sums["baseline"] == sums["v1"] != sums["baseline seed 4"] == sums["v1 seed 4"]
    assert {name: run.data.params["seed"] for name, run in trainings.items()}["v1 seed 4"] == "4"
    assert result.trainings.keys() == {
        f"{variant} seed {seed}" for variant in ("baseline", "v1") for seed in (3, 4)
    }


def test_what_one_seed_has_given_is_used_again(studies):
    store, result, text = studies
    assert {name for name, each in result.trainings.items() if each.reused} == {
        "baseline seed 3",
        "v1 seed 3",
    }
    assert len(store.search_runs(["1"], "tags.stage = 'train'")) == 4
    assert "v1: used again from run" in text


def test_the_selected_variant_is_retrained_and_evaluated_for_each_seed(studies):
    store, result, _ = studies
    selected = result.selected
    assert runs(store, "retrain").keys() == {f"{selected} retrained", f"{selected} seed 4 retrained"}
    assert runs(store, "evaluate").keys() == {
        f"{selected} on test",
        f"{selected} seed 4 on test",
        f"{selected} retrained on test",
        f"{selected} seed 4 retrained on test",
    }
    assert result.evaluated.keys() == result.retrained.keys() == {3, 4}
    assert len(runs(store, "fold")) == 2


def test_only_the_first_seeds_features_are_drawn(studies):
    store, result, _ = studies
    files = {
        name: {file.path for file in store.list_artifacts(run.info.run_id)}
        for name, run in runs(store, "evaluate").items()
    }
    drawn = {name for name, paths in files.items() if "tsne.png" in paths}
    assert drawn == {f"{result.selected} on test", f"{result.selected} retrained on test"}


def test_the_comparison_has_means_and_deviations_over_the_seeds(studies):
    store, result, text = studies
    (run,) = runs(store, "study").values() or [None]
    table = pd.read_csv(store.download_artifacts(run.info.run_id, "comparison.csv")).set_index("training")
    for variant in ("baseline", "v1"):
        accuracies = pd.Series([each.best.val_accuracy for each in result.trained[variant].values()])
        assert table.seeds[variant] == 2
        assert table.val_accuracy[variant] == pytest.approx(accuracies.mean())
        assert table.val_accuracy_std[variant] == pytest.approx(accuracies.std())
    tested = pd.Series([each.predictions.accuracy for each in result.evaluated.values()])
    assert table.test_accuracy[result.selected] == pytest.approx(tested.mean())
    assert run.data.params["repeats"] == "2"
    assert "val ±" in text


def test_the_study_ends_with_its_report_which_is_made_again_with_the_same_bytes(studies, toy_files, tmp_path):
    store, _, text = studies
    (run,) = runs(store, "study").values()
    logged = Path(store.download_artifacts(run.info.run_id, "report.html"))
    assert make_report(run.info.run_id, toy_files).html == logged.read_text()
    assert "2 seeds" in text
    assert "report.html of the study: " in text


def test_seeds_beyond_the_largest_are_refused(toy_files, store):
    with pytest.raises(UserError, match=r"seed=4294967290 and repeats=10 lead beyond 4294967295: choose"):
        run_study(toy_files, 10, TrainingConfig(epochs=1, seed=SEED_LIMIT - 6))
    assert store.search_experiments(filter_string="name != 'Default'") == []
