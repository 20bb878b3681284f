"""Results of studies, read from a store that may lack anything."""

from dataclasses import asdict

import pandas as pd
import pytest
from conftest import add_training, open_store

from lenet_study.errors import UserError
from lenet_study.evidence.results import StudyResults
from lenet_study.evidence.scorecard import scorecard
from lenet_study.tracking.run import open_run
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.study_results import latest_study, study_results
from lenet_study.training.history import Epoch
from lenet_study.training.model import CLASSES

PARAMS = {"epochs": 2, "batch_size": 32, "learning_rate": 0.001, "auxiliary": "probe", "seed": 3}
PARAMS |= {"repeats": 2, "folds": 2, "variants": "v1,v2"}
CLASS_COLUMNS = ("true", "predicted", "auxiliary_first", "auxiliary_second")
PREDICTIONS = pd.DataFrame({"image": range(10), **dict.fromkeys(CLASS_COLUMNS, CLASSES)})


def history(accuracy):
    return [
        Epoch(
            epoch=number,
            learning_rate=0.001,
            train_loss=1 / number,
            train_accuracy=0.7,
            val_loss=None if accuracy is None else 0.5,
            val_accuracy=None if accuracy is None else accuracy - 0.1 * (2 - number),
            seconds=1.0,
        )
        for number in (1, 2)
    ]


def add(study, variant, accuracy, stage="train", seed=3, fold=0, **params):
    """What a training leaves of its figures; returns its run's id."""
    epochs = history(accuracy)
    tags = {Tag.VARIANT: variant, Tag.THREADS: 1, **({Tag.FOLD: fold} if fold else {})}
    params = {**PARAMS, "seed": seed, **params}
    with open_run(f"{variant} {stage}", stage=stage, params=params, tags=tags, study=study) as run:
        run.log_best(epochs[-1])
        run.log_metrics({Metric.PARAMETER_COUNT: 77_486, Metric.BEST_VAL_ACCURACY_AUGMENTED: accuracy})
        run.log_table(pd.DataFrame(map(asdict, epochs)), "history.csv")
    return run.id


def evaluate(model, accuracy, study="", predictions=PREDICTIONS):
    """What an evaluation leaves; returns its run's id."""
    with open_run("on test", stage="evaluate", params={}, tags={Tag.MODEL_RUN_ID: model}, study=study) as run:
        run.log_metrics(
            {Metric.TEST_ACCURACY: accuracy, Metric.TEST_LOSS: 0.3, Metric.AUXILIARY_AGREEMENT: 0.9}
        )
        if predictions is not None:
            run.log_table(predictions, "predictions.csv")
    return run.id


def open_study(**params):
    """A study's run, which ends at once; returns its id."""
    with open_run("study", stage="study", params={**PARAMS, **params}) as run:
        run.set_tags({Tag.STUDY: run.id})
    return run.id


@pytest.fixture(scope="module")
def complete(initialised_database, tmp_path_factory):
    """A study of two variants and two seeds, nothing of which is missing, and its runs by name."""
    with open_store(initialised_database, tmp_path_factory.mktemp("complete")):
        study = open_study()
        runs = {
            f"{variant} {seed}": add(study, variant, accuracy, seed=seed)
            for variant, accuracy in (("v2", 0.9), ("v1", 0.8))
            for seed in (4, 3)
        }
        runs |= {f"retrain {seed}": add(study, "v2", None, stage="retrain", seed=seed) for seed in (3, 4)}
        runs |= {f"fold {fold}": add(study, "v2", 0.9, stage="fold", fold=fold) for fold in (1, 2)}
        for name in ("v2 3", "v2 4", "retrain 3", "retrain 4"):
            runs[f"{name} on test"] = evaluate(runs[name], 0.91, study)
        runs["v1 3 on test"] = evaluate(runs["v1 3"], 0.81)  # by hand
        evaluate(runs["v2 3"], 0.5)  # once more: the study's own counts
        yield study, runs, study_results(study)


