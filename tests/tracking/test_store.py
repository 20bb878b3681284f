"""The store: opened once, its failures as sentences, servers that answer or do not."""

import errno
import http.server
import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from contextlib import contextmanager

import mlflow
import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException
from toys import process_context, start_process

from lenet_study.errors import DiskError, StoreError, UserError
from lenet_study.execution.signals import Stopped
from lenet_study.tracking import links
from lenet_study.tracking.run import open_run
from lenet_study.tracking.store import (
    HEALTH_TIMEOUT,
    connect,
    fail,
    record_refusal,
    runs_with,
    store_errors,
    uninterrupted,
)


def test_failing_a_run_leaves_finished_ones_alone(store):
    experiment = store.create_experiment("e")
    finished, dead = (store.create_run(experiment).info.run_id for _ in range(2))
    store.set_terminated(finished, "FINISHED")
    for run_id in (finished, dead):
        fail(run_id, "its process died")
    stored = store.get_run(dead)
    assert (stored.info.status, stored.data.tags["failure.reason"]) == ("FAILED", "its process died")
    stored = store.get_run(finished)
    assert stored.info.status == "FINISHED"
    assert "failure.reason" not in stored.data.tags


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ml:S3cret@127.0.0.1:1/mlflow",
        "postgresql://127.0.0.1:1/mlflow?user=ml&password=S3cret",
        "https://ml:S3cret@mlflow.example.org/base",
    ],
)
def test_a_password_is_never_shown(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    shown = [links.how_to_look(), *links.view_addresses("1").values()]
    with pytest.raises(StoreError) as failed, store_errors():
        raise MlflowException(f"no connection to {uri}")
    shown.append(str(failed.value))
    assert "S3cret" not in "".join(shown)
    assert uri.rpartition("@")[2].partition("&")[0] in str(failed.value)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "API request failed with error code 401 != 200. Response body: ''",
            "refuses this user and password",
        ),
    ],
)
def test_a_failure_that_the_user_can_cure_says_how(store, message, said):
    with pytest.raises(StoreError, match=said), store_errors():
        raise MlflowException(message)


SQLITE = "(sqlite3.OperationalError) database or disk is full [SQL: UPDATE runs]"


@pytest.mark.parametrize(
    ("error", "folder"),
    [
        (MlflowException(SQLITE), "{store}|{temporary}"),  # whichever has less room
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "{store}|{temporary}"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/a/curves.png", None, "/usr/a/c.png"), "/usr"),
        (MlflowException("[Errno 28] No space left on device: '/m/a/x' -> '/usr/b/x'"), "/usr"),
        (MlflowException("[Errno 122] Disk quota exceeded: '/usr/x'"), "/usr"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "{temporary}/tmp123/curves.png"), "{temporary}"),
    ],
)
def test_a_full_disk_is_named(store, tmp_path, monkeypatch, error, folder):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(temporary=temporary)
    expected = folder.format(store=tmp_path, temporary=temporary)
    with (
        pytest.raises(DiskError, match=rf"^The disk of ({expected}) is full: make room there"),
        store_errors(),
    ):
        raise error


def test_other_failures_of_files_and_libraries_stay_what_they_are(store):
    for error in (OSError("the cable is out"), RuntimeError("shapes differ")):
        with pytest.raises(type(error), match=str(error)), store_errors():
            raise error


def open_a_run(number, together):
    together.wait()
    connect()
    with open_run(f"toy {number}", stage="train", params={"seed": number}):
        pass


