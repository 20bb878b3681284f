from pathlib import Path

import mlflow
import pandas as pd
import pytest
from conftest import Recorder, add_training

from lenet_study.errors import UserError
from lenet_study.tracking.store import NAME
from lenet_study.workflows.promote import promote


def aliases(store):
    """Which version has which alias."""
    return {name: int(version) for name, version in store.get_registered_model(NAME).aliases.items()}


def promoted(**options):
    """Promote; return what the user is told."""
    reporter = Recorder()
    promote(**options, reporter=reporter)
    return reporter.text


def last_run(store):
    experiment = store.get_experiment_by_name(NAME)
    (run,) = store.search_runs(
        [experiment.experiment_id],
        "tags.stage = 'promote'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return run


def test_nothing_is_promoted_from_an_empty_store(store):
    with pytest.raises(UserError, match=r"no finished training .*: run `train` first"):
        promoted()
    run = last_run(store)
    assert run.info.status == "FAILED"
    assert "run `train` first" in run.data.tags["failure.reason"]


@pytest.mark.parametrize("stage", ["fold", "retrain", "evaluate"])
def test_only_trainings_are_promoted(store, stage):
    add_training(store, "better", 0.99, stage=stage)
    with pytest.raises(UserError, match="no finished training"):
        promoted()
    assert aliases(store) == {}


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_only_finished_trainings_are_promoted(store, status):
    add_training(store, "better", 0.99, status=status)
    add_training(store, "good", 0.9)
    promoted()
    assert aliases(store) == {"champion": 2}


def test_on_a_tie_the_variant_that_comes_first_is_champion(store):
    add_training(store, "v4", 0.92, variant="v4")
    add_training(store, "v1", 0.92, variant="v1")
    promoted()
    assert aliases(store) == {"champion": 2}
    reason = last_run(store).data.tags["promoted.reason"]
    assert "the first of those with the highest validation accuracy" in reason


def test_the_best_training_becomes_champion(store):
    add_training(store, "v1", 0.88)
    add_training(store, "v4", 0.925)
    add_training(store, "v3", 0.91)
    text = promoted()
    assert aliases(store) == {"champion": 2}
    run = last_run(store)
    reason = run.data.tags["promoted.reason"]
    for words in ("v4", "92.50%", "v3", "91.00%"):
        assert words in reason
    assert run.info.status == "FINISHED"
    expected = {"promoted.version": "2", "promoted.kept": "false", "former.version": "none"}
    assert expected.items() <= run.data.tags.items()
    version = store.get_model_version_by_alias(NAME, "champion")
    assert version.tags["promoted.reason"] == reason
    assert version.tags["promoted.by_run"] == run.info.run_id
    assert f"Version 2 is now {NAME}@champion: {reason}" in text


def test_the_candidates_are_listed_in_the_run(store):
    best = add_training(store, "v4", 0.925)
    add_training(store, "v1", 0.88, parity="failed")
    promoted()
    file = mlflow.artifacts.download_artifacts(
        run_id=last_run(store).info.run_id, artifact_path="candidates.csv"
    )
    table = pd.read_csv(Path(file))
    assert list(table["run"]) == ["v4", "v1"]
    assert list(table["val_accuracy"]) == [0.925, 0.88]
    assert list(table["parity"]) == ["passed", "failed"]
    assert table["run_id"][0] == best


def test_a_better_training_takes_over(store):
    add_training(store, "v1", 0.88)
    text = promoted()
    assert "the only finished training" in text
    add_training(store, "v4", 0.92)
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert last_run(store).data.tags["former.version"] == "1"
    assert "in place of version 1" in text
    add_training(store, "v5", 0.93)
    promoted()
    assert aliases(store) == {"champion": 3, "previous": 2}


def test_a_worse_training_changes_nothing(store):
    add_training(store, "v1", 0.88)
    promoted()
    add_training(store, "v4", 0.92)
    promoted()
    before = store.get_model_version(NAME, "2").tags
    add_training(store, "worse", 0.8)
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert store.get_model_version(NAME, "2").tags == before
    assert last_run(store).data.tags["promoted.kept"] == "true"
    assert f"Version 2 stays {NAME}@champion" in text


def test_rolling_back_swaps_and_a_second_time_undoes_it(store):
    add_training(store, "v1", 0.88)
    promoted()
    add_training(store, "v4", 0.92)
    promoted()
    text = promoted(rollback=True)
    assert aliases(store) == {"champion": 1, "previous": 2}
    run = last_run(store)
    version = store.get_model_version(NAME, "1")
    assert version.tags["promoted.reason"] == run.data.tags["promoted.reason"] == "rolled back by hand"
    assert version.tags["promoted.by_run"] == run.info.run_id
    assert run.data.params == {"rollback": "True"}
    assert f"Version 1 is now {NAME}@champion in place of version 2" in text
    promoted(rollback=True)
    assert aliases(store) == {"champion": 2, "previous": 1}


def test_without_a_former_champion_nothing_is_rolled_back(store):
    add_training(store, "v1", 0.88)
    promoted()
    with pytest.raises(UserError, match="no former champion"):
        promoted(rollback=True)
    assert aliases(store) == {"champion": 1}
    assert last_run(store).info.status == "FAILED"


def test_nothing_is_rolled_back_in_an_empty_store(store):
    with pytest.raises(UserError, match="no former champion"):
        promoted(rollback=True)


@pytest.mark.parametrize("parity", ["failed", None])
def test_a_model_whose_export_is_not_proven_is_refused(store, parity):
    add_training(store, "v1", 0.88)
    promoted()
    add_training(store, "v4", 0.92, parity=parity)
    with pytest.raises(UserError, match=r"Version 2 \(v4\) is not promoted: .*parity"):
        promoted()
    assert aliases(store) == {"champion": 1}
    run = last_run(store)
    assert run.info.status == "FAILED"
    assert "not promoted" in run.data.tags["failure.reason"]
    assert "promoted.version" not in run.data.tags
    assert "promoted.reason" not in store.get_model_version(NAME, "2").tags


def test_a_training_without_a_registered_model_is_refused(store):
    add_training(store, "v1", 0.88)
    promoted()
    run_id = add_training(store, "v4", 0.92, registered=False)
    with pytest.raises(UserError, match=rf"v4, run {run_id}\) has no registered model"):
        promoted()
    assert aliases(store) == {"champion": 1}


def test_a_training_without_a_validation_accuracy_is_refused(store):
    add_training(store, "v1", None)
    with pytest.raises(UserError, match="no finished training"):
        promoted()
    assert aliases(store) == {}


def test_a_candidate_without_a_validation_accuracy_does_not_stop_the_best(store):
    add_training(store, "v1", None)
    add_training(store, "v4", 0.9)
    promoted()
    assert aliases(store) == {"champion": 2}
