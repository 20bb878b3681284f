"""The whole study on toy images, in a real store: what each entry point computes and logs."""

import json
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TRAINING_ARTIFACTS, Recorder, add_training, open_store

from lenet_study.errors import JobError, StoreError, UserError
from lenet_study.evidence.figures.style import COLOURS
from lenet_study.evidence.scorecard import scorecard
from lenet_study.execution.executor import Monitor
from lenet_study.execution.inline import InlineExecutor
from lenet_study.recipes.recipe import Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.tracking import registry
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.tracking.study_results import latest_study, study_results
from lenet_study.training import dataset
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.training.history import Epoch
from lenet_study.workflows.data import verify_data
from lenet_study.workflows.evaluate import EvaluationJob, evaluate
from lenet_study.workflows.kfold import kfold, kfold_side_by_side
from lenet_study.workflows.promote import promote
from lenet_study.workflows.retrain import RetrainingJob, retrain
from lenet_study.workflows.study import select, study
from lenet_study.workflows.train import TrainingJob, TrainingResult, train

CONFIG = TrainingConfig(epochs=2, batch_size=16, learning_rate=0.002, seed=3)
RECIPES = variant_recipes(CONFIG)
CPU = Hardware(device="cpu")
EVALUATION_ARTIFACTS = {
    "per_class.csv",
    "predictions.csv",
    "confusion_matrix.png",
    "predictions.png",
    "auxiliary.png",
    "tsne.png",
    "embedding.csv",
}


class CountingFiles(DataFiles):
    """Tells how often the test split was read."""

    reads = 0

    def test(self):
        CountingFiles.reads += 1
        return super().test()


@pytest.fixture(scope="module")
def finished(initialised_database, tmp_path_factory, toy_files):
    """A finished study with two folds, and how often it read the test split."""
    folder = tmp_path_factory.mktemp("study")
    files = CountingFiles(**vars(toy_files))
    recorder = Recorder()
    with open_store(initialised_database, folder) as client:
        result = study(CONFIG, folds=2, hardware=CPU, workers=1, data=files, reporter=recorder)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
        yield SimpleNamespace(
            client=client,
            runs={run.info.run_name: run for run in runs if run.data.tags["stage"] != "history"},
            test_reads=CountingFiles.reads,
            result=result,
            text=recorder.text,
            job=TrainingJob(recipe=RECIPES["baseline"], hardware=CPU, data=toy_files),
        )


def run_of(finished, stage, **tags):
    (run,) = (
        run
        for run in finished.runs.values()
        if run.data.tags["stage"] == stage and tags.items() <= run.data.tags.items()
    )
    return run


def chosen_of(finished) -> str:
    return run_of(finished, "retrain").data.tags["variant"]


def latest_run(finished, name):
    named = f"attributes.run_name = '{name}'"
    return finished.client.search_runs(["1"], named, order_by=["attributes.start_time DESC"])[0]


def artifacts(finished, run) -> set[str]:
    return {file.path for file in finished.client.list_artifacts(run.info.run_id)}


def table(finished, run, name) -> pd.DataFrame:
    path = finished.client.download_artifacts(run.info.run_id, name)
    return pd.read_csv(path)


def test_every_run_is_finished_and_belongs_to_the_study(finished):
    the_study = run_of(finished, "study")
    chosen = chosen_of(finished)
    assert set(finished.runs) == {
        *VARIANTS,
        "study",
        f"{chosen} retrained",
        f"{chosen} on test",
        f"{chosen} retrained on test",
        f"{chosen} 2-fold",
        f"{chosen} fold 1/2",
        f"{chosen} fold 2/2",
    }
    for run in finished.runs.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["study"] == the_study.info.run_id


