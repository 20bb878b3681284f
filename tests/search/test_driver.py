"""A whole search on toy images: trials, confirmation, challenger, promotion, interruption."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from conftest import as_logged, open_store
from searches import (
    CPU,
    Recorder,
    add_version,
    aliases,
    copy_of,
    poor_recipe,
    run_search,
    runs_of,
    set_champion,
    study_of,
    table,
)

from lenet_study.__main__ import main
from lenet_study.errors import DiskError, StoreError, UserError
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking.registry import version_with_alias
from lenet_study.tracking.store import NAME
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.data_files import DataFiles
from lenet_study.workflows.promote import promote
from lenet_study.workflows.train import TrainingJob, train

WHOLE = {"trials": 5, "max_epochs": 4, "confirm_seeds": 2}
TWO = {"trials": 2, "confirm_seeds": 2}
PICTURES = {"optimization_history.png", "search.html"}


@dataclass(frozen=True)
class CountedFiles(DataFiles):
    """Counts how often the test split is read, and may interrupt that."""

    reads: list = field(default_factory=list)
    interrupted: int = 0  # at this read, counting from 1

    def test(self):
        self.reads.append("test")
        if len(self.reads) == self.interrupted:
            raise KeyboardInterrupt
        return super().test()


def counted(files, interrupted=0) -> CountedFiles:
    sources = {"debian_folder": files.debian_folder, "sources": files.sources}
    return CountedFiles(files.folder, files.sha256, **sources, interrupted=interrupted)


@pytest.fixture(scope="module")
def finished(initialised_database, tmp_path_factory, toy_files):
    """A finished search beside a poor champion, and how often it read the test split."""
    folder = tmp_path_factory.mktemp("search")
    with open_store(initialised_database, folder) as client:
        files = counted(toy_files)
        set_champion(client, poor_recipe())
        run_search(files, **WHOLE)
        yield SimpleNamespace(client=client, folder=folder, reads=len(files.reads))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished search."""
    with copy_of(finished.folder, tmp_path) as client:
        yield client


@pytest.fixture(scope="module")
def interrupted(initialised_database, tmp_path_factory, toy_files):
    """A search whose confirmation was interrupted twice: its folder, and what the user was told."""
    folder = tmp_path_factory.mktemp("interrupted")
    with open_store(initialised_database, folder) as client:
        set_champion(client, poor_recipe())
        reporter = Recorder({2 + 4: KeyboardInterrupt()})
        with pytest.raises(KeyboardInterrupt):
            run_search(toy_files, reporter, **TWO)
        first = len(runs_of(client, "confirm", "FINISHED"))
        again = Recorder()
        with pytest.raises(KeyboardInterrupt):
            run_search(counted(toy_files, interrupted=3), again, **TWO)
        assert "challenger" not in aliases(client)
        yield SimpleNamespace(folder=folder, first=first, text=again.text)


