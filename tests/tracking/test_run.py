"""An open run: how it ends, what it is tagged with, and all ways to write to it."""

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from toys import start_process, toy_split

from lenet_study.__main__ import main
from lenet_study.errors import StoreError, UserError
from lenet_study.execution.signals import Stopped
from lenet_study.tracking.delivery import Delivery
from lenet_study.tracking.provenance import COMMIT
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.spool import Spool
from lenet_study.tracking.store import store_address
from lenet_study.training.history import Epoch

EPOCH = Epoch(
    epoch=2,
    learning_rate=0.001,
    train_loss=0.5,
    train_accuracy=0.75,
    val_loss=0.25,
    val_accuracy=0.875,
    seconds=3.0,
)


def opened(name="toy", stage="train", params=None, **options):
    return open_run(name, stage=stage, params=params or {}, **options)


def test_a_run_that_ends_well_is_finished(store):
    with opened() as run:
        assert store.get_run(run.id).info.status == "RUNNING"
    stored = store.get_run(run.id)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "toy")
    assert "failure.reason" not in stored.data.tags


def test_an_exception_leaves_a_failed_run_with_its_message_on_one_line(store):
    with pytest.raises(ValueError, match="first"), opened() as run:
        raise ValueError("first\n  second")
    stored = store.get_run(run.id)
    assert (stored.info.status, stored.data.tags["failure.reason"]) == ("FAILED", "first second")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(0), SystemExit(143)], ids=repr)
def test_an_interrupted_run_is_killed(store, interruption):
    with pytest.raises(type(interruption)), opened() as run:
        raise interruption
    assert store.get_run(run.id).info.status == "KILLED"


@pytest.mark.parametrize("moment", ["while it is written down", "while it is delivered"])
def test_a_signal_at_the_end_leaves_no_run_open(store, tmp_path, moment):
    def strike(descriptor):
        os.fsync(descriptor)
        if moment == "while it is written down":
            signal.raise_signal(signal.SIGTERM)

    class Struck(Delivery):
        def wait(self, *patience):
            if moment == "while it is delivered" and not struck:
                struck.append(True)
                raise Stopped(signal.SIGTERM)
            return super().wait(*patience)

    def stop(signum, frame):
        raise Stopped(signum)

    struck = []
    created = store.create_run("0")
    about = {"run_id": created.info.run_id, "name": "toy", "store": store_address()}
    run = Run(created, Struck(Spool(tmp_path / "spool" / created.info.run_id, about, fsync=strike)))
    run.delivery.start()
    former = signal.signal(signal.SIGTERM, stop)
    with pytest.raises(Stopped):
        run.end("FINISHED", {}, silence=60, total=60)
    signal.signal(signal.SIGTERM, former)
    assert store.get_run(run.id).info.status == "FINISHED"


def test_a_run_is_killed_with_its_surrounding_run(store):
    with (
        pytest.raises(KeyboardInterrupt),
        opened("outer") as outer,
        opened("inner", parent=outer.id) as inner,
    ):
        raise KeyboardInterrupt
    assert {store.get_run(run.id).info.status for run in (outer, inner)} == {"KILLED"}


def rest_in_a_run(folder):
    """A process of the command line, whose command opens a run and sleeps."""
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    def command(files, reporter):
        with opened() as run:
            (folder / "run_id").write_text(run.id)
            time.sleep(60)

    sys.modules["lenet_study.workflows.data"] = SimpleNamespace(verify_data=command)
    sys.exit(main(["data"]))


