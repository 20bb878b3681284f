"""A store with a study comes back from its archive: rows, files, models, aliases, searches, checkpoints."""

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import mlflow
import optuna
import pytest
from conftest import Recorder, open_store

from lenet_study.__main__ import main
from lenet_study.errors import UserError
from lenet_study.recipes.recipe import TrainingConfig
from lenet_study.tracking import relocation
from lenet_study.tracking.archive import read
from lenet_study.tracking.registry import load_model
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.backup import backup, restore
from lenet_study.workflows.study import study
from lenet_study.workflows.verify import verify


def rows(database):
    """All rows of all tables, as text."""
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def saved(initialised_database, tmp_path_factory, toy_files):
    """A store with a study, a search's database and an interrupted training's checkpoint; and its archive."""
    folder, other = tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("other")
    with open_store(initialised_database, folder) as client:
        config = TrainingConfig(epochs=1, batch_size=16, seed=3)
        options = {"hardware": Hardware(device="cpu"), "workers": 1, "data": toy_files}
        study(config, folds=2, variants=("baseline",), **options)
        outside = client.create_experiment("outside", str(other / "artifacts"))
        run = client.create_run(outside)
        client.log_text(run.info.run_id, "here", "note.txt")
        client.create_experiment("bucket", "s3://bucket/path")
        optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", study_name="lenet")
        (folder / "checkpoints" / "a-run").mkdir(parents=True)
        (folder / "checkpoints" / "a-run" / "3.pt").write_bytes(b"state")
        spool = folder / "spool" / "a-run"
        spool.mkdir(parents=True)
        (spool / "about.json").write_text(json.dumps({"store": f"sqlite:///{folder}/mlflow.db"}))
        (folder / "thesis.txt").write_text("not of the store")
        archive, recorder = other / "store.tar", Recorder()
        backup(archive, recorder)
        yield SimpleNamespace(
            folder=folder, other=other, archive=archive, text=recorder.text, note=run.info.run_id
        )


@pytest.fixture
def restored(saved, tmp_path, monkeypatch):
    """The archive's store in a folder of its own; the original is out of reach."""
    folder = tmp_path / "restored"
    restore(saved.archive, folder)
    hidden = [(path, path.with_name(f"{path.name}-hidden")) for path in (saved.folder, saved.other)]
    monkeypatch.chdir(folder)
    for path, away in hidden:
        path.rename(away)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    yield folder
    for path, away in hidden:
        away.rename(path)


def test_rows_and_files_come_back(saved, restored):
    original = saved.folder.with_name(f"{saved.folder.name}-hidden")
    back = [
        line.replace(f"{restored}/mlruns", f"{saved.folder}/mlruns") for line in rows(restored / "mlflow.db")
    ]
    # Other tests may have filled the folder of the template's experiment, which then comes back, too.
    archive = saved.other.with_name(f"{saved.other.name}-hidden") / saved.archive.name
    roots = {former: place for former, place in read(archive)["roots"].items() if place != "."}
    assert str(saved.other / "artifacts") in roots
    for former, place in roots.items():
        back = [line.replace(f"{restored}/{place}", former) for line in back]
    assert back == rows(original / "mlflow.db")
    assert not any(str(saved.folder) in line for line in rows(restored / "mlflow.db"))
    assert files(restored / "mlruns") == files(original / "mlruns")
    assert files(restored / "checkpoints") == files(original / "checkpoints")
    assert rows(restored / "optuna.db") == rows(original / "optuna.db")
    about = json.loads((restored / "spool" / "a-run" / "about.json").read_text())
    assert about == {"store": f"sqlite:///{restored}/mlflow.db"}
    assert not (restored / "thesis.txt").exists()


def test_models_aliases_and_runs_are_those_of_the_original(saved, restored, toy_files):
    shutil.rmtree(restored / "checkpoints")  # not whole
    verify("all", toy_files)
    client = mlflow.MlflowClient()
    versions = client.search_model_versions()
    assert f"{len(versions)} versions" in saved.text
    assert "Artifacts at s3: are not in it" in saved.text
    for version in versions:
        loaded = load_model(f"models:/{version.name}/{version.version}")
        assert loaded.weights_sha256 == client.get_run(version.run_id).data.tags["weights.sha256"]
    assert load_model("models:/fashion-mnist-lenet@champion").weights_sha256
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert f"{len(runs)} runs" in saved.text
    assert Path(client.download_artifacts(saved.note, "note.txt")).read_text() == "here"


def test_a_restored_store_leaves_the_original_alone(saved, tmp_path):
    before = files(saved.folder)
    restore(saved.archive, tmp_path / "beside")
    assert files(saved.folder) == before
    with closing(sqlite3.connect(tmp_path / "beside" / "mlflow.db")) as connection:
        addresses = connection.execute("SELECT artifact_uri FROM runs").fetchall()
    assert all(address.startswith(str(tmp_path / "beside")) for (address,) in addresses)


def test_commands_say_what_they_did_and_refuse_what_is_there(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{saved.folder}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert main(["backup"]) == 0
    (archive,) = tmp_path.glob("mlflow-*.tar")
    assert "runs and" in capsys.readouterr().out
    assert main(["backup", "--to", archive.name]) == 2
    assert "is there already: name another file" in capsys.readouterr().err
    assert main(["restore", "--source", archive.name, "--to", "."]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["restore", "--source", archive.name, "--to", "empty"]) == 0
    assert f"export MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/empty/mlflow.db" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "empty"}


def test_nothing_is_restored_from_a_damaged_archive(saved, tmp_path):
    damaged = tmp_path / "damaged.tar"
    shutil.copy(saved.archive, damaged)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match=r"was damaged: .* is not what was written; use another backup"):
        restore(damaged, tmp_path / "new")
    assert [*tmp_path.iterdir()] == [damaged]


def test_a_database_is_copied_as_it_is_at_one_moment(tmp_path):
    database, stop = tmp_path / "a.db", threading.Event()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE pairs (a, b)")

    def write():
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            for number in range(100_000):
                with connection:
                    connection.execute("INSERT INTO pairs VALUES (?, NULL)", (number,))
                    connection.execute("UPDATE pairs SET b = a WHERE a = ?", (number,))
                if stop.is_set():
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(20):
            copy = tmp_path / f"copy-{number}.db"
            relocation.copy_database(database, copy)
            with closing(sqlite3.connect(copy)) as connection:
                assert connection.execute("SELECT count(*) FROM pairs WHERE b IS NOT a").fetchone() == (0,)
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        stop.set()
        thread.join()