def test_every_trial_is_a_nested_run_with_the_same_outcome(finished):
    (parent,) = runs_of(finished.client, "search")
    runs = {int(run.data.tags["trial"]): run for run in runs_of(finished.client, "trial")}
    trials = study_of(finished.folder).trials
    assert parent.info.status == "FINISHED"
    assert sorted(runs) == [trial.number for trial in trials] == list(range(5))
    for trial in trials:
        run = runs[trial.number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.run_id == trial.user_attrs["run_id"]
        assert run.data.metrics["parameter_count"] == trial.user_attrs["parameters"] <= 100_000
        if trial.state.name == "COMPLETE":
            assert run.info.status == "FINISHED"
            assert run.data.metrics["best/val_accuracy"] == trial.value
        else:
            assert (trial.state.name, run.info.status) == ("PRUNED", "KILLED")
            assert "HyperbandPruner ended it" in run.data.tags["pruned"]
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert [trial.user_attrs.get("variant") for trial in trials[:3]] == ["baseline", "v1", None]


def test_the_parent_shows_the_best_so_far_pictures_and_a_table(finished):
    (parent,) = runs_of(finished.client, "search")
    history = finished.client.get_metric_history(parent.info.run_id, "search/best_val_accuracy")
    assert [point.step for point in history] == list(range(1, 6))
    assert [point.value for point in history] == sorted(point.value for point in history)
    assert {file.path for file in finished.client.list_artifacts(parent.info.run_id)} >= PICTURES
    trials = table(finished.client, parent, "trials.csv")
    assert trials["number"].tolist() == list(range(5))
    assert trials["accuracy"].max() == history[-1].value
    assert "storage" not in parent.data.params  # it may hold a password
    expected = {"search_name": "toy", "trials": "5", "workers": "1", "threads": "1", "precision": "float32"}
    assert expected.items() <= parent.data.params.items()


def test_the_confirmation_pairs_seeds_and_reads_the_test_split_last(finished):
    (parent,) = runs_of(finished.client, "search")
    confirmed = table(finished.client, parent, "confirm.csv")
    runs = {run.info.run_id: run for run in runs_of(finished.client, "confirm")}
    assert confirmed["seed"].tolist() == [1, 2]  # not the search's own
    for side in ("challenger", "champion"):
        for row in confirmed.to_dict("records"):
            run = runs[row[f"{side}_run_id"]]
            assert run.data.metrics["best/val_accuracy"] == row[side]
            assert run.data.params["seed"] == str(row["seed"])
    mean = confirmed["challenger"].mean()
    assert parent.data.metrics["confirm/challenger_mean"] == pytest.approx(mean, abs=1e-12)
    evaluations = runs_of(finished.client, "evaluate")
    assert finished.reads == len(evaluations) == 4
    assert {run.data.tags["parent_work"] for run in evaluations} == {parent.info.run_id}
    assert not any("study" in run.data.tags for run in evaluations)
    last_training = max(run.info.end_time for run in runs.values())
    assert min(run.info.start_time for run in evaluations) >= last_training


def test_the_challenger_s_recipe_file_repeats_its_training_bit_for_bit(copied, toy_files):
    version = copied.get_model_version_by_alias(NAME, "challenger")
    path = mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/recipe.json")
    recipe = recipe_file.read(path, TrainingConfig(seed=int(version.tags["seed"])))
    job = TrainingJob(recipe=recipe, stage="recipe", hardware=CPU, data=toy_files, recipe_file=path)
    again = train(job)
    assert again.model.weights_sha256 == version.tags["weights.sha256"]
    run = copied.get_run(again.run_id)
    assert set(TrainingConfig().of_recipe) <= {name.removeprefix("recipe.") for name in run.data.params}
    trained = StoredTraining.load(version.run_id)
    assert trained.recipe.name == run.data.tags["variant"] == version.tags["variant"]


def test_the_same_command_finds_nothing_left_to_do(copied, toy_files):
    before = len(runs_of(copied, "trial"))
    text = run_search(toy_files, **WHOLE).text
    assert len(runs_of(copied, "trial")) == before
    assert "Search toy goes on after 5 trials" in text
    assert "was confirmed before" in text


def test_a_failed_trial_is_written_down_and_an_interrupted_one_is_repeated(store, tmp_path, toy_files):
    reporter = Recorder({2: ValueError("no luck"), 3: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_search(toy_files, reporter, trials=4)
    assert "trial 1 failed: ValueError: no luck" in reporter.text
    assert "Interrupted after 2 trials: the same command goes on" in reporter.text
    assert [run.info.status for run in runs_of(store, "search")] == ["KILLED"]
    assert [run.info.status for run in runs_of(store, "trial")] == ["FINISHED", "FAILED", "KILLED"]
    run_search(toy_files, trials=4)
    trials = study_of(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[3].params == trials[2].params  # the one that was interrupted, again
    assert [run.info.status for run in runs_of(store, "trial")][3:] == ["FINISHED", "FINISHED"]


def test_an_interrupted_confirmation_trains_only_what_is_missing(interrupted, tmp_path, toy_files):
    assert interrupted.first == 3
    assert interrupted.text.count("used again from run") == 3
    with copy_of(interrupted.folder, tmp_path) as client:
        assert len(runs_of(client, "confirm", "FINISHED")) == 4
        text = run_search(toy_files, **TWO).text
        assert text.count("used again from run") == 4
        runs = {run.info.run_id: run for run in runs_of(client, "confirm", "FINISHED")}
        assert len(runs) == 4
        confirmed = table(client, runs_of(client, "search")[-1], "confirm.csv")
        for side in ("challenger", "champion"):
            for row in confirmed.to_dict("records"):
                assert runs[row[f"{side}_run_id"]].data.metrics["best/val_accuracy"] == row[side]
        (version,) = client.search_model_versions(f"name = '{NAME}' and run_id IN {challengers(runs)}")
        assert client.get_model_version_by_alias(NAME, "challenger").version == version.version
        assert version.tags["confirm.comparisons"] == "1.0"
        evaluations = runs_of(client, "evaluate", "FINISHED")
        assert len(evaluations) == len({run.data.tags["model.run_id"] for run in evaluations}) == 4
        scores = {run.data.tags["model.run_id"]: run.data.metrics["test/accuracy"] for run in evaluations}
        for side in ("challenger", "champion"):
            expected = [scores[name] for name in confirmed[f"{side}_run_id"]]
            assert confirmed[f"{side}_test"].tolist() == expected


def challengers(runs):
    chosen = [f"'{name}'" for name, run in runs.items() if run.data.tags["confirm"] == "challenger"]
    return f"({', '.join(chosen)})"


def test_a_new_champion_is_compared_anew_and_the_evidence_renewed(copied, toy_files):
    first = copied.get_model_version_by_alias(NAME, "challenger")
    another = poor_recipe(learning_rate=0.00002)
    copied.set_registered_model_alias(NAME, "champion", str(add_version(copied, another)))
    text = run_search(toy_files, **WHOLE).text
    second = copied.get_model_version_by_alias(NAME, "challenger")
    assert second.version == first.version
    assert text.count("used again from run") == 2
    assert second.tags["confirm.champion_digest"] == another.fingerprint()
    assert first.tags["confirm.champion_digest"] == poor_recipe().fingerprint()
    assert second.tags["confirm.comparisons"] == "2.0"


def test_a_confirmation_does_again_what_cannot_be_used_and_counts_itself_once(
    interrupted, tmp_path, toy_files, request
):
    with copy_of(interrupted.folder, tmp_path) as client:
        compared = study_of(tmp_path).user_attrs["compared"]
        assert len(compared) == 1  # its outcome is known
        assert "confirmed" not in study_of(tmp_path).user_attrs

        lost, changed, elsewhere, _ = runs_of(client, "confirm", "FINISHED")
        history = Path(lost.info.artifact_uri.removeprefix("file://"), "history.csv")
        hidden = history.rename(history.with_suffix(".hidden"))
        request.addfinalizer(lambda: hidden.rename(history))
        client.set_tag(changed.info.run_id, "torchscript.sha256", "0" * 64)
        client.set_tag(elsewhere.info.run_id, "fingerprint", "of other packages")
        text = run_search(toy_files, **TWO).text
        assert len(runs_of(client, "confirm", "FINISHED")) == 4 + 3
        for run in (lost, changed):
            assert f"{run.info.run_name}: run {run.info.run_id} cannot be used again" in text
        assert text.count("used again from run") == 1
        assert study_of(tmp_path).user_attrs["compared"] == compared
        assert study_of(tmp_path).user_attrs["confirmed"] == compared


def test_runs_that_a_killed_container_has_left_are_closed(copied, toy_files):
    (search,) = runs_of(copied, "search")
    tags = {"search": search.data.tags["search"], "host": "0123456789ab"}
    left = [
        copied.create_run("1", tags=tags | {"stage": "confirm"}).info.run_id,
        copied.create_run("1", tags={"stage": "evaluate", "parent_work": search.info.run_id}).info.run_id,
    ]
    run_search(toy_files, **WHOLE)
    assert [copied.get_run(run).info.status for run in left] == ["FAILED", "FAILED"]


def test_a_store_that_fails_ends_the_search(store, toy_files):
    reporter = Recorder({1: OSError(28, "No space left on device")})
    with pytest.raises(DiskError, match="is full: make room there"):
        run_search(toy_files, reporter)
    assert [run.info.status for run in runs_of(store, "search")] == ["FAILED"]


class Destroyer(Recorder):
    """Overwrites Optuna's storage after the first epoch, before that is reported to it."""

    def on_epoch_end(self, name, epoch):
        Path("optuna.db").write_bytes(b"no database" * 1000)


def test_a_storage_that_fails_in_a_trial_ends_the_search(store, toy_files):
    with pytest.raises(StoreError, match=r"storage=sqlite:///optuna.db failed"):
        run_search(toy_files, Destroyer())
    assert {run.info.status for run in runs_of(store, "trial")} == {"FAILED"}


def test_a_search_without_a_complete_trial_says_so(store, toy_files):
    reporter = Recorder({1: ZeroDivisionError()})
    run_search(toy_files, reporter, trials=1, confirm_seeds=2)
    assert "Trials: 1 fail, 1 waiting. None was trained to its end: let it have more" in reporter.text
    assert "Empty DataFrame" not in reporter.text


def test_two_objectives_show_their_front(store, toy_files):
    run_search(toy_files, trials=2, objectives="accuracy,parameters")
    (parent,) = runs_of(store, "search")
    names = {file.path for file in store.list_artifacts(parent.info.run_id)}
    assert names >= PICTURES | {"pareto_front.png"}
    assert {run.info.status for run in runs_of(store, "trial")} == {"FINISHED"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_parameters": 500}, "max_parameters=500 is below the smallest model"),
        (
            {"storage": "postgresql://me:secret@127.0.0.1:1/none"},
            "storage=postgresql://127.0.0.1:1/none cannot be used",
        ),
        ({"storage": "optuna.db"}, "storage is no address"),
        ({"storage": "sqlite:////sys/optuna.db"}, "storage=sqlite:////sys/optuna.db cannot be used"),
    ],
    ids=["budget", "unreachable", "no-address", "not-writable"],
)
def test_bad_input_is_one_sentence_and_makes_no_run(changed, message, store, toy_files):
    with pytest.raises(UserError, match=message) as caught:
        run_search(toy_files, **changed)
    assert "secret" not in str(caught.value)
    assert store.search_experiments(filter_string=f"name = '{NAME}'") == []


def test_a_budget_below_the_smallest_model_is_refused_on_the_command_line(store, capsys):
    assert main(["search", "--max-parameters", "500", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "max_parameters=500 is below the smallest model" in error
    assert "Traceback" not in error


def test_another_space_under_the_same_name_is_refused(copied, toy_files):
    with pytest.raises(UserError, match=r"search_name=toy was begun with max_parameters=100000"):
        run_search(toy_files, **WHOLE, max_parameters=90_000)


def challenger_of(store, p_value, against="v4", parity="passed"):
    """A version that a search has confirmed."""
    run = store.create_run("0", run_name="toy-7", tags={"variant": "toy-7"}).info.run_id
    tags = {
        "variant": "toy-7",
        "parity": parity,
        "confirm.seeds": "3.0",
        "confirm.p_value": str(p_value),
        "confirm.challenger_mean": "0.93",
        "confirm.champion_mean": "0.92",
        "confirm.champion": "v4",
        "confirm.champion_digest": against,
    }
    store.set_tag(run, "parity", parity)
    store.log_metric(run, "best/val_accuracy", 0.93)
    version = store.create_model_version(NAME, f"runs:/{run}/model", run, tags=tags).version
    store.set_registered_model_alias(NAME, "challenger", version)
    return int(version)


@pytest.fixture
def champion(store):
    """A champion of the plain rule: version 1, a v4; gives the fingerprint of its recipe."""
    set_champion(store, variant_recipes(TrainingConfig())["v4"])
    return StoredTraining.load(version_with_alias("champion").run_id).recipe.fingerprint()


def promoted() -> str:
    """What a promotion tells the user."""
    reporter = Recorder()
    promote(reporter=reporter, check=as_logged)
    return reporter.text


def test_a_challenger_with_evidence_becomes_champion_and_stays(store, champion):
    challenger_of(store, 0.01, champion)
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert "mean validation accuracy 93.00% over 3 seeds, v4 92.00% over the same" in text
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert "it was confirmed over 3 seeds" in text


@pytest.mark.parametrize(
    ("p_value", "against", "parity", "message"),
    [
        (0.2, None, "passed", "p = 0.2 over 3 seeds"),
        (0.01, "another", "passed", "compared with v4, which is not the champion any more"),
        (0.01, None, "failed", "does not equal the trained one"),
    ],
    ids=["chance", "other-champion", "export"],
)
def test_a_challenger_without_evidence_is_not_promoted(store, champion, p_value, against, parity, message):
    challenger_of(store, p_value, against or champion, parity)
    text = promoted()
    assert aliases(store) == {"champion": 1, "challenger": 2}
    assert message in text
