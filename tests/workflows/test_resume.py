"""Interrupted trainings go on in their own run, and end as if nothing had happened."""

import os
import shlex
import signal
import time
from dataclasses import replace

import pytest
from conftest import Recorder, history
from toys import start_process

from lenet_study.errors import UserError
from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Terminal
from lenet_study.execution.signals import stop_on_signals
from lenet_study.tracking.liveness import process_tags
from lenet_study.tracking.run import keep_alive, open_run
from lenet_study.tracking.store import checkpoint_folder
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.workflows.orphans import reap
from lenet_study.workflows.resume import interrupted, resume
from lenet_study.workflows.train import train


def kill_at(point: str, strike) -> None:
    """Patch this process so that it is struck at a point that no reporter or monitor hears of."""
    from lenet_study.tracking import registry
    from lenet_study.training import checkpoint
    from lenet_study.workflows import train

    if point == "before the recipe":
        train.recipe_file.dumps = strike
    elif point == "before the first epoch":
        train.loop.fit = strike
    elif point == "save":
        calls = []

        def fsync(descriptor):
            calls.append(descriptor)
            if len(calls) == 3:  # the second checkpoint's file
                strike()
            os.fsync(descriptor)

        checkpoint.Checkpoints.__init__.__defaults__ = (fsync,)
    elif point == "curves":
        train._log_results = strike
    elif point == "export":
        registry.export.save_program = strike
    elif point == "between logging and registering":
        registry.mlflow.MlflowClient.create_model_version = strike


WITHIN = (
    "before the recipe",
    "before the first epoch",
    "save",
    "curves",
    "export",
    "between logging and registering",
)
POINTS = ["epoch 1", "epoch 3", "registered", *WITHIN]


def train_and_die(job, point, number):
    """Train in this process, which a signal strikes at a point."""
    stop_on_signals()

    def strike(*_, **__):
        os.kill(os.getpid(), number)

    class Striking(Monitor):
        def on_epoch_end(self, epoch):
            if point == f"epoch {epoch.epoch}":
                strike()

    class Reporter(Terminal):
        def message(self, line):
            super().message(line)
            if point == "registered" and "version" in line:
                strike()

    kill_at(point, strike)
    train(job, Reporter(), Striking())


def strike(job, point, number=signal.SIGKILL):
    """Train in a process that a signal strikes at a point; returns its exit code."""
    process = start_process(train_and_die, job, point, number)
    process.join(240)
    return process.exitcode


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(store, tmp_path, job, whole, point):
    assert strike(job, point) == -signal.SIGKILL
    (run,) = store.search_runs(["1"])
    assert run.info.status == "RUNNING"
    recorder = Recorder()
    resume(data=job.data, reporter=recorder)
    (run,) = store.search_runs(["1"])
    assert run.info.status == "FINISHED", recorder.text
    assert run.data.tags["resumed"] == "1"
    assert not {"failure.kind", "failure.reason"} & run.data.tags.keys()
    assert (run.data.tags["weights.sha256"], history(store, run.info.run_id)) == whole
    assert len(store.search_model_versions("name = 'fashion-mnist-lenet'")) == 1
    (model,) = store.search_logged_models(["1"])
    summary = {"best/epoch", "best/val_accuracy", "best/val_accuracy_augmented", "parity/class_agreement"}
    assert summary <= {metric.key for metric in model.metrics}
    assert not checkpoint_folder(run.info.run_id).exists()
    assert interrupted() == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("point", ["epoch 2"])
def test_a_signal_ends_a_training_killed_and_it_can_be_resumed(
    store, tmp_path, job, whole, number, code, point
):
    assert strike(job, point, number) == code
    (run,) = store.search_runs(["1"])
    assert run.info.status == "KILLED"
    assert run.data.tags["failure.kind"] == "Stopped"
    resume(run.info.run_id, data=job.data)
    run = store.get_run(run.info.run_id)
    assert (run.data.tags["weights.sha256"], history(store, run.info.run_id)) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("point", ["epoch 1", "before the first epoch"])
def test_a_training_of_mlflow_run_goes_on(store, monkeypatch, job, whole, number, point):
    """MLflow stores params quoted for a shell, and makes a run FAILED whose command has failed."""
    run_id = store.create_run(store.create_experiment("e")).info.run_id
    for name, value in job.params().items():
        store.log_param(run_id, name, shlex.quote(str(value)))
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    strike(job, point, number)
    monkeypatch.delenv("MLFLOW_RUN_ID")
    if number == signal.SIGTERM:
        store.set_terminated(run_id, "FAILED")
    recorder = Recorder()
    resume(data=job.data, reporter=recorder)
    assert f"goes on after epoch {int(point == 'epoch 1')} of 3" in recorder.text
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["weights.sha256"], history(store, run_id)) == whole


