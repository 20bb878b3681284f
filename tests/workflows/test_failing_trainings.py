"""Trainings that cannot go on: a full disk, a loss that is not finite, output that nobody takes."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
import torch
from conftest import Recorder, history, open_store
from toys import start_process

from lenet_study.errors import DiskError, DivergenceError
from lenet_study.execution.executor import Monitor
from lenet_study.tracking import registry
from lenet_study.tracking.store import checkpoint_folder
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.workflows.resume import interrupted, resume
from lenet_study.workflows.train import train


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # SQLite's connections are still open


class Filling(Monitor):
    """Fills a disk after an epoch, up to some bytes."""

    def __init__(self, disk, epoch, left):
        self.ballast, self.epoch, self.left = disk / "ballast", epoch, left

    def on_epoch_end(self, epoch):
        if epoch.epoch == self.epoch:
            with self.ballast.open("wb") as file:
                file.truncate(0)
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.ballast.parent).free - self.left)


@pytest.mark.parametrize(
    ("epoch", "left"),
    [(1, 0), (2, 200_000), (3, 20_000), (3, 400_000)],
    ids=["no-byte", "checkpoint", "pictures", "model"],
)
def test_a_full_disk_fails_the_run_and_resume_goes_on(initialised_database, disk, job, whole, epoch, left):
    with open_store(initialised_database, disk) as store:
        filling = Filling(disk, epoch, left)
        with pytest.raises(DiskError, match=f"{disk}.*make room there, then `resume` goes on"):
            train(job, monitor=filling)
        (run,) = store.search_runs(["1"])
        assert run.info.status == "FAILED"
        assert run.data.tags["failure.kind"] == "DiskError"
        assert str(disk) in run.data.tags["failure.reason"]
        assert Checkpoints(checkpoint_folder(run.info.run_id)).newest()["history"][-1]["epoch"] == epoch
        filling.ballast.unlink()
        resume(data=job.data)
        run = store.get_run(run.info.run_id)
        assert run.info.status == "FINISHED"
        assert (run.data.tags["weights.sha256"], history(store, run.info.run_id)) == whole


def train_elsewhere(job, filling, said):
    try:
        train(job, monitor=filling)
    except DiskError as error:
        said.write_text(str(error))


def test_a_full_disk_of_the_store_alone_is_named(initialised_database, disk, tmp_path, job, whole):
    job = replace(job, checkpoint_dir=str(tmp_path / "elsewhere"))
    with open_store(initialised_database, disk) as store:
        filling = Filling(disk, 1, 0)
        start_process(train_elsewhere, job, filling, tmp_path / "said").join(240)
        assert (tmp_path / "said").read_text().startswith(f"The disk of {disk} is full")
        assert [run.info.status for run in store.search_runs(["1"])] == ["FAILED"]
        filling.ballast.unlink()
        resume(checkpoint_dir=job.checkpoint_dir, data=job.data)
        (run,) = store.search_runs(["1"])
        assert run.info.status == "FINISHED"
        assert (run.data.tags["weights.sha256"], history(store, run.info.run_id)) == whole


@pytest.mark.parametrize("left", [0, 300_000, 1_500_000])
def test_a_full_temporary_folder_is_not_called_the_stores_disk(store, disk, job, whole, monkeypatch, left):
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    filling = Filling(disk, 3, left)
    with pytest.raises(DiskError, match=f"The disk of {disk} is full"):
        train(job, monitor=filling)
    (run,) = store.search_runs(["1"])
    assert run.info.status == "FAILED"
    filling.ballast.unlink()
    resume(data=job.data)
    run = store.get_run(run.info.run_id)
    assert (run.data.tags["weights.sha256"], history(store, run.info.run_id)) == whole


class Interrupted(Monitor):
    def on_epoch_end(self, epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt


def test_a_diverged_training_fails_and_its_best_epoch_is_kept_in_a_file(store, job):
    with pytest.raises(KeyboardInterrupt):
        train(job, monitor=Interrupted())
    (run,) = store.search_runs(["1"])
    checkpoints = Checkpoints(checkpoint_folder(run.info.run_id))
    state = checkpoints.newest()
    state["model"] = {name: torch.full_like(value, float("nan")) for name, value in state["model"].items()}
    checkpoints.write(2, state)
    recorder = Recorder()
    path = checkpoints.folder / "best.pth"
    with pytest.raises(DivergenceError, match=f"epoch 3, step 1 is not finite.*kept in {path}"):
        train(replace(job, resume=run.info.run_id), recorder)
    run = store.get_run(run.info.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.kind"] == "DivergenceError"
    assert "epoch 3, step 1" in run.data.tags["failure.reason"]
    assert interrupted() == []  # it would end in the same way
    assert store.search_registered_models() == []
    assert ("on_run_end", "baseline") in recorder.events
    kept = registry.load_model(str(path))
    assert kept.description["best_epoch"] == state["best_epoch"]
    _, validation = job.images()
    normalised = validation.images[:, None].float() / 255
    accuracy = (kept.module(normalised).argmax(1) == validation.labels).double().mean().item()
    assert accuracy == state["history"][state["best_epoch"] - 1]["val_accuracy"]


def test_a_training_that_diverges_at_once_says_that_nothing_is_kept(store, job):
    recipe = replace(job.recipe, config=replace(job.recipe.config, learning_rate=1e30))
    with pytest.raises(
        DivergenceError, match=r"epoch 1, step 2 is not finite.*no epoch before it was finished"
    ):
        train(replace(job, recipe=recipe))
    assert [run.info.status for run in store.search_runs(["1"])] == ["FAILED"]


TWO_TRAININGS = """
import sys
from dataclasses import replace
from pathlib import Path
from lenet_study.__main__ import main
from lenet_study.execution.reporter import Terminal
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.train import TrainingJob, train

def twice():
    recipe = variant_recipes(TrainingConfig(epochs=2))["baseline"]
    data = DataFiles(Path(sys.argv[1]), eval(sys.argv[2]))
    for _ in range(2):
        train(TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=data), Terminal())

sys.exit(main(["twice"], {"twice": twice}))
"""


@pytest.mark.parametrize("sink", ["| head -1 >first", ">/dev/full"], ids=["head", "full"])
def test_output_that_nobody_takes_ends_no_training(store, tmp_path, toy_files, sink):
    command = f'"$0" -c "$1" "$2" "$3" {sink}; exit ${{PIPESTATUS[0]}}'
    arguments = [sys.executable, TWO_TRAININGS, str(toy_files.folder), repr(dict(toy_files.sha256))]
    result = subprocess.run(["bash", "-c", command, *arguments], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")  # MLflow's own lines, too, are kept from the user
    assert [run.info.status for run in store.search_runs(["1"])] == ["FINISHED"] * 2
    assert len(store.search_model_versions("name = 'fashion-mnist-lenet'")) == 2
    if "head" in sink:
        assert (tmp_path / "first").read_text().startswith("baseline  epoch 1/2  val loss")
