"""`doctor` finds what is wrong, names its cure, and changes nothing but a half-made store."""

import json
import os
import re
import socket
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import mlflow
import pytest
from alembic import command
from alembic.config import Config
from conftest import Recorder, add_training
from mlflow.store.db.utils import InitialBase
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from lenet_study.errors import HealthError, StoreError
from lenet_study.tracking.liveness import process_tags
from lenet_study.tracking.run import open_run
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.spool import Spool
from lenet_study.tracking.store import connect, spool_folder, store_address
from lenet_study.workflows import computer_checks as computer
from lenet_study.workflows.doctor import report
from lenet_study.workflows.finding import Finding, guarded
from lenet_study.workflows.orphans import reap
from lenet_study.workflows.store_checks import store_findings

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


def store_findings_by_name():
    """What was found; of two with one name, the last."""
    return {finding.name: finding for finding in store_findings()}


def execute(database, statement):
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def test_a_store_whose_making_was_cut_off_is_named(half_made):
    with pytest.raises(StoreError, match=r"mlflow\.db was cut off while made: `lenet-study doctor`"):
        connect()


def test_a_store_whose_making_was_cut_off_is_made_anew(half_made):
    former = half_made.read_bytes()
    sentence = store_findings_by_name()["making"].sentence
    (aside,) = half_made.parent.glob("mlflow.db.half-made-*")
    assert aside.read_bytes() == former
    assert aside.name in sentence
    with open_run("toy", stage="train", params={}) as run:
        pass
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FINISHED"


def test_rows_are_never_set_aside(half_made):
    execute(half_made, "INSERT INTO experiments (name, experiment_id) VALUES ('mine', 7)")
    os.utime(half_made, (0, 0))
    found = store_findings_by_name()["making"]
    assert (found.state, found.cure[:18]) == ("problem", "put the copy back ")
    assert "it holds rows (experiments)" in found.sentence
    assert [path.name for path in half_made.parent.iterdir()] == ["mlflow.db"]


def test_a_store_that_is_being_made_is_left_alone(half_made):
    os.utime(half_made)
    assert store_findings_by_name()["making"].cure == "try again in 10 s"
    assert half_made.exists()


def test_a_sound_store_is_all_ok(store):
    assert {finding.state for finding in store_findings()} == {"ok"}


def test_no_store_is_made(store, tmp_path):
    (tmp_path / "mlflow.db").unlink()
    assert "not there yet" in store_findings_by_name()["store"].sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["nonsense", "sqlite://", "http://127.0.0.1:1", "sqlite:////nosuch/x.db"])