def test_the_study_is_read_back_as_claims_and_report_want_it(finished):
    the_study, chosen = run_of(finished, "study").info.run_id, chosen_of(finished)
    assert latest_study() == the_study
    results = study_results(the_study)
    assert (results.run_id, results.selected, results.missing) == (the_study, chosen, ())
    stages = results.trainings["stage"].value_counts().to_dict()
    assert stages == {"train": 5, "fold": 2, "retrain": 1}
    assert (results.trainings["seed"] == CONFIG.seed).all()
    assert set(results.predictions) == set(results.evaluations["model_run_id"])
    assert len(results.predictions) == 2
    assert set(results.histories) == set(results.trainings.index)
    card = scorecard(results)
    assert (card.seeds, len(card.caveats)) == (1, 3)  # toy epochs, batches and learning rate
    assert {judged.verdict for judged in card.judged if judged.claim.kind == "structure"} == {"reproduced"}


def test_only_folds_are_nested(finished):
    parent = run_of(finished, "kfold").info.run_id
    for run in finished.runs.values():
        expected = parent if run.data.tags["stage"] == "fold" else None
        assert run.data.tags.get("mlflow.parentRunId") == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_logs_parameters_metrics_pictures_and_colour(finished, variant):
    run = finished.runs[variant]
    chosen = {"variant": variant, "data_dir": str(finished.job.data.folder)}  # what is empty is not logged
    expected = {**chosen, **asdict(CONFIG), **asdict(CPU)}
    of_model = {name: value for name, value in run.data.params.items() if name.startswith("variant.")}
    assert run.data.params == {**{name: str(value) for name, value in expected.items()}, **of_model}
    assert of_model["variant.channels"] == str(VARIANTS[variant].channels)
    assert "variant.augmentation.flip" not in of_model  # the same for all: its recipe file has it
    assert run.data.metrics["parameter_count"] == parameter_count(VARIANTS[variant])
    assert artifacts(finished, run) >= TRAINING_ARTIFACTS
    history = table(finished, run, "history.csv")
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate"):
        logged = finished.client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in logged] == [1, 2]
        column = metric.replace("/", "_")
        assert [point.value for point in logged] == pytest.approx(history[column].tolist(), abs=0)
    best = history.loc[history.val_accuracy.idxmax()]
    assert run.data.metrics["best/epoch"] == best.epoch
    assert run.data.metrics["best/val_accuracy"] == best.val_accuracy
    assert 0 < run.data.metrics["best/val_accuracy_augmented"] <= 1
    assert run.data.tags["mlflow.runColor"] == COLOURS[variant]


def test_dataset_inputs_carry_the_full_digests(finished):
    train_split = finished.job.data.train()
    rows, held_out = dataset.split(train_split.labels, CONFIG.seed)
    inputs = finished.runs["v2"].inputs.dataset_inputs
    digests = {tag.value for item in inputs for tag in item.tags if tag.key == "sha256"}
    assert digests == {train_split.subset(rows).digest(), train_split.subset(held_out).digest()}


def test_the_best_validation_accuracy_is_chosen(finished):
    accuracies = {name: finished.runs[name].data.metrics["best/val_accuracy"] for name in VARIANTS}
    assert chosen_of(finished) == max(VARIANTS, key=lambda name: accuracies[name])


def test_the_test_split_is_read_by_evaluations_and_the_report_alone(finished):
    # Before, beside the retrained, retrained; then the report shows images.
    assert finished.test_reads == 3 + 1


@pytest.mark.parametrize("suffix", ["", " retrained"])
def test_an_evaluation_logs_scores_pictures_and_tables(finished, suffix):
    name = f"{chosen_of(finished)}{suffix}"
    run = finished.runs[f"{name} on test"]
    assert artifacts(finished, run) >= EVALUATION_ARTIFACTS
    predictions = table(finished, run, "predictions.csv")
    assert len(predictions) == len(finished.job.data.test())
    accuracy = (predictions.true == predictions.predicted).mean()
    assert run.data.metrics["test/accuracy"] == pytest.approx(accuracy)
    assert run.data.metrics["test/accuracy_low"] < accuracy < run.data.metrics["test/accuracy_high"] + 1e-9
    assert run.data.tags["model.run_id"] == finished.runs[name].info.run_id
    assert run.data.tags["weights.sha256"] == finished.runs[name].data.tags["weights.sha256"]