def test_a_complete_study_is_read_completely(complete):
    study, runs, results = complete
    assert (results.run_id, results.selected, results.missing) == (study, "v2", ())
    trainings = results.trainings
    assert trainings.index.name == "run_id"
    assert trainings["stage"].tolist() == ["train"] * 4 + ["retrain"] * 2 + ["fold"] * 2
    assert trainings["variant"].tolist()[:4] == ["v1", "v1", "v2", "v2"]
    assert trainings["seed"].tolist() == [3, 4, 3, 4, 3, 4, 3, 3]
    assert trainings["fold"].tolist() == [0] * 6 + [1, 2]
    row = trainings.loc[runs["v2 3"]]
    assert (row["best_epoch"], row["val_accuracy"], row["parameter_count"]) == (2, 0.9, 77_486)
    assert pd.isna(trainings.loc[runs["retrain 3"], "val_accuracy"])


def test_evaluations_of_its_trainings_are_read_whoever_made_them(complete):
    _, runs, results = complete
    assert set(results.evaluations["model_run_id"]) == {
        *(runs[name] for name in ("v1 3", "v2 3", "v2 4", "retrain 3", "retrain 4"))
    }
    assert results.evaluations.loc[runs["v2 3 on test"], "test_accuracy"] == 0.91
    assert results.evaluations.loc[runs["v1 3 on test"], "auxiliary_agreement"] == 0.9
    assert pd.isna(results.evaluations.loc[runs["v1 3 on test"], "auxiliary_first"])
    pd.testing.assert_frame_equal(results.predictions[runs["v1 3"]], PREDICTIONS)


def test_histories_are_those_of_the_epochs(complete):
    _, runs, results = complete
    table = results.histories[runs["v1 3"]]
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert table.columns.tolist() == columns
    assert table["val_accuracy"].tolist() == pytest.approx([0.7, 0.8])
    assert results.histories[runs["retrain 3"]]["val_loss"].isna().all()
    assert set(results.histories) == {*results.trainings.index}


def test_facts_identify_protocol_and_code(complete):
    _, _, results = complete
    assert results.facts["auxiliary"] == "probe"
    assert (results.facts["epochs"], results.facts["repeats"]) == ("2", "2")
    assert results.facts[Tag.THREADS] == "1"
    assert len(results.facts[Tag.GIT_COMMIT]) == 40
    assert "" not in results.facts.values()


def test_the_scorecard_of_a_store_s_study_has_a_caveat_for_its_protocol(complete):
    card = scorecard(complete[2])
    assert card.caveats == ("epochs is 2, published 15",)
    assert card.seeds == 2
    by_id = {judged.id: judged for judged in card.judged}
    assert by_id["v2-val-accuracy"].run_ids == tuple(complete[1][f"v2 {seed}"] for seed in (3, 4))
    assert by_id["v2-weights-test-accuracy"].missing == ()
    assert by_id["v1-weights-test-accuracy"].commands == (
        f"mlflow run . -e evaluate -P model={complete[1]['v1 4']} --env-manager local",
    )


def test_an_empty_study_is_read_and_says_what_is_missing(store):
    results = study_results(open_study())
    assert isinstance(results, StudyResults)
    assert (results.selected, len(results.trainings), len(results.evaluations)) == ("", 0, 0)
    assert len(results.missing) == 4
    assert results.missing[1] == "There is no finished train run of v1, seed 4"
    assert scorecard(results).summary.startswith("11 of ")


def test_a_study_of_one_seed_has_no_param_repeats(store):
    with open_run("study", stage="study", params={"seed": 0, "folds": 2, "variants": "v1"}) as run:
        pass
    model = add(run.id, "v1", 0.8, seed=0)
    assert study_results(run.id).missing == (
        "There is no finished retrain run of v1, seed 0",
        "There is no finished fold run of v1, fold 1",
        "There is no finished fold run of v1, fold 2",
        f"There is no evaluation of v1, train, seed 0 (run {model})",
    )