def test_two_damaged_checkpoints_begin_the_training_anew_in_the_same_run(store, tmp_path, job, whole):
    strike(job, "epoch 2")
    (run,) = store.search_runs(["1"])
    files = list(checkpoint_folder(run.info.run_id).iterdir())
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:-7])
    recorder = Recorder()
    resume(run.info.run_id, data=job.data, reporter=recorder)
    assert "goes on after epoch 0 of 3; damaged and passed over: 00002.checkpoint, 00001.checkpoint" in (
        recorder.text
    )
    run = store.get_run(run.info.run_id)
    assert (run.data.tags["weights.sha256"], history(store, run.info.run_id)) == whole


def test_what_cannot_be_resumed_is_refused(store, tmp_path, job):
    strike(job, "epoch 1")
    (run,) = store.search_runs(["1"])
    run_id = run.info.run_id
    store.set_tag(run_id, "environment.sha256", "other packages")
    with pytest.raises(UserError, match=rf"run_id={run_id} was made in another environment .*force=true"):
        resume(run_id, data=job.data)
    resume(run_id, data=job.data, force=True)
    assert store.get_run(run_id).data.tags["forced"] == "true"
    with pytest.raises(UserError, match="has finished: there is nothing to resume"):
        resume(run_id, data=job.data)
    promotion = store.create_run("1", tags={"stage": "promote"}).info.run_id
    store.set_terminated(promotion, "KILLED")
    with pytest.raises(UserError, match=r"is of stage 'promote': name one of train, .*study"):
        resume(promotion)


def test_reaping_ends_runs_whose_process_is_gone_and_no_others(store, tmp_path, job):
    strike(job, "epoch 1")
    (gone,) = store.search_runs(["1"])
    tags = {name: value for name, value in gone.data.tags.items() if name != "mlflow.runName"}
    running = {
        "mine": tags | {"process.pid": str(os.getpid()), "process.start": process_tags()["process.start"]},
        "another of that number": tags | {"process.pid": str(os.getpid()), "process.start": "1.00"},
        "another host": tags | {"process.host": "elsewhere", "process.heartbeat": "99999999999"},
        "another host, silent": tags | {"process.host": "elsewhere", "process.heartbeat": "1"},
        "before a reboot": tags | {"process.boot": "another"},
        "older version": {"stage": "train"},
    }
    ids = {name: store.create_run("1", run_name=name, tags=t).info.run_id for name, t in running.items()}
    recorder = Recorder()
    ended = {"another of that number", "another host, silent", "before a reboot"}
    assert set(reap(recorder)) == {gone.info.run_id, *(ids[name] for name in ended)}
    for name, run_id in ids.items():
        assert store.get_run(run_id).info.status == ("KILLED" if name in ended else "RUNNING")
    assert "its process is gone" in store.get_run(gone.info.run_id).data.tags["failure.reason"]
    assert reap() == []


def test_what_a_process_left_that_was_killed_after_its_run_s_end_is_removed(store):
    with open_run("toy", stage="train", params={}) as run:
        pass
    folders = [checkpoint_folder(run_id) for run_id in (run.id, "of-another-store")]
    for folder in folders:
        Checkpoints(folder).write(1, {"history": []})
    reap()
    assert [folder.is_dir() for folder in folders] == [False, True]


def test_an_open_run_renews_its_heartbeat(store):
    with open_run("long", stage="study", params={}) as run, keep_alive(run, seconds=0.02):
        run.set_tags({"process.heartbeat": "1"})
        deadline = time.monotonic() + 30
        while store.get_run(run.id).data.tags["process.heartbeat"] == "1":
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_interrupted_run_that_is_named_goes_on(store, job, monkeypatch):
    strike(job, "epoch 1")
    (gone,) = store.search_runs(["1"])
    monkeypatch.setenv("MLFLOW_RUN_ID", gone.info.run_id)
    other = replace(job, recipe=replace(job.recipe, config=replace(job.recipe.config, seed=7)))
    with pytest.raises(UserError, match="is no interrupted one of this work"):
        train(other)
    assert store.get_run(gone.info.run_id).info.status == "RUNNING"
    recorder = Recorder()
    assert train(job, recorder).run_id == gone.info.run_id
    assert "baseline: goes on after epoch" in recorder.text
    run = store.get_run(gone.info.run_id)
    assert (run.info.status, run.data.tags["resumed"]) == ("FINISHED", "1")


def test_a_used_run_is_not_adopted(store, job, monkeypatch):
    result = train(replace(job, recipe=replace(job.recipe, config=replace(job.recipe.config, epochs=1))))
    for run_id, words in ((result.run_id, "has been used already"), ("abc", "names no run")):
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with pytest.raises(UserError, match=rf"MLFLOW_RUN_ID={run_id} .*{words}"):
            train(job)
    assert len(store.search_runs(["1"])) == 1
