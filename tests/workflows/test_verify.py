"""Whether a store is found to hold what was logged, whatever byte of it is flipped."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from conftest import Recorder, open_store

from lenet_study.errors import IntegrityError, UserError
from lenet_study.tracking.store import NAME
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.workflows.promote import promote
from lenet_study.workflows.train import train
from lenet_study.workflows.verify import verify


@pytest.fixture(scope="module")
def trained(initialised_database, tmp_path_factory, toy_files):
    """A folder with a store that holds one training, which is the champion."""
    from conftest import short_training

    folder = tmp_path_factory.mktemp("trained")
    with open_store(initialised_database, folder):
        train(short_training(toy_files))
        promote()
    return folder


@pytest.fixture
def flipped(trained, toy_files):
    """Flip one bit of a file of the store for the time of a test."""
    originals = {}

    def flip(path, place=-1):
        originals[path] = path.read_bytes()
        content = bytearray(originals[path])
        content[place] ^= 1
        path.write_bytes(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained / 'mlflow.db'}")
        yield flip
    for path, content in originals.items():
        path.write_bytes(content)


def problems(files, run_id="all"):
    reporter = Recorder()
    try:
        verify(run_id, files, reporter)
    except IntegrityError as error:
        return f"{reporter.text}\n{error}"
    assert "all as they were logged" in reporter.text
    return ""


def files_of(folder, pattern):
    return [path for path in sorted(folder.glob(f"mlruns/**/{pattern}")) if path.is_file()]


def test_an_untouched_store_is_as_it_was_logged(flipped, toy_files):
    assert problems(toy_files) == ""


def test_each_file_that_a_run_logs_is_looked_at(flipped, trained, toy_files):
    paths = files_of(trained, "artifacts/**/*")
    assert len(paths) > 15
    for path in paths:
        flipped(path)
        text = problems(toy_files)
        assert "1 are damaged" in text, path
        assert path.name in text or "model" in text
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def test_one_run_is_looked_at_alone(flipped, trained, toy_files):
    run = mlflow.search_runs(search_all_experiments=True, filter_string="tags.stage = 'train'").run_id[0]
    assert problems(toy_files, run) == ""
    (path,) = files_of(trained, f"{run}/artifacts/history.csv")
    content = path.read_bytes()
    path.unlink()
    try:
        text = problems(toy_files, run)
    finally:
        path.write_bytes(content)
    assert f"baseline (run {run}): history.csv of run {run} is missing" in text
    with pytest.raises(UserError, match="run_id=0123 names no run"):
        verify("0123", toy_files)


def test_damaged_data_are_named(flipped, toy_files, tmp_path):
    from dataclasses import replace

    copy = replace(toy_files, folder=tmp_path / "data")
    shutil.copytree(toy_files.folder, copy.folder)
    assert problems(copy) == ""
    flipped(copy.folder / "t10k-labels-idx1-ubyte")
    assert "t10k-labels-idx1-ubyte is damaged" in problems(copy)


def test_a_damaged_database_is_named(flipped, trained, toy_files):
    path = trained / "optuna.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE trials (number INTEGER PRIMARY KEY, value TEXT)")
        connection.executemany("INSERT INTO trials VALUES (?, ?)", [(n, "x" * 100) for n in range(200)])
    assert problems(toy_files) == ""
    content = bytearray(path.read_bytes())
    content[4096:4200] = bytes(104)
    path.write_bytes(content)
    assert "optuna.db: SQLite finds it damaged" in problems(toy_files)
    path.unlink()


@pytest.mark.parametrize(
    ("table", "key", "value", "named", "said"),
    [
        ("input_tags", "name", "value", "sha256", "dataset fashion-mnist-train is {'digest'"),
        (
            "logged_model_params",
            "param_key",
            "param_value",
            "epochs",
            "param epochs is '99', and",
        ),
        (
            "logged_model_metrics",
            "metric_name",
            "metric_value",
            "best/val_loss",
            "metric best/val_loss of its model is 99.0, not",
        ),
    ],
)
def test_a_changed_row_about_data_or_model_is_named(
    flipped, trained, toy_files, table, key, value, named, said
):
    def put(row, number):
        with closing(sqlite3.connect(trained / "mlflow.db")) as connection, connection:
            connection.execute(f"UPDATE {table} SET {value} = ? WHERE rowid = ?", (number, row))

    with closing(sqlite3.connect(trained / "mlflow.db")) as connection:
        query = f"SELECT rowid, {value} FROM {table} WHERE {key} = ?"
        rows = connection.execute(query, (named,)).fetchall()
    for row, _ in rows:
        put(row, 99)
    try:
        assert said in problems(toy_files)
    finally:
        for row, before in rows:
            put(row, before)
    assert problems(toy_files) == ""


def test_a_damaged_model_is_not_promoted(flipped, trained, toy_files):
    (path,) = files_of(trained, "data/model.pth")
    flipped(path, 5000)
    reporter = Recorder()
    with pytest.raises(UserError, match="No finished training can be promoted"):
        promote(reporter=reporter)
    assert "Version 1, the champion, cannot be trusted: data/model.pth of run" in reporter.text


def test_an_alias_that_contradicts_the_history_is_named(flipped, trained, toy_files):
    client = mlflow.MlflowClient()
    client.delete_registered_model_alias(NAME, "champion")
    try:
        assert "its champion is none, 1 in the history" in problems(toy_files)
    finally:
        client.set_registered_model_alias(NAME, "champion", "1")


def test_a_lost_tag_of_a_manifest_is_named(flipped, trained, toy_files):
    client = mlflow.MlflowClient()
    run = mlflow.search_runs(search_all_experiments=True, filter_string="tags.stage = 'train'").run_id[0]
    value = client.get_run(run).data.tags["manifest.sha256"]
    client.delete_tag(run, "manifest.sha256")
    try:
        assert f"Run {run} has lost the tag manifest.sha256" in problems(toy_files)
    finally:
        client.set_tag(run, "manifest.sha256", value)


def test_what_is_no_database_of_sqlite_is_left_alone(flipped, trained, toy_files):
    (trained / "Thumbs.db").write_bytes(b"pictures")
    assert problems(toy_files) == ""
    (trained / "Thumbs.db").unlink()


def test_checkpoints_are_looked_at(flipped, trained, toy_files):
    folder = Path(trained, "checkpoints", "run")
    folder.mkdir(parents=True)
    (folder / "00001.checkpoint").write_bytes(bytes(100))
    Checkpoints(folder).write(2, {})  # a whole one after it
    assert "00001.checkpoint is damaged: `resume` passes it over" in problems(toy_files)
    shutil.rmtree(folder.parent)
