"""A whole search on toy images: trials, confirmation, challenger, promotion, interruption."""

from pathlib import Path
from types import SimpleNamespace

import mlflow
import optuna
import pandas as pd
import pytest
from conftest import open_store, toy_split

from lenet_study.__main__ import main
from lenet_study.errors import StoreError, UserError
from lenet_study.recipes.recipe import CONFIG
from lenet_study.search import driver as search
from lenet_study.search import trials as ledger
from lenet_study.tracking import registry
from lenet_study.tracking.run import NAME
from lenet_study.training import fashion_mnist as data
from lenet_study.training import loop as training
from lenet_study.workflows import promote, train

TRAIN, TEST = toy_split(200, seed=1), toy_split(60, seed=2)
MACHINE = {"device": "cpu", "threads": 1, "data_dir": ""}
OPTIONS = {
    "trials": 8,
    "timeout": 0,
    "study_name": "toy",
    "storage": "sqlite:///optuna.db",
    "objectives": "accuracy",
    "max_parameters": 100_000,  # of the five, baseline and v1 are within it
    "max_epochs": 2,
    "sampler": "TPESampler",
    "pruner": "HyperbandPruner",
    "confirm_seeds": 2,
    "seed": 0,
    "precision": "float32",
    **MACHINE,
    "workers": 1,
}
PICTURES = {"optimization_history.png", "parallel_coordinate.png", "slice.png", "search.html"}


def toy_images(patch, readers=None):
    patch.setattr(data, "load_train", lambda folder: TRAIN)
    patch.setattr(data, "load_test", lambda folder: (readers is not None and readers.append("test")) or TEST)


@pytest.fixture(scope="module")
def finished(initialised_database, tmp_path_factory):
    """A finished search beside a poor champion, and how often it read the test split."""
    folder = tmp_path_factory.mktemp("search")
    with open_store(initialised_database, folder) as client, pytest.MonkeyPatch.context() as patch:
        readers = []
        toy_images(patch, readers)
        set_champion(client, variant="baseline", epochs="1", learning_rate="0.00001")
        search.main(**OPTIONS)
        yield SimpleNamespace(client=client, folder=folder, readers=len(readers))


def set_champion(client, variant, **params):
    """Make a training that no command has made the champion."""
    tags = {"stage": "train", "variant": variant, "parity": "passed"}
    run = client.create_run("0", run_name=variant, tags=tags).info.run_id
    for name, value in {"seed": "0", **params}.items():
        client.log_param(run, name, value)
    client.log_metric(run, "best/val_accuracy", 0.92)
    client.set_terminated(run)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, f"runs:/{run}/model", run)
    promote.main(rollback=False)


@pytest.fixture
def toy(store, monkeypatch):
    toy_images(monkeypatch)
    return store


def runs_of(client, stage):
    return client.search_runs(["1"], f"tags.stage = '{stage}'", order_by=["attributes.start_time ASC"])


def trials_of(folder):
    return optuna.load_study(study_name="toy", storage=f"sqlite:///{folder}/optuna.db").trials


def table(client, run, name):
    return pd.read_csv(client.download_artifacts(run.info.run_id, name))


