"""Cross-validation in several processes, on the real data: same weights, and one killed worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from servers import wait_until_said

from lenet_study.workflows import kfold

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("LENET_STUDY_DATA", str(ROOT / "data"))
FOLDS = {"variant": "baseline", "folds": 3, "data_dir": DATA, "seed": 0}
CONFIG = {
    "batch_size": 32,
    "learning_rate": 0.001,
    "auxiliary": "probe",
    "auxiliary_weight": 0.3,
    "precision": "float32",
}

COMMAND = [sys.executable, "-m", "lenet_study", "kfold", "--workers", "2", "--epochs", "2"]
COMMAND += [part for name, value in FOLDS.items() for part in (f"--{name.replace('_', '-')}", str(value))]

pytestmark = pytest.mark.realdata


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def runs(store, stage):
    return store.search_runs(["1"], f"tags.stage = '{stage}'")


def test_several_processes_give_the_weights_of_one(store):
    for workers in (1, 2):
        kfold.main(**FOLDS, **CONFIG, spec="", epochs=1, device="cpu", threads=1, workers=workers)
    weights = {(run.data.tags["fold"], run.data.tags["weights.sha256"]) for run in runs(store, "fold")}
    assert len(runs(store, "fold")) == 6
    assert len(weights) == 3


def test_a_killed_worker_fails_its_run_alone(store, tmp_path):
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
        try:
            wait_until_said(process, tmp_path / "log", "epoch 1/2", 2)
            workers(process.pid)[0].kill()
            assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
    output = (tmp_path / "log").read_text()
    assert "failed: its process died (exit code -9)" in output
    assert "over 2 folds" in output
    folds = runs(store, "fold")
    assert sorted(run.info.status for run in folds) == ["FAILED", "FINISHED", "FINISHED"]
    (failed,) = (run for run in folds if run.info.status == "FAILED")
    assert failed.data.tags["error"] == "its process died (exit code -9)"
    (parent,) = runs(store, "kfold")
    assert parent.info.status == "FINISHED"
    assert "its process died (exit code -9)" in parent.data.tags["failed"]
    assert workers(process.pid) == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_workers_do_not_outlive_their_command(store, tmp_path, sent, code):
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
        try:
            wait_until_said(process, tmp_path / "log", "epoch 1/2", 2)
            left = workers(process.pid)
            process.send_signal(sent)
            assert process.wait(timeout=60) == code
        finally:
            process.kill()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert len(left) == 2
    assert alive == []
    assert [run.info.status for run in runs(store, "fold")] == ["KILLED", "KILLED"]
    (parent,) = runs(store, "kfold")
    assert parent.info.status == ("KILLED" if sent == signal.SIGTERM else "RUNNING")


def workers(process_id):
    """The processes that train: children of the fork server, which is a child of the command."""
    try:
        servers = psutil.Process(process_id).children()
    except psutil.NoSuchProcess:
        return []
    return [child for server in servers for child in server.children()]