def test_sigterm_leaves_a_killed_run_and_exit_code_143(store, tmp_path):
    process = start_process(rest_in_a_run, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run_id").is_file() or not (tmp_path / "run_id").read_text():
        assert process.is_alive(), (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    process.join(60)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 143, log
    assert store.get_run((tmp_path / "run_id").read_text()).info.status == "KILLED"
    assert "Traceback" not in log


def test_a_pruned_run_is_killed_and_says_why(store):
    with opened() as run:
        run.prune("others are better")
        run.log_metrics({"best/epoch": 1.0})
    stored = store.get_run(run.id)
    assert (stored.info.status, stored.data.tags["pruned"]) == ("KILLED", "others are better")
    assert "failure.reason" not in stored.data.tags
    assert stored.data.metrics == {"best/epoch": 1.0}


def test_a_pruned_run_that_fails_is_failed(store):
    def work():
        with opened() as run:
            run_ids.append(run.id)
            run.prune("others are better")
            raise ValueError("disk")

    run_ids = []
    with pytest.raises(ValueError, match="disk"):
        work()
    assert store.get_run(run_ids[0]).info.status == "FAILED"


def test_the_first_run_of_a_process_is_the_one_that_mlflow_run_made(store, monkeypatch):
    experiment = store.create_experiment("project")
    made = store.create_run(experiment, run_name="random-name-7").info.run_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with opened("v2") as first, opened("v2 fold 1/5") as second:
        assert first.id == made
        assert second.id != made
    with opened() as third:
        assert third.id not in (first.id, second.id)
    stored = store.get_run(made)
    assert (stored.info.run_name, stored.info.status) == ("v2", "FINISHED")
    assert stored.data.tags["stage"] == "train"


def test_a_parameter_keeps_the_spelling_that_the_run_already_has(store, monkeypatch):
    experiment = store.create_experiment("project")
    made = store.create_run(experiment).info.run_id
    store.log_param(made, "learning_rate", "0.010")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with opened(params={"learning_rate": 0.01, "epochs": 15}) as run:
        run.log_params({"epochs": "15.0", "recipe": "", "halving": None, "seed": 0})
    assert store.get_run(made).data.params == {"learning_rate": "0.010", "epochs": "15", "seed": "0"}


def test_tags_of_a_run(store):
    with opened() as study:
        pass
    given = {"variant": "v2", "fold": 3}
    with opened(stage="kfold", tags=given, description="**v2**", study=study.id) as run:
        pass
    tags = store.get_run(run.id).data.tags
    page = f"#/experiments/{study.experiment_id}/runs/{study.id}?workflowType=machine_learning"
    expected = {
        "stage": "kfold",
        "variant": "v2",
        "fold": "3",
        "study": study.id,
        "mlflow.note.content": f"**v2**\n\n---\n\n[study]({page})",
        "mlflow.runName": "toy",
    }
    assert expected.items() <= tags.items()
    assert "mlflow.user" in tags  # what MLflow tells of every run is kept
    assert "mlflow.parentRunId" not in tags


def test_a_run_has_no_tags_that_were_not_given(store):
    with opened() as run:
        pass
    assert not {"study", "mlflow.note.content", "mlflow.parentRunId"} & store.get_run(run.id).data.tags.keys()


def test_a_run_carries_its_git_tags(store, monkeypatch):
    monkeypatch.setenv(COMMIT, "0123abc-dirty")
    with opened() as run:
        pass
    assert {"git.commit": "0123abc", "git.dirty": "true"}.items() <= store.get_run(run.id).data.tags.items()


def test_only_a_given_parent_nests_a_run(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    with opened("study") as study:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ignored by children")
        monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        with opened("v4") as top, opened("v4 fold 1/5", parent=top.id) as fold:
            pass
        with opened("v3") as another:
            pass
    assert "mlflow.parentRunId" not in store.get_run(top.id).data.tags
    assert store.get_run(fold.id).data.tags["mlflow.parentRunId"] == top.id
    assert study.experiment_id == top.experiment_id == fold.experiment_id == another.experiment_id
    assert store.get_experiment(study.experiment_id).name == "elsewhere"


def test_the_experiment_is_ours_unless_the_environment_names_one(store):
    with opened() as run:
        pass
    experiment = store.get_experiment(run.experiment_id)
    assert experiment.name == "fashion-mnist-lenet"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "LeNet-5" in experiment.tags["mlflow.note.content"]


def test_a_run_joins_the_experiment_of_its_study_that_another_process_opened(store, monkeypatch):
    elsewhere = store.create_experiment("elsewhere")
    study = store.create_run(elsewhere).info.run_id
    with opened(study=study) as run:
        assert run.experiment_id == elsewhere


def test_an_experiment_id_in_the_environment_wins(store, monkeypatch):
    experiment_id = store.create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    with opened() as run:
        assert run.experiment_id == experiment_id
    assert "mlflow.experimentKind" in store.get_experiment(experiment_id).tags


def test_a_description_that_somebody_wrote_is_kept(store):
    with opened() as run:
        pass
    store.set_experiment_tag(run.experiment_id, "mlflow.note.content", "Ours, spring term.")
    with opened():
        pass
    assert store.get_experiment(run.experiment_id).tags["mlflow.note.content"] == "Ours, spring term."


def test_somebody_else_s_experiment_keeps_its_tags(store, monkeypatch):
    theirs = {"mlflow.note.content": "Course 2026, owner: Ann.", "mlflow.experimentKind": "genai_development"}
    experiment_id = store.create_experiment("course", tags=theirs)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "course")
    with opened():
        pass
    assert theirs.items() <= store.get_experiment(experiment_id).tags.items()


def test_an_epoch_is_logged_at_its_step(store):
    with opened() as run:
        run.log_epoch(EPOCH)
    expected = {
        "train/loss": 0.5,
        "train/accuracy": 0.75,
        "val/loss": 0.25,
        "val/accuracy": 0.875,
        "learning_rate": 0.001,
        "epoch_seconds": 3.0,
    }
    assert store.get_run(run.id).data.metrics == expected
    assert {store.get_metric_history(run.id, name)[0].step for name in expected} == {2}


def test_without_validation_no_validation_metric_is_logged(store):
    blind = Epoch(**{**vars(EPOCH), "val_loss": None, "val_accuracy": None})
    with opened() as run:
        run.log_epoch(blind)
        run.log_best(blind)
    names = store.get_run(run.id).data.metrics.keys()
    assert {"train/loss", "best/epoch", "best/train_accuracy", "best/train_loss"} <= names
    assert not [name for name in names if "val" in name]


def test_the_best_epoch_becomes_summary_metrics(store):
    with opened() as run:
        run.log_best(EPOCH)
    assert store.get_run(run.id).data.metrics == {
        "best/epoch": 2,
        "best/val_accuracy": 0.875,
        "best/val_loss": 0.25,
        "best/train_accuracy": 0.75,
        "best/train_loss": 0.5,
    }


def test_artifacts(store, tmp_path):
    with opened() as run:
        run.log_figure(Figure(), "curves.png")
        run.log_table(pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]}), "history.csv")
        run.log_text("LeNet ×5", "model_summary.txt")
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.id, dst_path=str(tmp_path / "got")))
    assert {path.name for path in folder.iterdir()} - {"changes.patch"} == {
        "curves.png",
        "environment.txt",
        "history.csv",
        "manifest.json",
        "model_summary.txt",
        "provenance.json",
    }
    assert "threads" in json.loads((folder / "provenance.json").read_text())["deciding"]
    assert "mlflow==" in (folder / "environment.txt").read_text()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "history.csv").open() as file:
        assert list(csv.reader(file)) == [["epoch", "loss"], ["1", "0.5"], ["2", "0.25"]]
    assert (folder / "model_summary.txt").read_text(encoding="utf-8") == "LeNet ×5"


