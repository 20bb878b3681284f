"""Cross-validation in several processes: the same weights, a killed worker, and a command that ends early."""

import os
import signal

import psutil
import pytest
from servers import wait_until_said
from toys import Command

from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.kfold import kfold_side_by_side
from lenet_study.workflows.train import TrainingJob

FOLDS = ["kfold", "--variant", "baseline", "--folds", "3", "--workers", "2"]


def runs(store, stage):
    return store.search_runs(["1"], f"tags.stage = '{stage}'")


def test_several_processes_give_the_weights_of_one(store, toy_files):
    recipe = variant_recipes(TrainingConfig(epochs=1))["baseline"]
    job = TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=toy_files, folds=3)
    for workers in (1, 2):
        kfold_side_by_side(job, workers)
    weights = {(run.data.tags["fold"], run.data.tags["weights.sha256"]) for run in runs(store, "fold")}
    assert len(runs(store, "fold")) == 6
    assert len(weights) == 3


@pytest.fixture
def command(store, toy_files, tmp_path):
    """Starts the command line; whatever happens, it ends with the test."""
    commands = []

    def start(*arguments):
        commands.append(Command(arguments, toy_files, tmp_path / "log"))
        return commands[-1]

    (tmp_path / "log").touch()
    yield start
    for started in commands:
        started.process.kill()


def test_a_killed_worker_fails_its_run_alone(store, command):
    kfold = command(*FOLDS, "--epochs", "20")
    wait_until_said(kfold, kfold.log, "epoch 1/20", 2)
    kfold.workers()[-1].kill()  # the youngest: it has just begun
    assert kfold.wait(timeout=240) == 1, kfold.log.read_text()
    output = kfold.log.read_text()
    assert "failed: its process died (exit code -9)" in output
    assert "over 2 folds" in output
    folds = runs(store, "fold")
    assert sorted(run.info.status for run in folds) == ["FAILED", "FINISHED", "FINISHED"]
    (failed,) = (run for run in folds if run.info.status == "FAILED")
    assert failed.data.tags["failure.reason"] == "its process died (exit code -9)"
    (parent,) = runs(store, "kfold")
    assert parent.info.status == "FAILED"
    assert "its process died (exit code -9)" in parent.data.tags["failed"]
    assert kfold.workers() == []
    assert command(*FOLDS, "--epochs", "20").wait(timeout=240) == 0
    assert [run.info.status for run in runs(store, "kfold")] == ["FINISHED"]
    assert len(runs(store, "fold")) <= 4


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_workers_do_not_outlive_their_command(store, command, sent, code):
    kfold = command(*FOLDS, "--epochs", "100000")
    wait_until_said(kfold, kfold.log, "epoch 1/100000", 2)
    workers = kfold.workers()
    os.kill(kfold.pid, sent)
    assert kfold.wait(timeout=60) == code
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert len(workers) == 2
    assert alive == []
    assert [run.info.status for run in runs(store, "fold")] == ["KILLED", "KILLED"]
    (parent,) = runs(store, "kfold")
    assert parent.info.status == ("KILLED" if sent == signal.SIGTERM else "RUNNING")