def test_the_retrained_model_is_compared_with_the_one_before(finished):
    chosen = chosen_of(finished)
    assert "confusion_comparison.png" in artifacts(finished, finished.runs[f"{chosen} retrained on test"])
    assert "confusion_comparison.png" not in artifacts(finished, finished.runs[f"{chosen} on test"])


def test_retraining_sees_all_images_for_the_same_epochs_and_keeps_the_last(finished):
    run = run_of(finished, "retrain")
    assert run.data.tags["dataset.train.sha256"] == finished.job.data.train().digest()
    assert run.data.metrics["best/epoch"] == CONFIG.epochs
    assert not any(name.startswith(("val/", "best/val")) for name in run.data.metrics)


def test_k_fold_summarises_the_best_epochs(finished):
    chosen, parent = chosen_of(finished), run_of(finished, "kfold")
    folds = [finished.runs[f"{chosen} fold {number}/2"] for number in (1, 2)]
    values = [fold.data.metrics["best/val_accuracy"] for fold in folds]
    assert parent.data.metrics["kfold/val_accuracy_mean"] == pytest.approx(np.mean(values))
    assert parent.data.metrics["kfold/val_accuracy_std"] == pytest.approx(np.std(values, ddof=1))
    augmented = [fold.data.metrics["best/val_accuracy_augmented"] for fold in folds]
    assert parent.data.metrics["kfold/val_accuracy_augmented_mean"] == pytest.approx(np.mean(augmented))
    assert artifacts(finished, parent) >= {"folds.csv", "curves.png"}


def test_fold_models_are_logged_but_not_registered(finished):
    versions = finished.client.search_model_versions("name = 'fashion-mnist-lenet'")
    registered = {version.run_id for version in versions}
    trained = {run.info.run_id for run in finished.runs.values() if run.data.tags["stage"] == "train"}
    assert registered == trained | {run_of(finished, "retrain").info.run_id}
    for number in (1, 2):
        fold = finished.runs[f"{chosen_of(finished)} fold {number}/2"]
        assert registry.load_model(fold.info.run_id).weights_sha256 == fold.data.tags["weights.sha256"]


def test_the_best_model_is_champion_and_says_why(finished):
    champion = finished.client.get_model_version_by_alias("fashion-mnist-lenet", "champion")
    assert champion.run_id == finished.runs[chosen_of(finished)].info.run_id
    assert "validation accuracy" in champion.tags["promoted.reason"]


def test_the_comparison_stands_beside_the_published_figures(finished):
    run = run_of(finished, "study")
    assert artifacts(finished, run) >= {"comparison.csv", "comparison.png", "seconds.csv", "candidates.csv"}
    comparison = table(finished, run, "comparison.csv").set_index("training")
    chosen = chosen_of(finished)
    assert list(comparison.index) == [*VARIANTS, f"{chosen}-retrained", f"{chosen}-kfold-mean"]
    assert comparison.val_accuracy_augmented_published["v4"] == 0.926
    for variant in VARIANTS:
        augmented = finished.runs[variant].data.metrics["best/val_accuracy_augmented"]
        assert comparison.val_accuracy_augmented[variant] == pytest.approx(augmented)
    evaluated = finished.runs[f"{chosen} on test"].data.metrics["test/accuracy"]
    assert comparison.test_accuracy[chosen] == pytest.approx(evaluated)
    jobs = table(finished, run, "seconds.csv")
    assert len(jobs) == len(VARIANTS) + 1 + 2 + 2  # retraining has its own evaluation
    assert (jobs.seconds > 0).all()


def test_the_study_names_the_addresses_of_its_trainings(finished):
    tags = run_of(finished, "study").data.tags
    assert "viewStateShareKey=lenet-five" in tags["address.curves"]
    for variant in VARIANTS:
        assert finished.runs[variant].info.run_id in tags["address.comparison"]
    assert finished.text.count(tags["address.curves"]) == 1  # at the end
    assert finished.text.count(tags["address.comparison"]) == 1


