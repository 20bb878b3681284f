"""A store whose making was cut off is named, and made anew if it holds nothing."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from alembic import command
from alembic.config import Config
from conftest import Recorder
from mlflow.store.db.utils import InitialBase
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from lenet_study.errors import StoreError, UserError
from lenet_study.tracking.run import open_run
from lenet_study.tracking.store import connect
from lenet_study.workflows.doctor import doctor

MIDWAY = "a8c4a736bde6"  # a version of MLflow's tables at which processes that made them at once got stuck


@pytest.fixture
def half_made(store, tmp_path, monkeypatch):
    """A store as those processes leave it: a migration's table is there, which the next one wants to make."""
    database = tmp_path / "half" / "mlflow.db"
    database.parent.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{database}")
    InitialBase.metadata.create_all(create_engine(uri, poolclass=NullPool))
    migrations = Config()
    migrations.set_main_option(
        "script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations")
    )
    migrations.set_main_option("sqlalchemy.url", uri)
    command.upgrade(migrations, MIDWAY)
    execute(database, "CREATE TABLE _alembic_tmp_latest_metrics (key TEXT)")
    os.utime(database, (0, 0))
    return database


def execute(database, statement):
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def test_a_store_whose_making_was_cut_off_is_named(half_made):
    with pytest.raises(StoreError, match=r"mlflow\.db was cut off while made: `lenet-study doctor`"):
        connect()


def test_a_store_whose_making_was_cut_off_is_made_anew(half_made):
    recorder, former = Recorder(), half_made.read_bytes()
    doctor(recorder)
    (aside,) = half_made.parent.glob("mlflow.db.half-made-*")
    assert aside.read_bytes() == former
    assert aside.name in recorder.text
    with open_run("toy", stage="train", params={}) as run:
        pass
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FINISHED"


def test_rows_are_never_set_aside(half_made):
    execute(half_made, "INSERT INTO experiments (name, experiment_id) VALUES ('mine', 7)")
    os.utime(half_made, (0, 0))
    with pytest.raises(UserError, match=r"it holds rows \(experiments\): put the copy back"):
        doctor()
    assert [path.name for path in half_made.parent.iterdir()] == ["mlflow.db"]


def test_a_store_that_is_being_made_is_left_alone(half_made):
    os.utime(half_made)
    with pytest.raises(UserError, match="was changed a moment ago: try again in 10 s"):
        doctor()
    assert half_made.exists()


def test_a_sound_store_answers(store):
    recorder = Recorder()
    doctor(recorder)
    assert "answers" in recorder.text


def test_a_store_that_is_not_there_is_made(store, tmp_path):
    (tmp_path / "mlflow.db").unlink()
    doctor()
    assert (tmp_path / "mlflow.db").is_file()