def test_a_dataset_carries_its_whole_digest(store):
    split = toy_split(20, seed=1)
    with opened() as run:
        run.log_dataset(split, "validation")
    stored = store.get_run(run.id)
    (logged,) = stored.inputs.dataset_inputs
    tags = {tag.key: tag.value for tag in logged.tags}
    assert logged.dataset.digest == split.digest()[:32]
    assert tags == {"mlflow.data.context": "validation", "sha256": split.digest()}
    assert len(tags["sha256"]) == 64
    assert stored.data.tags["dataset.validation.sha256"] == split.digest()
    assert "zalandoresearch/fashion-mnist" in logged.dataset.source


def test_a_dataset_belongs_to_its_run_even_while_another_is_open(store):
    with opened("outer") as outer, opened("inner") as inner:
        outer.log_dataset(toy_split(20, seed=1), "train")
    assert len(store.get_run(outer.id).inputs.dataset_inputs) == 1
    assert not store.get_run(inner.id).inputs.dataset_inputs


def test_a_failure_of_the_store_within_a_run_is_one_sentence(store):
    with pytest.raises(StoreError, match=r"sqlite:.* failed: two lines") as caught, opened():
        raise MlflowException("two\n  lines")
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_in_the_environment_is_refused(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "777")
    with pytest.raises(UserError, match=r"MLFLOW_EXPERIMENT_ID=777 .*unset it"), opened():
        pass


def test_samples_of_the_computer_wait_for_a_run_s_own_metrics(store):
    """MLflow's charts begin with the first metric that a run has logged."""
    with opened() as run:
        assert not run.has_metrics
        run.log_metrics({"system/cpu_utilization_percentage": 50.0})
        assert not run.has_metrics
        run.log_metrics({"train/loss": 0.5})
        assert run.has_metrics