def test_the_study_tells_its_selection_and_its_champion(finished):
    chosen = chosen_of(finished)
    assert finished.result.selected == chosen
    assert f"Selected on validation accuracy: {chosen}\n" in finished.text
    assert "is now fashion-mnist-lenet@champion" in finished.text


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_training_gave_is_read_back_from_its_run(finished, variant):
    trained = finished.result.trained[variant][CONFIG.seed]
    stored = StoredTraining.load(trained.run_id)
    assert replace(TrainingResult.of(stored), seconds=trained.seconds) == trained
    assert 0 < stored.seconds < trained.seconds + 1
    assert stored.recipe == RECIPES[variant]


@pytest.fixture(scope="module")
def repeated(finished):
    """What the selected variant tells when it is trained, cross-validated and retrained alone once more."""
    job = replace(finished.job, recipe=RECIPES[chosen_of(finished)])
    recorder = Recorder()
    train(job, recorder)
    kfold_side_by_side(replace(job, folds=2), 1, recorder)
    retrain(job, recorder)
    return recorder.text


def test_every_training_workflow_repeats_its_weights_bit_for_bit(finished, repeated):
    """Alone, each workflow gives the weights that it gave within the study."""
    runs = finished.client.search_runs(["1"], f"tags.variant = '{chosen_of(finished)}'")
    for stage in ("train", "fold", "retrain"):
        of_stage = [run for run in runs if run.data.tags["stage"] == stage]
        weights = {(run.info.run_name, run.data.tags["weights.sha256"]) for run in of_stage}
        assert len(of_stage) == 2 * len(weights)


def test_retraining_is_compared_with_the_best_training_of_the_variant(finished, repeated):
    assert "no finished training" not in repeated
    chosen = chosen_of(finished)
    latest = latest_run(finished, f"{chosen} retrained on test")
    assert "study" not in latest.data.tags
    assert latest.data.tags["compared.run_id"] == finished.runs[chosen].info.run_id
    assert "confusion_comparison.png" in artifacts(finished, latest)


def test_retraining_without_a_former_training_says_so(store, toy_files):
    recorder = Recorder()
    retrain(TrainingJob(recipe=RECIPES["baseline"], hardware=CPU, data=toy_files), recorder)
    assert "no finished training of baseline to compare with; `train` makes one" in recorder.text
    (latest,) = store.search_runs(["1"], "tags.stage = 'evaluate'")
    assert latest.info.run_name == "baseline retrained on test"
    assert "compared.run_id" not in latest.data.tags
    assert "confusion_comparison.png" not in {file.path for file in store.list_artifacts(latest.info.run_id)}


def test_a_former_training_that_cannot_be_read_is_refused_before_retraining(finished, tmp_path):
    damaged = tmp_path / "model.pth"
    damaged.write_bytes(b"no model")
    before = len(finished.client.search_runs(["1"]))
    with pytest.raises(UserError, match="not a TorchScript file"):
        InlineExecutor(Recorder()).submit(RetrainingJob(training=finished.job, former=str(damaged))).result()
    assert len(finished.client.search_runs(["1"])) == before


def test_any_model_can_be_evaluated_from_its_file(finished, tmp_path):
    run = finished.runs["baseline"]
    folder = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/model", dst_path=str(tmp_path))
    evaluate(EvaluationJob(model=f"{folder}/data/model.pth", hardware=CPU, data=finished.job.data))
    latest = latest_run(finished, "baseline on test")
    assert latest.data.params["model"].endswith("model.pth")
    assert latest.data.tags["weights.sha256"] == run.data.tags["weights.sha256"]
    assert json.loads(registry.load_model(run.info.run_id).module.description)["variant"] == "baseline"


class Failing(InlineExecutor):
    """Trainings of these names end with an error before they start."""

    def __init__(self, reporter, *names):
        super().__init__(reporter)
        self.names = names

    def submit(self, job, monitor=None):
        training = replace(job.training, stage="retrain") if isinstance(job, RetrainingJob) else job
        if isinstance(training, TrainingJob) and training.name in self.names:
            job = Refused(f"no space left for {training.name}")
        return super().submit(job)


class Refused:
    def __init__(self, reason):
        self.reason = reason

    def run(self, reporter, monitor):
        raise OSError(self.reason)


