"""A store that commit c940516 (version 0.1) wrote: its trainings are read, promoted, evaluated, retrained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Recorder, open_store
from old_store import unpack

from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking import registry
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.stored_training import StoredTraining, best_training, finished_trainings
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.evaluate import EvaluationJob, evaluate
from lenet_study.workflows.promote import promote
from lenet_study.workflows.retrain import retrain
from lenet_study.workflows.train import TrainingJob, TrainingResult

ARCHIVE = Path(__file__).parents[1] / "data" / "store-c940516.tar.xz"
CONFIG = TrainingConfig(epochs=2, batch_size=16, learning_rate=0.00004, seed=3)  # of all its trainings
V1, BASELINE = "ac66b22da57c4d87ad708170e219fc57", "eeee273f1b2349939f7c13c9afbe2d1d"
TRIAL = "1769ae7c88bd4e28873f32c0acc6c62b"  # the best of the search
FINGERPRINTS = {V1: "884c6a0d7b7f2169", BASELINE: "ef935cd3b01a5b6b", TRIAL: "945e508363af3eb1"}
RETRAINED = "dae8c5f0b861ea51b08e795d97b4111cf84c9b2ef15a6b2f0ec9da80c1321569"  # weights of baseline, seed 3


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The store, unpacked once."""
    folder = tmp_path_factory.mktemp("old-store")
    unpack(ARCHIVE, folder)
    return folder


@pytest.fixture
def old(unpacked, tmp_path):
    """A client of a copy of the store, whose artifacts all tests share."""
    with open_store(unpacked / "mlflow.db", tmp_path) as client:
        yield client


def aliases(client):
    model = client.get_registered_model("fashion-mnist-lenet")
    return {alias: int(version) for alias, version in model.aliases.items()}


def told(workflow, **options):
    """What a workflow tells the user."""
    reporter = Recorder()
    workflow(**options, reporter=reporter)
    return reporter.text


@pytest.mark.parametrize("run_id", FINGERPRINTS)
def test_the_recipe_of_a_training_is_read(old, run_id):
    training = StoredTraining.load(run_id)
    assert training.recipe.fingerprint() == FINGERPRINTS[run_id]
    assert training.recipe.config.seed == int(training.params["seed"])


def test_a_training_is_read(old):
    training = StoredTraining.load(BASELINE)
    recipe = variant_recipes(replace(CONFIG, seed=4))["baseline"]
    assert training.recipe == recipe
    assert (training.stage, training.variant, training.status) == ("train", "baseline", "FINISHED")
    assert [epoch.train_loss for epoch in training.history] == [3.9470955634615934, 3.0516835085681593]
    assert [epoch.val_accuracy for epoch in training.history] == [0.2, 0.2]
    assert training.best == training.history[0]
    assert training.tag(Tag.THREADS) == "1"
    assert training.tag(Tag.DEVICE) == "cpu"
    assert training.metric(Metric.PARAMETER_COUNT) == 77_486
    assert training.metric(Metric.BEST_VAL_ACCURACY_AUGMENTED) == 0.2


def test_a_result_is_read_with_its_checked_model(old):
    result = TrainingResult.of(StoredTraining.load(BASELINE))
    assert result.model.version == 3
    assert result.model.weights_sha256 == "9b94a251da65a9cd3c53bbccfde7bf6705e1e96b7c0ddb7a24b1f700c95f9603"
    assert result.best.val_accuracy == 0.2


def test_the_best_trainings_are_found(old):
    assert best_training(variant_recipes(CONFIG)["v1"]).run_id == V1
    assert best_training(variant_recipes(CONFIG)["v4"]) is None
    assert [training.name for training in finished_trainings(9)] == ["baseline", "baseline", "v1"]


def test_its_challenger_is_weighed_and_its_champion_stays(old):
    text = told(promote)
    assert (
        "Version 5, the challenger, is not promoted: its mean is higher, but p = 0.076 over 2 seeds" in text
    )
    assert "Version 3 stays fashion-mnist-lenet@champion: baseline: validation accuracy 20.00%" in text
    assert aliases(old) == {"challenger": 5, "champion": 3, "previous": 1}


def test_a_challenger_with_evidence_is_promoted(old):
    old.set_model_version_tag("fashion-mnist-lenet", "5", "confirm.p_value", "0.01")
    assert "Version 5 is now fashion-mnist-lenet@champion in place of version 3" in told(promote)
    assert aliases(old) == {"champion": 5, "previous": 3}
    assert "Version 5 stays fashion-mnist-lenet@champion: it was confirmed over 2 seeds" in told(promote)


def test_its_promotion_is_rolled_back_and_promoted_again_if_named(old):
    assert "Version 1 is now fashion-mnist-lenet@champion in place of" in told(promote, rollback=True)
    assert aliases(old) == {"challenger": 5, "champion": 1}
    told(promote, version=3)
    assert aliases(old) == {"challenger": 5, "champion": 3, "previous": 1}


def test_its_champion_is_evaluated(old, toy_files):
    job = EvaluationJob(model=registry.CHAMPION_URI, seed=3, hardware=Hardware(device="cpu"), data=toy_files)
    text = told(lambda reporter: evaluate(job, reporter))
    assert "baseline on test: accuracy 20.00% (95 % interval 11.83% to 31.78%), loss 3.4302" in text


def test_retraining_stands_beside_a_training_of_it(old, toy_files):
    recipe = variant_recipes(CONFIG)["baseline"]
    job = TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=toy_files)
    trained, evaluated = retrain(job)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":  # other instructions give other bits
        assert trained.model.weights_sha256 == RETRAINED  # as commit c940516 has retrained it
    assert trained.model.version == 6
    (run,) = old.search_runs(["1"], "attributes.run_name = 'baseline retrained on test'", max_results=1)
    assert run.data.tags["compared.run_id"] == BASELINE
    assert run.data.metrics["test/accuracy"] == evaluated.predictions.accuracy