def test_processes_that_open_a_fresh_store_at_once_all_succeed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    together = process_context().Barrier(4)
    processes = [start_process(open_a_run, number, together) for number in range(4)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    client = mlflow.MlflowClient(address)
    (experiment,) = client.search_experiments(filter_string="name = 'fashion-mnist-lenet'")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["toy 0", "toy 1", "toy 2", "toy 3"]


@pytest.fixture
def silent_server():
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def health_server(status):
    """Answers a health check with a status, and all else as not found."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def healthy_server():
    """Answers what an MLflow server answers to a health check, and nothing else."""
    with health_server(200) as address:
        yield address


def test_a_server_that_is_not_there_is_named_with_the_cure(store, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    start = time.perf_counter()
    with pytest.raises(StoreError, match=rf"{address} does not answer .*start it .*or unset MLFLOW"):
        connect()
    assert time.perf_counter() - start < 15


def test_a_server_that_never_answers_is_given_up(store, monkeypatch, silent_server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    start = time.perf_counter()
    with pytest.raises(StoreError, match=f"{silent_server} does not answer .*Timeout"):
        connect(timeout=0.2)
    assert time.perf_counter() - start < 15
    assert HEALTH_TIMEOUT < 15  # seconds


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_server_that_answers_is_accepted(store, monkeypatch, healthy_server, ending):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", healthy_server + ending)
    connect()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_password_is_left_to_mlflow(store, monkeypatch, status):
    with health_server(status) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        connect()


def test_a_server_that_is_broken_is_refused(store, monkeypatch):
    with health_server(500) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(StoreError, match="does not answer"):
            connect()


def test_some_other_web_server_is_refused(store, monkeypatch, healthy_server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{healthy_server}/elsewhere")
    with pytest.raises(StoreError, match="does not answer"):
        connect()


def test_a_folder_that_cannot_be_written_to_is_refused(store, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=r"mlflow\.db cannot be written to: work in another folder"):
        connect()


def test_a_store_in_no_folder_is_refused(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    with pytest.raises(UserError, match=r"nowhere/mlflow\.db is in no existing folder"):
        connect()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("address", ["./mlruns", "file:///tmp/mlruns", "nosuch://host", "sqlite:///text.db"])
def test_a_store_that_cannot_be_used_is_one_sentence(store, monkeypatch, tmp_path, address):
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises((StoreError, UserError)) as caught:
        connect()
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_program_s_database_gets_no_tables_of_mlflow(store, monkeypatch, tmp_path):
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(UserError, match=r"other\.db is another program's database: name one of MLflow's own"):
        connect()
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("alembic_version",)]


def test_a_database_that_drops_what_is_sent_is_given_up(store, monkeypatch, silent_server):
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server.replace("http", "postgresql+psycopg") + "/mlflow")
    start = time.perf_counter()
    with pytest.raises(StoreError, match=r"cannot be opened \(.*timeout.*\): start the database"):
        connect(timeout=2)
    assert time.perf_counter() - start < 15


def test_the_default_store_works_in_a_folder_with_a_space(store, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "my project").mkdir()
    monkeypatch.chdir(tmp_path / "my project")
    connect()
    assert (tmp_path / "my project" / "mlflow.db").is_file()


def test_a_folder_whose_artifacts_mlflow_would_put_elsewhere_is_refused(store, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "a%20b").mkdir()
    monkeypatch.chdir(tmp_path / "a%20b")
    with pytest.raises(UserError, match=r"a%20b has a percent sign .*rename it"):
        connect()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["a%20b"]


def test_initialising_an_existing_store_keeps_its_runs(store):
    with open_run("toy", stage="train", params={}) as run:
        pass
    connect()
    assert store.get_run(run.id).info.status == "FINISHED"


def test_a_refusal_is_written_into_the_run_that_mlflow_run_made(store, monkeypatch):
    run_id = store.create_run(store.create_experiment("project")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    record_refusal("train", "epochs=0 is no number of epochs")
    run = store.get_run(run_id)
    assert run.info.run_name == run.data.tags["mlflow.runName"] == "train"
    assert run.data.tags["failure.reason"] == "epochs=0 is no number of epochs"
    assert run.data.tags["mlflow.note.content"] == "epochs=0 is no number of epochs"


def test_a_refusal_leaves_a_run_that_has_been_used_alone(store, monkeypatch):
    with open_run("toy", stage="train", params={}) as run:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", run.id)
    before = store.get_run(run.id).to_dictionary()
    record_refusal("train", "epochs=0 is no number of epochs")
    assert store.get_run(run.id).to_dictionary() == before


def test_a_refusal_that_cannot_be_written_down_raises_nothing(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    record_refusal("train", "there is no such run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    record_refusal("train", "there is no such store")


def write_when_terminated(steps):
    with uninterrupted():
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            steps.append("inner")
        steps.append("outer")
    steps.append("after")


@pytest.fixture
def leaving():
    """SIGTERM as the command line takes it."""

    def stop(signum, frame):
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("store", "leaving")
def test_a_signal_waits_for_the_end_of_a_call():
    steps = []
    with pytest.raises(SystemExit) as caught:
        write_when_terminated(steps)
    assert steps == ["inner", "outer"]
    assert caught.value.code == 143


@pytest.mark.usefixtures("store", "leaving")
def test_a_server_s_call_is_interrupted_at_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    steps = []
    with pytest.raises(SystemExit):
        write_when_terminated(steps)
    assert steps == []


def test_runs_are_looked_up_by_their_tags_in_all_experiments(store):
    tags = {"search": "s1", "stage": "trial"}
    run_ids = set()
    for name in ("one", "other"):
        experiment = store.create_experiment(name)
        run_ids.add(store.create_run(experiment, tags=tags).info.run_id)
        store.create_run(experiment, tags={**tags, "search": "s2"})
        store.create_run(experiment, tags={"search": "s1"})
    assert {run.info.run_id for run in runs_with(tags)} == run_ids


def test_a_database_that_another_program_has_locked_is_one_sentence_in_time(store, tmp_path):
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    with pytest.raises(StoreError, match="is locked"):
        connect(timeout=0.5)
    assert time.monotonic() - start < 5
    lock.close()
    connect()


def test_a_process_that_keeps_the_store_s_lock_is_named(store, tmp_path):
    with (
        FileLock(tmp_path / "mlflow.db.lock"),
        pytest.raises(StoreError, match=r"holds .*mlflow.db.lock: end it"),
    ):
        connect(patience=0.2)
    connect()