def quick_study(files, *failing, variants=("baseline",), recorder=None):
    """A study of few variants, some jobs of which fail."""
    return study(
        CONFIG,
        folds=2,
        hardware=CPU,
        data=files,
        variants=variants,
        reporter=recorder or Recorder(),
        make_executor=lambda workers, reporter: Failing(reporter, *failing),
    )


def test_a_study_passes_over_what_must_not_be_promoted_and_keeps_its_report(store, toy_files):
    run_id = add_training(store, "older", 1.0, registered=False, variant="baseline")
    failing = ("baseline retrained", "baseline fold 1/2", "baseline fold 2/2")  # which saves their time
    recorder = Recorder()
    with pytest.raises(JobError, match="Parts of the study failed"):
        quick_study(toy_files, *failing, recorder=recorder)
    assert f"older (run {run_id}) is passed over: it has no registered model" in recorder.text
    (run,) = store.search_runs(["1"], "tags.stage = 'study'")
    assert run.info.status == "FAILED"
    files = {file.path for file in store.list_artifacts(run.info.run_id)}
    assert files >= {"comparison.csv", "comparison.png", "seconds.csv"}
    assert "address.curves" in run.data.tags


def test_a_study_goes_on_without_what_failed(store, toy_files):
    recorder, failing = Recorder(), ("v1", "baseline retrained", "baseline fold 1/2")
    with pytest.raises(JobError, match=r"\(v1, fold 1, 2-fold, baseline retrained\): the same command"):
        quick_study(toy_files, *failing, variants=("baseline", "v1"), recorder=recorder)
    assert "v1 failed: no space left for v1" in recorder.text
    (run,) = store.search_runs(["1"], "tags.stage = 'study'")
    assert run.info.status == "FAILED"
    assert "no space left for v1" in run.data.tags["failed"]
    (kfold_run,) = store.search_runs(["1"], "tags.stage = 'kfold'")
    assert kfold_run.info.status == "FAILED"
    path = store.download_artifacts(run.info.run_id, "comparison.csv")
    assert list(pd.read_csv(path).training) == ["baseline"]


def test_a_study_without_any_training_fails(store, toy_files):
    with pytest.raises(JobError, match="None of the variants"):
        quick_study(toy_files, "baseline")
    (run,) = store.search_runs(["1"])
    assert run.info.status == "FAILED"


def test_a_cross_validation_says_over_how_many_folds_its_mean_is(store, toy_files):
    recorder = Recorder()
    job = TrainingJob(recipe=RECIPES["baseline"], hardware=CPU, data=toy_files, folds=3)
    with pytest.raises(JobError, match="baseline 3-fold: 1 of 3 folds failed: the same command does them"):
        kfold(job, Failing(recorder, "baseline fold 2/3"))
    assert "over 2 folds" in recorder.text
    (run,) = store.search_runs(["1"], "tags.stage = 'kfold'")
    assert run.data.metrics["kfold/folds"] == 2
    folds = pd.read_csv(store.download_artifacts(run.info.run_id, "folds.csv"))
    assert list(folds.fold) == ["fold 1", "fold 3"]


class Impatient(Monitor):
    """Ends a training after its second epoch."""

    def on_epoch_end(self, epoch):
        return f"others are better than {epoch.val_accuracy:.0%}" if epoch.epoch == 2 else None


def test_a_pruned_training_keeps_its_history_and_has_no_model(store, toy_files):
    recorder = Recorder()
    recipe = variant_recipes(replace(CONFIG, epochs=5))["v1"]
    job = TrainingJob(recipe=recipe, stage="trial", hardware=CPU, data=toy_files)
    result = train(job, recorder, Impatient())
    assert "others are better" in result.pruned
    assert result.model is None
    assert [epoch.epoch for epoch in result.history] == [1, 2]
    assert result.best in result.history
    stored = StoredTraining.load(result.run_id)
    assert (stored.status, stored.tag(Tag.PRUNED)) == ("KILLED", result.pruned)
    assert stored.tag(Tag.FAILURE_REASON) == ""
    assert stored.history == result.history
    assert stored.best == result.best
    assert stored.metric(Metric.BEST_VAL_ACCURACY) == result.best.val_accuracy
    with pytest.raises(StoreError, match="no logged model"):
        stored.model_uri  # noqa: B018
    assert {file.path for file in store.list_artifacts(result.run_id)} >= TRAINING_ARTIFACTS
    assert store.search_model_versions() == []
    assert [name for name, *_ in recorder.events] == ["on_run_start", *["on_epoch_end"] * 2, "on_run_end"]


