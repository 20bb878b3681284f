"""A store whose folder was moved is refused, and finds its files again."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from conftest import Recorder, add_training
from toys import toy_split

from lenet_study.errors import UserError
from lenet_study.recipes.variants import Variant
from lenet_study.tracking.liveness import process_tags
from lenet_study.tracking.registry import load_model, log_model
from lenet_study.tracking.relocation import moved_from
from lenet_study.tracking.run import open_run
from lenet_study.tracking.store import connect
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import LeNet
from lenet_study.workflows.relocate import relocate

TOY = Variant(
    change="small", channels=(2, 3), hidden_units=(8, 6), batch_norm=True, halve_learning_rate_every=None
)


def rows(database):
    """All rows of all tables, as text."""
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


@pytest.fixture
def moved(store, tmp_path, monkeypatch):
    """A store with a registered model, moved from the folder `old` to `new`, and the model's run."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.move(tmp_path / "mlflow.db", old)
    monkeypatch.chdir(old)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}/mlflow.db")
    images = toy_split(20, seed=5).images
    with open_run("toy", stage="train", params={}) as run:
        log_model(run, LeNet(TOY, seed=3), Normalisation.of(images), images, {"name": "toy"}, register=True)
    old.rename(new)
    monkeypatch.chdir(new)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{new}/mlflow.db")
    return new / "mlflow.db", run.id


def test_a_moved_store_is_refused_and_repaired(moved, tmp_path):
    database, run_id = moved
    assert moved_from(database) == tmp_path / "old"
    with pytest.raises(UserError, match=f"was moved here from {tmp_path}/old, .*`lenet-study relocate`"):
        connect()
    before, recorder = rows(database), Recorder()
    relocate(recorder)
    (copy,) = tmp_path.glob("new/mlflow.db.before-relocate-*")
    assert f"led to {tmp_path}/old, and lead to {tmp_path}/new now; the database as it was is {copy}" in (
        recorder.text
    )
    assert rows(copy) == before
    after = [line.replace(f"{tmp_path}/new/", f"{tmp_path}/old/") for line in rows(database)]
    assert after == before
    assert sum(f"{tmp_path}/new/" in line for line in rows(database)) == int(recorder.text.split()[0])
    connect()
    loaded = load_model("models:/fashion-mnist-lenet/1")
    tag = mlflow.MlflowClient().get_run(run_id).data.tags["weights.sha256"]
    assert loaded.weights_sha256 == tag
    assert not (tmp_path / "old").exists()


def test_a_store_in_its_place_is_left_alone(moved):
    database, _ = moved
    relocate()
    before, recorder = rows(database), Recorder()
    relocate(recorder)
    assert "nothing to do" in recorder.text
    assert rows(database) == before
    assert len([*database.parent.glob("*.before-relocate-*")]) == 1


def test_addresses_that_exist_or_belong_elsewhere_stay(moved, tmp_path):
    database, _ = moved
    elsewhere = {
        "a bucket": "s3://bucket/old/mlruns/1",
        "a server": "mlflow-artifacts:/1",
        "another disk": "/mnt/nosuch/mlruns",
        "there": str(tmp_path / "old" / "mlruns" / "7"),
    }
    Path(elsewhere["there"]).mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        for name, address in elsewhere.items():
            connection.execute(
                "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, 'active')",
                (name, address),
            )
        connection.commit()
    relocate()
    with closing(sqlite3.connect(database)) as connection:
        stored = dict(connection.execute("SELECT name, artifact_location FROM experiments"))
    assert {name: stored[name] for name in elsewhere} == elsewhere
    assert stored["fashion-mnist-lenet"] == str(tmp_path / "new" / "mlruns" / "1")


def test_addresses_written_as_file_urls_are_repaired_too(moved, tmp_path):
    database, _ = moved
    url = (tmp_path / "old" / "mlruns" / "1").as_uri()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 1", (url,))
        connection.commit()
    relocate()
    location = mlflow.MlflowClient().get_experiment("1").artifact_location
    assert location == (tmp_path / "new" / "mlruns" / "1").as_uri()


def test_what_was_not_delivered_belongs_to_the_moved_store(moved, tmp_path):
    spool = tmp_path / "new" / "spool" / "a-run"
    spool.mkdir(parents=True)
    about = {"store": f"sqlite:///{tmp_path}/old/mlflow.db", "run_id": "a-run", "name": "toy"}
    (spool / "about.json").write_text(json.dumps(about))
    relocate()
    repaired = json.loads((spool / "about.json").read_text())
    assert repaired == {**about, "store": f"sqlite:///{tmp_path}/new/mlflow.db"}


def test_a_store_that_a_process_works_on_is_left_alone(moved):
    database, run_id = moved
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE runs SET status = 'RUNNING'")
        connection.execute("DELETE FROM tags WHERE key LIKE 'process.%'")
        for key, value in process_tags().items():
            connection.execute("INSERT INTO tags VALUES (?, ?, ?)", (key, value, run_id))
        connection.commit()
    before = rows(database)
    with pytest.raises(UserError, match=f"A process works on run {run_id}"):
        relocate()
    assert rows(database) == before


def test_a_store_without_artifacts_is_not_taken_for_a_moved_one(store, tmp_path):
    assert moved_from(tmp_path / "mlflow.db") is None  # made elsewhere, and copied here
    add_training(store, "v1", 0.5)
    assert moved_from(tmp_path / "mlflow.db") is None
    assert moved_from(tmp_path / "nosuch.db") is None


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("http://127.0.0.1:1", "is no SQLite file"),
        ("sqlite:///nosuch.db", "no file nosuch.db"),
        ("sqlite:///text.db", "cannot be read"),
        ("sqlite:///empty.db", "no store of MLflow"),
    ],
)
def test_what_is_no_local_store_is_refused(store, tmp_path, monkeypatch, uri, named):
    (tmp_path / "text.db").write_text("text" * 100)
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=named):
        relocate()