def test_a_store_that_cannot_be_used_is_a_problem(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = store_findings_by_name()["store"]
    assert found.state == "problem"
    assert found.cure


@pytest.mark.parametrize(
    ("revision", "words", "cure"),
    [(MIDWAY, "older", "mlflow db upgrade"), ("0123456789ab", "newer", "install the MLflow")],
)
def test_tables_of_another_version_are_a_problem(store, tmp_path, revision, words, cure):
    execute(tmp_path / "mlflow.db", f"UPDATE alembic_version SET version_num = '{revision}'")
    found = store_findings_by_name()["tables"]
    assert (found.state, words in found.sentence, cure in found.cure) == ("problem", True, True)


def test_a_damaged_database_is_a_problem(store, tmp_path):
    database = tmp_path / "mlflow.db"
    content = bytearray(database.read_bytes())
    content[4096 * 3 : 4096 * 6] = bytes(4096 * 3)
    database.write_bytes(content)
    assert "last backup" in store_findings_by_name()["database"].cure


def test_a_locked_store_is_a_problem(store, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "is locked" in store_findings_by_name()["store"].sentence


def test_a_former_store_of_files_is_found_until_it_is_moved(store, tmp_path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    found = store_findings_by_name()["former store"]
    assert found.state == "problem"
    command = re.match("`(.*?)`", found.cure)[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert store_findings_by_name()["former store"].state == "ok"


def test_a_moved_folder_is_found(store, tmp_path, monkeypatch):
    run_id = add_training(store, "baseline", 0.9)
    store.log_text(run_id, "summary", "model_summary.txt")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    monkeypatch.chdir(tmp_path.parent)
    tmp_path.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved / 'mlflow.db'}")
    found = store_findings_by_name()["artifacts"]
    assert (found.state, found.cure) == ("problem", "`lenet-study relocate`")
    assert str(tmp_path) in found.sentence
    monkeypatch.chdir(moved.parent)
    moved.rename(tmp_path)


def test_orphans_are_found_until_they_are_reaped(store):
    run_id = add_training(store, "toy", None, status="RUNNING", registered=False, **process_tags())
    assert store_findings_by_name()["runs"].state == "ok"
    store.set_tag(run_id, Tag.PROCESS_BOOT, "another")
    found = store_findings_by_name()["runs"]
    assert (found.state, found.cure, run_id in found.sentence) == ("problem", "`lenet-study reap`", True)
    reap()
    assert store_findings_by_name()["runs"].state == "ok"


def test_spools_and_checkpoints_left_behind_are_found(store, tmp_path):
    Spool(spool_folder() / "abc", {"store": store_address(), "run_id": "abc", "name": "toy"})
    (tmp_path / "checkpoints" / "nosuch").mkdir(parents=True)
    found = store_findings_by_name()
    assert (found["spools"].state, found["spools"].cure) == ("warning", "`lenet-study sync`")
    assert (found["checkpoints"].state, "nosuch" in found["checkpoints"].cure) == ("warning", True)


def test_python_and_packages_are_compared_with_the_pins(tmp_path):
    assert [computer.python((3, 11)).state, computer.python((3, 12)).state] == ["ok", "problem"]
    pins = tmp_path / "requirements.txt"
    assert computer.packages(pins).state == "warning"
    pins.write_text("mlflow==0.1\nnosuch-package==1\n")
    found = computer.packages(pins)
    assert "mlflow==0.1 is wanted" in found.sentence
    assert "nosuch-package==1 is wanted, nothing installed" in found.sentence
    assert str(pins) in found.cure


@pytest.mark.parametrize(
    ("versions", "state"),
    [
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, "ok"),
        ({"torch": "2.12.0", "torchvision": "0.28.0"}, "problem"),
        ({"torch": "2.13.0"}, "problem"),
    ],
)
def test_torch_needs_its_torchvision(versions, state):
    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    assert computer.torchvision(version, lambda name: ["numpy", "torch==2.13.0"]).state == state


def test_data_that_is_missing_or_damaged_is_found(toy_files, tmp_path):
    assert computer.data(toy_files).state == "ok"
    missing = replace(toy_files, folder=tmp_path / "nosuch")
    assert computer.data(missing).state == "warning"
    assert not missing.folder.exists()
    wrong = replace(toy_files, sha256=dict.fromkeys(toy_files.sha256, "0"))
    assert "delete it" in guarded("data", lambda: computer.data(wrong)).cure


def test_little_room_warns_and_none_is_a_problem(tmp_path):
    sizes = (10 * 2**30, 500 * 2**20, 2**20)
    states = ["ok", "warning", "problem"]
    assert [computer.disk(tmp_path / "nosuch", free).state for free in sizes] == states
    assert [computer.memory(size, workers=4).state for size in (4 * 2**30, 2**30, 2**20)] == states


def test_a_taken_port_is_found_with_its_process():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        found = computer.port(number, "`mlflow ui`")
        assert (found.state, str(os.getpid()) in found.sentence) == ("warning", True)
    assert computer.port(number, "`mlflow ui`").state == "ok"


def test_git_and_docker_are_only_warned_of(tmp_path):
    assert computer.git(tmp_path).state == "warning"
    assert computer.docker(("false",)).state == "warning"
    assert computer.docker(("nosuch-program",)).state == "warning"
    assert computer.docker(("echo", "27.1")).sentence == "version 27.1"


def test_a_check_that_fails_is_a_problem():
    found = guarded("toy", lambda: 1 // 0)
    assert (found.state, "ZeroDivisionError" in found.sentence) == ("problem", True)


def test_findings_are_printed_as_lines_or_json():
    findings = [
        Finding(name="a", sentence="fine"),
        Finding(name="b", state="problem", sentence="bad", cure="mend it"),
    ]
    lines, document = Recorder(), Recorder()
    with pytest.raises(HealthError, match="1 of 2 checks found a problem: b"):
        report(findings, as_json=False, reporter=lines)
    with pytest.raises(HealthError):
        report(findings, as_json=True, reporter=document)
    assert lines.text.splitlines()[1] == "✗ problem  b: bad; cure: mend it"
    assert json.loads(document.text)[1] == vars(findings[1])
    report(findings[:1], as_json=False, reporter=Recorder())