def test_every_trial_is_a_nested_run_with_the_same_outcome(finished):
    (parent,) = runs_of(finished.client, "search")
    runs = {int(run.data.tags["trial"]): run for run in runs_of(finished.client, "trial")}
    trials = trials_of(finished.folder)
    assert parent.info.status == "FINISHED"
    assert sorted(runs) == [trial.number for trial in trials] == list(range(8))
    for trial in trials:
        run = runs[trial.number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.run_id == trial.user_attrs["run_id"]
        assert run.data.metrics.get("parameters", trial.user_attrs["parameters"]) <= 100_000
        if trial.state.name == "COMPLETE":
            assert run.info.status == "FINISHED"
            assert run.data.metrics["best/val_accuracy"] == trial.value
        else:
            assert (trial.state.name, run.info.status) == ("PRUNED", "KILLED")
            assert "HyperbandPruner ended it" in run.data.tags["pruned"]
    assert [trial.user_attrs.get("variant") for trial in trials[:3]] == ["baseline", "v1", None]


def test_the_parent_shows_the_best_so_far_pictures_and_a_table(finished):
    (parent,) = runs_of(finished.client, "search")
    history = finished.client.get_metric_history(parent.info.run_id, "search/best_val_accuracy")
    assert [point.step for point in history] == list(range(1, 9))
    assert [point.value for point in history] == sorted(point.value for point in history)
    assert {file.path for file in finished.client.list_artifacts(parent.info.run_id)} >= PICTURES
    trials = table(finished.client, parent, "trials.csv")
    assert trials["number"].tolist() == list(range(8))
    assert trials["accuracy"].max() == history[-1].value
    assert "storage" not in parent.data.params  # it may hold a password


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
    assert finished.readers == len(evaluations) == 4
    last_training = max(run.info.end_time for run in runs.values())
    assert min(run.info.start_time for run in evaluations) >= last_training


def test_the_challenger_s_spec_file_repeats_its_training_bit_for_bit(finished, monkeypatch):
    version = finished.client.get_model_version_by_alias(NAME, "challenger")
    path = mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/spec.json")
    seed = int(version.tags["seed"])
    toy_images(monkeypatch)
    defaults = {"epochs": 15, "batch_size": 32, "learning_rate": 0.001, "auxiliary": "probe"}
    config = {**defaults, "auxiliary_weight": 0.3, "seed": seed, "precision": "float32"}
    train.main(variant="v4", spec=path, **config, **MACHINE)
    (again,) = runs_of(finished.client, "spec")
    assert again.data.tags["weights.sha256"] == version.tags["weights.sha256"]
    assert set(CONFIG) <= {name.removeprefix("spec.") for name in again.data.params}
    assert registry.recipe_of(version).name == again.data.tags["variant"] == version.tags["variant"]


def test_the_same_command_finds_nothing_left_to_do(finished, monkeypatch, capsys):
    toy_images(monkeypatch)
    before = len(runs_of(finished.client, "trial"))
    search.main(**OPTIONS)
    assert len(runs_of(finished.client, "trial")) == before
    output = capsys.readouterr().out
    assert "Search toy goes on after 8 trials" in output
    assert "was confirmed before" in output


def test_a_failed_trial_is_written_down_and_the_search_goes_on(toy, tmp_path, monkeypatch, capsys):
    fit, calls = training.fit, []

    def sometimes(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("no luck")
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", sometimes)
    search.main(**{**OPTIONS, "trials": 3, "confirm_seeds": 0})
    assert [trial.state.name for trial in trials_of(tmp_path)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [run.info.status for run in runs_of(toy, "trial")] == ["FINISHED", "FAILED", "FINISHED"]
    assert "trial 1 failed: ValueError: no luck" in capsys.readouterr().out


def test_an_interrupted_search_says_how_to_go_on_and_goes_on(toy, tmp_path, monkeypatch, capsys):
    fit, calls = training.fit, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", interrupted)
    options = {**OPTIONS, "trials": 4, "confirm_seeds": 0}
    with pytest.raises(KeyboardInterrupt):
        search.main(**options)
    assert "Interrupted after 2 trials: the same command goes on" in capsys.readouterr().out
    assert [run.info.status for run in runs_of(toy, "search")] == ["KILLED"]
    search.main(**options)
    trials = trials_of(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL", *["COMPLETE"] * 2]
    assert trials[3].params == trials[2].params  # the one that was interrupted, again
    assert {run.info.status for run in runs_of(toy, "trial")} == {"FINISHED", "KILLED"}


@pytest.mark.parametrize("ended_by", ["the fourth training", "the third evaluation"])
def test_an_interrupted_confirmation_trains_only_what_is_missing(ended_by, toy, monkeypatch, capsys):
    options = {**OPTIONS, "trials": 3}
    search.main(**{**options, "confirm_seeds": 0})
    set_champion(toy, variant="baseline", epochs="1", learning_rate="0.00001")
    calls = []

    def interrupt_at(function, call):
        def until(*arguments, **keywords):
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return function(*arguments, **keywords)

        return until

    with monkeypatch.context() as patch:
        if ended_by == "the fourth training":
            patch.setattr(training, "fit", interrupt_at(training.fit, 4))
        else:
            patch.setattr(data, "load_test", interrupt_at(data.load_test, 3))
        with pytest.raises(KeyboardInterrupt):
            search.main(**options)
    assert "challenger" not in aliases(toy)
    done = {run.info.run_id: run for run in runs_of(toy, "confirm") if run.info.status == "FINISHED"}
    assert len(done) == (3 if ended_by == "the fourth training" else 4)

    capsys.readouterr()
    search.main(**options)
    assert f"Trainings finished before: {len(done)} of 4" in capsys.readouterr().out
    runs = {run.info.run_id: run for run in runs_of(toy, "confirm") if run.info.status == "FINISHED"}
    assert len(runs) == 4
    confirmed = table(toy, runs_of(toy, "search")[-1], "confirm.csv")
    for side in ("challenger", "champion"):
        for row in confirmed.to_dict("records"):
            assert runs[row[f"{side}_run_id"]].data.metrics["best/val_accuracy"] == row[side]
    (version,) = toy.search_model_versions(f"name = '{NAME}' and run_id IN {challengers(runs)}")
    assert toy.get_model_version_by_alias(NAME, "challenger").version == version.version
    assert version.tags["confirm.comparisons"] == "1.0"
    evaluations = [run for run in runs_of(toy, "evaluate") if run.info.status == "FINISHED"]
    assert len(evaluations) == len({run.data.tags["model.run_id"] for run in evaluations}) == 4
    for side in ("challenger", "champion"):
        scores = {run.data.tags["model.run_id"]: run.data.metrics["test/accuracy"] for run in evaluations}
        assert confirmed[f"{side}_test"].tolist() == [scores[name] for name in confirmed[f"{side}_run_id"]]


def test_a_new_champion_is_compared_anew_and_the_evidence_renewed(toy, capsys):
    options = {**OPTIONS, "trials": 3}
    set_champion(toy, variant="baseline", epochs="1", learning_rate="0.00001")
    search.main(**options)
    first = toy.get_model_version_by_alias(NAME, "challenger")
    run = toy.create_run("0", run_name="another", tags={"stage": "train", "variant": "baseline"}).info.run_id
    for name, value in {"seed": "0", "epochs": "1", "learning_rate": "0.00002"}.items():
        toy.log_param(run, name, value)
    toy.set_terminated(run)
    another = toy.create_model_version(NAME, f"runs:/{run}/model", run)
    toy.set_registered_model_alias(NAME, "champion", another.version)
    search.main(**options)
    second = toy.get_model_version_by_alias(NAME, "challenger")
    assert second.version == first.version
    assert "Trainings finished before: 2 of 4" in capsys.readouterr().out
    assert second.tags["confirm.champion_digest"] == registry.recipe_of(another).digest()
    assert first.tags["confirm.champion_digest"] != second.tags["confirm.champion_digest"]
    assert second.tags["confirm.comparisons"] == "2.0"


def test_a_confirmation_does_again_what_cannot_be_used_and_counts_itself_once(
    toy, tmp_path, monkeypatch, capsys
):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    def attributes():
        return optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/optuna.db").user_attrs

    options = {**OPTIONS, "trials": 2}
    set_champion(toy, variant="baseline", epochs="1", learning_rate="0.00001")
    with monkeypatch.context() as patch:
        patch.setattr(data, "load_test", interrupt)
        with pytest.raises(KeyboardInterrupt):
            search.main(**options)
    compared = attributes()["compared"]
    assert len(compared) == 1  # its outcome is known
    assert "confirmed" not in attributes()

    lost, changed, elsewhere, _ = runs_of(toy, "confirm")
    Path(lost.info.artifact_uri.removeprefix("file://"), "history.csv").unlink()
    toy.set_tag(changed.info.run_id, "torchscript.sha256", "0" * 64)
    toy.set_tag(elsewhere.info.run_id, "environment.sha256", "of other packages")
    search.main(**options)
    assert len(runs_of(toy, "confirm")) == 4 + 3
    output = capsys.readouterr().out
    assert f"Run {lost.info.run_id} of {lost.info.run_name} cannot be used again" in output
    assert f"Run {changed.info.run_id} of {changed.info.run_name} cannot be used again" in output
    assert "Trainings finished before: 1 of 4" in output
    assert attributes()["compared"] == attributes()["confirmed"] == compared


def challengers(runs):
    chosen = [f"'{name}'" for name, run in runs.items() if run.data.tags["confirm"] == "challenger"]
    return f"({', '.join(chosen)})"


def test_runs_that_a_killed_container_has_left_are_closed(toy):
    options = {**OPTIONS, "trials": 1, "confirm_seeds": 0}
    search.main(**options)
    (trial,) = runs_of(toy, "trial")
    tags = {"stage": "confirm", "search": trial.data.tags["search"], "host": "0123456789ab"}
    left = toy.create_run("1", tags=tags).info.run_id
    search.main(**options)
    assert toy.get_run(left).info.status == "FAILED"


def test_a_store_that_fails_ends_the_search(toy, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "fit", refuse)
    with pytest.raises(OSError, match="No space left"):
        search.main(**{**OPTIONS, "confirm_seeds": 0})
    assert [run.info.status for run in runs_of(toy, "search")] == ["FAILED"]


def test_a_storage_that_fails_in_a_trial_ends_the_search(toy, tmp_path, monkeypatch):
    report = ledger.Ledger.report

    def broken(self, *arguments):
        (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
        report(self, *arguments)

    monkeypatch.setattr(ledger.Ledger, "report", broken)
    with pytest.raises(StoreError, match=r"storage=sqlite:///optuna.db failed"):
        search.main(**{**OPTIONS, "confirm_seeds": 0})
    assert {run.info.status for run in runs_of(toy, "trial")} == {"FAILED"}


def test_a_search_without_a_complete_trial_says_so(toy, monkeypatch, capsys):
    monkeypatch.setattr(training, "fit", lambda *arguments, **options: 1 / 0)
    search.main(**{**OPTIONS, "trials": 1})
    output = capsys.readouterr().out
    assert "Trials: 1 fail, 1 waiting. None was trained to its end: let it have more" in output
    assert "Empty DataFrame" not in output


def test_two_objectives_show_their_front(toy):
    search.main(**{**OPTIONS, "trials": 5, "confirm_seeds": 0, "objectives": "accuracy,parameters"})
    (parent,) = runs_of(toy, "search")
    names = {file.path for file in toy.list_artifacts(parent.info.run_id)}
    assert names >= PICTURES | {"pareto_front.png"}
    assert {run.info.status for run in runs_of(toy, "trial")} == {"FINISHED"}


@pytest.mark.parametrize(
    ("changed", "said"),
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
def test_bad_input_is_one_sentence_and_makes_no_run(changed, said, toy, capsys):
    given = {**OPTIONS, **changed}
    arguments = [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert "secret" not in error
    assert toy.search_experiments(filter_string=f"name = '{NAME}'") == []


def test_another_space_under_the_same_name_is_refused(toy):
    search.main(**{**OPTIONS, "trials": 1, "confirm_seeds": 0})
    with pytest.raises(UserError, match=r"study_name=toy was begun with max_parameters=100000"):
        search.main(**{**OPTIONS, "max_parameters": 90_000})


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
    version = store.create_model_version(NAME, f"runs:/{run}/model", run, tags=tags).version
    store.set_registered_model_alias(NAME, "challenger", version)
    return int(version)


@pytest.fixture
def crowned(store):
    """A champion of the plain rule: version 1, a v4; gives the digest of its recipe."""
    set_champion(store, "v4")
    return registry.recipe_of(registry.version_with_alias("champion")).digest()


def aliases(store):
    return {name: int(version) for name, version in store.get_registered_model(NAME).aliases.items()}


def test_a_challenger_with_evidence_becomes_champion_and_stays(store, crowned, capsys):
    challenger_of(store, 0.01, crowned)
    promote.main(rollback=False)
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert "mean validation accuracy 93.00% over 3 seeds, v4 92.00% over the same" in capsys.readouterr().out
    promote.main(rollback=False)
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert "it was confirmed over 3 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("p_value", "against", "parity", "said"),
    [
        (0.2, None, "passed", "p = 0.2 over 3 seeds"),
        (0.01, "another", "passed", "compared with v4, which is not the champion any more"),
        (0.01, None, "failed", "does not equal the trained one"),
    ],
    ids=["chance", "other-champion", "export"],
)
def test_a_challenger_without_evidence_is_not_promoted(
    store, crowned, p_value, against, parity, said, capsys
):
    challenger_of(store, p_value, against or crowned, parity)
    promote.main(rollback=False)
    assert aliases(store) == {"champion": 1, "challenger": 2}
    assert said in capsys.readouterr().out