def test_a_training_that_fails_is_failed_and_its_bar_goes(store, toy_files):
    class Broken(Monitor):
        def on_epoch_end(self, epoch):
            raise OSError("the cable is out")

    recorder = Recorder()
    with pytest.raises(OSError, match="the cable is out"):
        train(TrainingJob(recipe=RECIPES["baseline"], hardware=CPU, data=toy_files), recorder, Broken())
    (run,) = store.search_runs(["1"])
    assert (run.info.status, run.data.tags["failure.reason"]) == ("FAILED", "the cable is out")
    assert recorder.events[-1] == ("on_run_end", "baseline")


def test_a_model_of_a_recipe_file_is_no_candidate_for_promotion(store, toy_files):
    slim = Recipe(name="slim", variant=replace(VARIANTS["v1"], channels=(4, 8)), config=CONFIG)
    result = train(TrainingJob(recipe=slim, hardware=CPU, data=toy_files, recipe_file="slim.json"))
    stored = StoredTraining.load(result.run_id)
    assert (stored.stage, stored.variant) == ("recipe", "slim")
    assert stored.params["recipe"] == "slim.json"
    assert stored.params["recipe.learning_rate"] == "0.002"
    assert "Its recipe file decides" in store.get_run(result.run_id).data.tags["mlflow.note.content"]
    assert result.model.version == 1
    with pytest.raises(UserError, match="no finished training to promote"):
        promote()


def test_too_many_folds_are_refused_before_there_is_a_run(store, toy_files):
    job = TrainingJob(recipe=RECIPES["baseline"], hardware=CPU, data=toy_files, folds=21)
    with pytest.raises(UserError, match="folds=21 does not fit the 20 images of the rarest class"):
        kfold_side_by_side(job, workers=1)
    with pytest.raises(UserError, match="folds=21 does not fit the 20 images of the rarest class"):
        study(CONFIG, folds=21, hardware=CPU, workers=1, data=toy_files)
    assert store.search_experiments(filter_string="name = 'fashion-mnist-lenet'") == []


def test_verified_data_says_where_it_is(toy_files):
    recorder = Recorder()
    verify_data(toy_files, recorder)
    assert f"Fashion-MNIST is in {toy_files.folder}; all four files" in recorder.text
    damaged = replace(toy_files, sha256=dict.fromkeys(toy_files.sha256, "0" * 64))
    with pytest.raises(UserError, match="wrong SHA-256"):
        verify_data(damaged)


def test_select_takes_the_first_on_a_tie():
    def trained(accuracy):
        epoch = Epoch(
            epoch=1,
            learning_rate=0.1,
            train_loss=1.0,
            train_accuracy=0.5,
            val_loss=1.0,
            val_accuracy=accuracy,
            seconds=1.0,
        )
        return TrainingResult("a run", epoch, [epoch], None, 1.0, None)

    options = {"baseline": {0: trained(0.5)}, "v1": {0: trained(0.7)}, "v2": {0: trained(0.7)}}
    assert select(options) == "v1"


def test_select_compares_means_over_seeds():
    def trained(*accuracies):
        epoch = partial(
            Epoch, epoch=1, learning_rate=0.1, train_loss=1.0, train_accuracy=0.5, val_loss=1.0, seconds=1.0
        )
        epochs = [epoch(val_accuracy=accuracy) for accuracy in accuracies]
        return {
            seed: TrainingResult("a run", each, [each], None, 1.0, None) for seed, each in enumerate(epochs)
        }

    assert select({"v1": trained(0.9, 0.5), "v2": trained(0.7, 0.8)}) == "v2"