def test_missing_and_damaged_pieces_are_named_and_the_rest_is_read(store, tmp_path):
    study = open_study(repeats=1, folds=0, variants="v1")
    whole, broken = add(study, "v1", 0.8), add(study, "v1", None, stage="retrain")
    evaluate(whole, 0.8, study, predictions=None)
    evaluate(broken, 0.7, study, predictions=PREDICTIONS.assign(predicted="hat"))
    (history_file,) = tmp_path.rglob(f"{broken}/artifacts/history.csv")
    history_file.write_text("epoch,nonsense\n1,2\n")
    results = study_results(study)
    assert set(results.histories) == {whole}
    assert results.predictions == {}
    assert len(results.evaluations) == 2
    missing = " ".join(results.missing)
    assert f"history.csv of run {broken} (v1 retrain) cannot be read" in missing
    assert "was changed since the run logged it" in missing
    assert "it has none: evaluate the model again" in missing
    assert "column predicted holds other words than the ten classes" in missing


def test_figures_that_are_not_finite_are_missing(store):
    study = open_study(repeats=1, folds=0, variants="v1")
    model = add(study, "v1", 0.1)
    store.log_metric(model, Metric.BEST_VAL_LOSS, float("inf"))
    results = study_results(study)
    assert pd.isna(results.trainings.loc[model, "val_loss"])
    assert f"best/val_loss of run {model} is not finite: the model has diverged" in results.missing


def test_failed_runs_and_repeated_seeds_are_named(store):
    study = open_study(repeats=1, folds=0, variants="v1")
    former, latter = add(study, "v1", 0.8), add(study, "v1", 0.7)
    failed = add_training(store, "v2", None, status="FAILED", study=study, variant="v2")
    store.set_tag(failed, Tag.FAILURE_REASON, "a loss is\nnot finite")
    odd = add_training(store, "v3", 0.9, study=study, variant="v3")
    results = study_results(study)
    assert results.trainings.index.tolist() == [latter]
    missing = " ".join(results.missing)
    assert f"run {latter} counts, and run {former} does not" in missing
    assert f"v2, run {failed}, is failed (a loss is not finite)" in missing
    assert f"Run {odd} has no seed: train it again" in missing


def test_untrained_heads_are_read_from_runs_beside_the_study(store):
    study = open_study(repeats=1, folds=0, variants="v1,v2")
    add(study, "v1", 0.7)
    add(study, "v2", 0.9)
    beside = add("", "v2", 0.9, seed=5, auxiliary="untrained")
    add("", "v1", 0.9, auxiliary="untrained")  # not the selected variant
    add("", "v2", 0.9, auxiliary="untrained", epochs=1)  # not the study's protocol
    evaluate(beside, 0.9)
    results = study_results(study)
    assert results.trainings["stage"].tolist() == ["train", "train", "untrained"]
    assert results.trainings.index[-1] == beside
    assert results.evaluations["model_run_id"].tolist() == [beside]
    assert beside not in results.histories


def test_another_study_s_trainings_are_not_read(store):
    study, other = open_study(), open_study()
    add(other, "v1", 0.8)
    shared = add(other, "v2", 0.8)
    store.set_tag(shared, Tag.STUDY, f"{other} {study}")  # as a study does that uses it again
    assert study_results(study).trainings.index.tolist() == [shared]


def test_a_run_that_is_no_study_is_refused(store):
    run_id = add("", "v1", 0.8)
    with pytest.raises(UserError, match=f"run_id={run_id} is a run of stage train, no study"):
        study_results(run_id)
    with pytest.raises(UserError, match="run_id=0123456789abcdef0123456789abcdef names no run"):
        study_results("0123456789abcdef0123456789abcdef")


def test_the_latest_study_is_the_last_that_has_finished(store):
    with pytest.raises(UserError, match="The store has no study: run `study` first"):
        latest_study()
    unfinished = add_training(store, "study", None, stage="study", status="KILLED", registered=False)
    assert latest_study() == unfinished
    first, second = open_study(), open_study()
    add_training(store, "study", None, stage="study", status="FAILED", registered=False)
    assert latest_study() == second != first
