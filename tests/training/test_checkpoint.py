"""Checkpoints: whole or not at all, and a resumed training equals an uninterrupted one bit for bit."""

import os
from dataclasses import replace

import pytest
import torch
from forgetful_disk import Disk, path_of

from lenet_study.errors import DiskError
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.training.loop import fit
from lenet_study.training.model import LeNet

CPU = torch.device("cpu")
RECIPE = variant_recipes(TrainingConfig(epochs=4, batch_size=16, seed=5))["v4"]
RECIPES = {
    "v4": RECIPE,
    "dropout, sgd": replace(RECIPE, variant=replace(RECIPE.variant, dropout=0.3, optimizer="sgd")),
    "annealed adamw": replace(
        RECIPE, variant=replace(RECIPE.variant, cosine_annealing=True, optimizer="adamw", weight_decay=0.1)
    ),
}


class Killed(BaseException):
    """Ends a process, for all that the training can tell."""


def run(recipe, train, validation, checkpoints=None, kill_after=None):
    model, heard = LeNet(recipe.variant, recipe.config.seed), []

    def on_epoch(epoch):
        heard.append(epoch)
        if epoch.epoch == kill_after:
            raise Killed

    result = fit(model, train, validation, recipe, device=CPU, on_epoch=on_epoch, checkpoints=checkpoints)
    return model.state_dict(), result, heard


def without_seconds(history):
    return [replace(epoch, seconds=0.0) for epoch in history]


def assert_equal(one, other):
    weights, result, heard = one
    assert all(torch.equal(value, other[0][name]) for name, value in weights.items())
    assert without_seconds(result.history) == without_seconds(other[1].history)
    assert without_seconds([result.best]) == without_seconds([other[1].best])
    assert without_seconds(heard) == without_seconds(other[2])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_training_killed_after_each_epoch_ends_as_if_it_had_not_been(
    recipe, tmp_path, toy_train, toy_validation
):
    whole = run(recipe, toy_train, toy_validation)
    for epoch in (1, 2, 3, 4):
        with pytest.raises(Killed):
            run(recipe, toy_train, toy_validation, Checkpoints(tmp_path), kill_after=epoch)
    assert_equal(run(recipe, toy_train, toy_validation, Checkpoints(tmp_path)), whole)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, toy_train, toy_validation):
    whole = run(RECIPE, toy_train, toy_validation)
    with pytest.raises(Killed):
        run(RECIPE, toy_train, toy_validation, Checkpoints(tmp_path), kill_after=3)
    before, newest = sorted(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest()["history"][-1]["epoch"] == 2
    assert checkpoints.passed_over == checkpoints.damaged() == [newest]
    assert_equal(run(RECIPE, toy_train, toy_validation, checkpoints), whole)
    before.write_bytes(b"")


def test_two_damaged_ones_leave_none(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2):
        checkpoints.write(epoch, {"epoch": epoch})
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert checkpoints.newest() is None
    assert len(checkpoints.passed_over) == len(checkpoints.damaged()) == 2


def test_the_newest_two_are_kept_and_all_are_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    for epoch in range(1, 12):
        checkpoints.write(epoch, {"epoch": epoch})
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == [
        "00010.checkpoint",
        "00011.checkpoint",
    ]
    assert checkpoints.newest() == {"epoch": 11}
    checkpoints.remove()
    assert not (tmp_path / "run").exists()
    assert checkpoints.newest() is None


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, {"epoch": 1})
    limit = len((tmp_path / "00001.checkpoint").read_bytes()) // 2
    pid = os.fork()
    if not pid:  # a limit of its own on the size of files: what is beyond cannot be written
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            checkpoints.write(2, {"epoch": 2})
        except DiskError as error:
            os._exit(7 if str(tmp_path) in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert checkpoints.newest() == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["00001.checkpoint"]


def test_a_power_cut_at_any_time_leaves_the_last_written_checkpoint_whole(tmp_path):
    disk = Disk(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run", disk.fsync)
    for epoch in (1, 2, 3, 4):
        checkpoints.write(epoch, {"epoch": epoch, "weights": torch.full((50,), float(epoch))})
        disk.written = epoch
        disk.cut()
    assert len(disk.cuts) > 100
    for folder, written in disk.restore(tmp_path):
        state = Checkpoints(folder).newest()
        assert (state["epoch"] if state else 0) >= written


@pytest.mark.parametrize("forgets", ["file", "folder"])
def test_the_disk_of_that_test_would_show_a_missing_fsync(tmp_path, forgets):
    disk = Disk(tmp_path / "run")

    def careless(descriptor):
        if path_of(descriptor).is_dir() != (forgets == "folder"):
            disk.fsync(descriptor)

    checkpoints = Checkpoints(tmp_path / "run", careless)
    checkpoints.write(1, {"epoch": 1})
    disk.cut()
    states = [Checkpoints(folder).newest() for folder, _ in disk.restore(tmp_path)]
    assert states[-6:].count(None) >= 3
