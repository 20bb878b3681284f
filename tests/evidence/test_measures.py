"""Values of a study, and what of them is missing."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_results import PROTOCOL, empty_results, made_up_results

from lenet_study.evidence.measures import MEASURES, OF_VARIANT, sample
from lenet_study.recipes.variants import VARIANTS

RESULTS = made_up_results(seeds=3, noise=0.0, images=100)


def test_values_are_by_seed_with_their_runs():
    ours = sample(RESULTS, "v2", "train", "val_accuracy")
    assert ours.values.to_dict() == pytest.approx({0: 0.924, 1: 0.924, 2: 0.924})
    assert ours.run_ids == ("train-v2-0", "train-v2-1", "train-v2-2")
    assert ours.missing == ours.commands == ()


def test_a_test_figure_is_that_of_the_training_s_evaluation():
    assert sample(RESULTS, "v4", "retrain", "test_accuracy").values.tolist() == pytest.approx([0.929] * 3)
    assert sample(RESULTS, "v4", "train", "test_accuracy").values.tolist() == pytest.approx([0.9254] * 3)


def test_folds_are_those_of_the_first_seed():
    assert sample(RESULTS, "v4", "fold", "val_accuracy").values.index.tolist() == [1, 2, 3, 4, 5]


def test_the_mean_step_is_that_of_the_last_epochs():
    ours = sample(RESULTS, "v1", "train", "val_loss_step")
    losses = RESULTS.histories["train-v1-0"]["val_loss"].to_numpy()
    assert ours.values.tolist() == pytest.approx([np.abs(np.diff(losses[-6:])).mean()] * 3)
    short = replace(RESULTS, histories={run: table.head(5) for run, table in RESULTS.histories.items()})
    assert len(sample(short, "v1", "train", "val_loss_step").missing) == 3


def test_what_is_missing_is_named_with_the_command_that_makes_it():
    partial = replace(
        RESULTS,
        trainings=RESULTS.trainings.drop(["train-v2-1"]),
        evaluations=RESULTS.evaluations.drop(["on-test-train-v2-2"]),
    )
    ours = sample(partial, "v2", "train", "test_accuracy")
    assert ours.values.index.tolist() == [0]
    assert ours.missing == ("v2, trained, seed 1", "evaluation of v2, trained, seed 2")
    assert ours.commands == ("mlflow run . -e evaluate -P model=train-v2-2 --env-manager local",)
    nothing = sample(empty_results(), "v2", "train", "test_accuracy")
    assert nothing.values.empty
    assert nothing.missing == ("v2, trained",)


def test_untrained_heads_are_those_of_runs_beside_the_study_or_of_a_study_without_training_of_heads():
    assert len(sample(RESULTS, "v4", "untrained", "auxiliary_agreement").values) == 3
    untrained = replace(RESULTS, facts={**PROTOCOL, "auxiliary": "untrained"})
    assert sample(untrained, "v4", "untrained", "auxiliary_agreement").run_ids[0] == "train-v4-0"
    assert sample(untrained, "v4", "train", "auxiliary_agreement").values.empty
    assert len(sample(untrained, "v4", "train", "test_accuracy").values) == 3


def test_figures_in_words():
    accuracy, loss, epoch = MEASURES["test_accuracy"], MEASURES["test_loss"], MEASURES["best_epoch"]
    assert [accuracy.text(0.92494), loss.text(0.2314), epoch.text(14)] == ["92.49 %", "0.2314", "14.0"]
    assert accuracy.text(1.02) == "100.00 %"
    assert [accuracy.difference(-0.0039), loss.difference(0.01)] == ["-0.39 points", "+0.0100"]
    assert epoch.difference(1) == "+1.0 epochs"
    assert MEASURES["parameter_count"].text(481_458) == "481,458"
    assert (accuracy.better, loss.better) == (1, -1)


def test_measures_of_variants_are_the_reports():
    assert [OF_VARIANT["halve_learning_rate_every"](VARIANTS[name]) for name in ("baseline", "v1")] == [0, 5]
    assert OF_VARIANT["multiply_adds"](VARIANTS["v2"]) == pytest.approx(6.06, abs=0.005)
    assert {name for name, measure in MEASURES.items() if measure.source == "variant"} == {*OF_VARIANT}
