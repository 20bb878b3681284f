import csv
import http.server
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import mlflow
import pandas as pd
import pytest
from conftest import toy_split
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException

from lenet_study.errors import StoreError, UserError
from lenet_study.tracking import run as tracking
from lenet_study.training.history import Epoch

EPOCH = Epoch(
    epoch=2,
    learning_rate=0.001,
    train_loss=0.5,
    train_accuracy=0.75,
    val_loss=0.25,
    val_accuracy=0.875,
    seconds=3.0,
)


def opened(name="toy", stage="train", params=None, **options):
    return tracking.run(name, stage=stage, params=params or {}, **options)


def python(script, folder, **environment):
    """A process with its own store in ``folder``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    source = str(Path(tracking.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**env, "PYTHONPATH": source, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_ends_well_is_finished(store):
    with opened() as run:
        assert store.get_run(run.id).info.status == "RUNNING"
    stored = store.get_run(run.id)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "toy")
    assert "error" not in stored.data.tags
    assert mlflow.active_run() is None


def test_an_exception_leaves_a_failed_run_with_its_message_on_one_line(store):
    with pytest.raises(ValueError, match="first"), opened() as run:
        raise ValueError("first\n  second")
    stored = store.get_run(run.id)
    assert (stored.info.status, stored.data.tags["error"]) == ("FAILED", "first second")
    assert mlflow.active_run() is None


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(0), SystemExit(143)], ids=repr)
def test_an_interrupted_run_is_killed(store, interruption):
    with pytest.raises(type(interruption)), opened() as run:
        raise interruption
    assert store.get_run(run.id).info.status == "KILLED"


def test_a_run_is_killed_with_its_surrounding_run(store):
    with (
        pytest.raises(KeyboardInterrupt),
        opened("outer") as outer,
        opened("inner", parent=outer.id) as inner,
    ):
        raise KeyboardInterrupt
    assert {store.get_run(run.id).info.status for run in (outer, inner)} == {"KILLED"}


def test_sigterm_leaves_a_killed_run_and_exit_code_143(store, tmp_path):
    script = """
        import sys, time, types
        from lenet_study.tracking import run as tracking
        from lenet_study.__main__ import main

        def command(**values):
            with tracking.run("toy", stage="train", params={}) as run:
                print(run.id, flush=True)
                time.sleep(60)

        sys.modules["lenet_study.workflows.data"] = types.SimpleNamespace(main=command)
        sys.exit(main(["data"]))
    """
    process = python(script, tmp_path, MLFLOW_TRACKING_URI=os.environ["MLFLOW_TRACKING_URI"])
    run_id = process.stdout.readline().strip()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert store.get_run(run_id).info.status == "KILLED"
    assert "Traceback" not in errors


def test_the_first_run_of_a_process_is_the_one_that_mlflow_run_made(store, monkeypatch):
    experiment = store.create_experiment("project")
    made = store.create_run(experiment, run_name="random-name-7").info.run_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with opened("v2") as first, opened("v2 fold 1/5") as second:
        assert first.id == made
        assert second.id != made
    with opened() as third:
        assert third.id not in (first.id, second.id)
    stored = store.get_run(made)
    assert (stored.info.run_name, stored.info.status) == ("v2", "FINISHED")
    assert stored.data.tags["stage"] == "train"


def test_a_parameter_keeps_the_spelling_that_the_run_already_has(store, monkeypatch):
    experiment = store.create_experiment("project")
    made = store.create_run(experiment).info.run_id
    store.log_param(made, "learning_rate", "0.010")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with opened(params={"learning_rate": 0.01, "epochs": 15}) as run:
        run.log_params({"epochs": "15.0", "seed": 0})
    assert store.get_run(made).data.params == {"learning_rate": "0.010", "epochs": "15", "seed": "0"}


def test_tags_of_a_run(store):
    with opened() as study:
        pass
    given = {"variant": "v2", "fold": 3}
    with opened(stage="kfold", tags=given, description="**v2**", study=study.id) as run:
        pass
    tags = store.get_run(run.id).data.tags
    expected = {
        "stage": "kfold",
        "variant": "v2",
        "fold": "3",
        "study": study.id,
        "mlflow.note.content": "**v2**",
        "mlflow.runName": "toy",
    }
    assert expected.items() <= tags.items()
    assert "mlflow.user" in tags  # what MLflow tells of every run is kept
    assert "mlflow.parentRunId" not in tags


def test_a_run_has_no_tags_that_were_not_given(store):
    with opened() as run:
        pass
    assert not {"study", "mlflow.note.content", "mlflow.parentRunId"} & store.get_run(run.id).data.tags.keys()


def test_git_tags_tell_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "src" / "lenet_study" / "tracking" / "run.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking._git_tags() == {}
    git("init", "-q")
    assert tracking._git_tags() == {}  # no commit yet
    git("commit", "-q", "--allow-empty", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert tracking._git_tags() == {"git.commit": commit, "git.dirty": "false"}
    (tmp_path / "new.py").touch()
    assert tracking._git_tags() == {"git.commit": commit, "git.dirty": "true"}
    monkeypatch.setenv("PATH", "")
    assert tracking._git_tags() == {}


def test_a_run_carries_its_git_tags(store, monkeypatch):
    tags = {"git.commit": "0123abc", "git.dirty": "true"}
    monkeypatch.setattr(tracking, "_git_tags", lambda: tags)
    with opened() as run:
        pass
    assert tags.items() <= store.get_run(run.id).data.tags.items()


def test_only_a_given_parent_nests_a_run(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    with opened("study") as study:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ignored by children")
        monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        with opened("v4") as top, opened("v4 fold 1/5", parent=top.id) as fold:
            pass
        assert mlflow.active_run().info.run_id == study.id
    assert "mlflow.parentRunId" not in store.get_run(top.id).data.tags
    assert store.get_run(fold.id).data.tags["mlflow.parentRunId"] == top.id
    assert study.experiment_id == top.experiment_id == fold.experiment_id
    assert store.get_experiment(study.experiment_id).name == "elsewhere"


def test_the_experiment_is_ours_unless_the_environment_names_one(store):
    with opened() as run:
        pass
    experiment = store.get_experiment(run.experiment_id)
    assert experiment.name == "fashion-mnist-lenet"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "LeNet-5" in experiment.tags["mlflow.note.content"]


def test_a_run_joins_the_experiment_of_its_study_that_another_process_opened(store, monkeypatch):
    elsewhere = store.create_experiment("elsewhere")
    study = store.create_run(elsewhere).info.run_id
    with opened(study=study) as run:
        assert run.experiment_id == elsewhere


def test_failing_a_run_leaves_finished_ones_alone(store):
    experiment = store.create_experiment("e")
    finished, dead = (store.create_run(experiment).info.run_id for _ in range(2))
    store.set_terminated(finished, "FINISHED")
    for run_id in (finished, dead):
        tracking.fail(run_id, "its process died")
    stored = store.get_run(dead)
    assert (stored.info.status, stored.data.tags["error"]) == ("FAILED", "its process died")
    stored = store.get_run(finished)
    assert stored.info.status == "FINISHED"
    assert "error" not in stored.data.tags


def test_an_experiment_id_in_the_environment_wins(store, monkeypatch):
    experiment_id = store.create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    with opened() as run:
        assert run.experiment_id == experiment_id
    assert "mlflow.experimentKind" in store.get_experiment(experiment_id).tags


def test_a_description_that_somebody_wrote_is_kept(store):
    with opened() as run:
        pass
    store.set_experiment_tag(run.experiment_id, "mlflow.note.content", "Ours, spring term.")
    with opened():
        pass
    assert store.get_experiment(run.experiment_id).tags["mlflow.note.content"] == "Ours, spring term."


def test_somebody_else_s_experiment_keeps_its_tags(store, monkeypatch):
    theirs = {"mlflow.note.content": "Course 2026, owner: Ann.", "mlflow.experimentKind": "genai_development"}
    experiment_id = store.create_experiment("course", tags=theirs)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "course")
    with opened():
        pass
    assert theirs.items() <= store.get_experiment(experiment_id).tags.items()


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ml:S3cret@127.0.0.1:1/mlflow",
        "postgresql://127.0.0.1:1/mlflow?user=ml&password=S3cret",
        "https://ml:S3cret@mlflow.example.org/base",
    ],
)
def test_a_password_is_never_shown(store, monkeypatch, uri):
    monkeypatch.setattr(tracking.mlflow, "get_tracking_uri", lambda: uri)
    shown = [tracking.how_to_look(), *tracking.study_addresses("1", "abc", ["r"]).values()]
    with pytest.raises(StoreError) as failed, tracking.store_errors():
        raise MlflowException(f"no connection to {uri}")
    shown.append(str(failed.value))
    assert "S3cret" not in "".join(shown)
    assert uri.rpartition("@")[2].partition("&")[0] in str(failed.value)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "(sqlite3.OperationalError) database or disk is full [SQL: UPDATE runs]",
            "is full: make room there",
        ),
        (
            "API request failed with error code 401 != 200. Response body: ''",
            "refuses this user and password",
        ),
    ],
)
def test_a_failure_that_the_user_can_cure_says_how(store, message, said):
    with pytest.raises(StoreError, match=said), tracking.store_errors():
        raise MlflowException(message)


def test_an_epoch_is_logged_at_its_step(store):
    with opened() as run:
        run.log_epoch(EPOCH)
    expected = {
        "train/loss": 0.5,
        "train/accuracy": 0.75,
        "val/loss": 0.25,
        "val/accuracy": 0.875,
        "learning_rate": 0.001,
        "epoch_seconds": 3.0,
    }
    assert store.get_run(run.id).data.metrics == expected
    assert {store.get_metric_history(run.id, name)[0].step for name in expected} == {2}


def test_without_validation_no_validation_metric_is_logged(store):
    blind = Epoch(**{**vars(EPOCH), "val_loss": None, "val_accuracy": None})
    with opened() as run:
        run.log_epoch(blind)
        run.log_best(blind)
    names = store.get_run(run.id).data.metrics.keys()
    assert {"train/loss", "best/epoch", "best/train_accuracy", "best/train_loss"} <= names
    assert not [name for name in names if "val" in name]


def test_the_best_epoch_becomes_summary_metrics(store):
    with opened() as run:
        run.log_best(EPOCH)
    assert store.get_run(run.id).data.metrics == {
        "best/epoch": 2,
        "best/val_accuracy": 0.875,
        "best/val_loss": 0.25,
        "best/train_accuracy": 0.75,
        "best/train_loss": 0.5,
    }


def test_artifacts(store, tmp_path):
    with opened() as run:
        run.log_figure(Figure(), "curves.png")
        run.log_table(pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]}), "history.csv")
        run.log_text("LeNet ×5", "model_summary.txt")
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.id, dst_path=str(tmp_path / "got")))
    assert {path.name for path in folder.iterdir()} == {
        "curves.png",
        "environment.txt",
        "history.csv",
        "model_summary.txt",
    }
    assert "mlflow==" in (folder / "environment.txt").read_text()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "history.csv").open() as file:
        assert list(csv.reader(file)) == [["epoch", "loss"], ["1", "0.5"], ["2", "0.25"]]
    assert (folder / "model_summary.txt").read_text(encoding="utf-8") == "LeNet ×5"


def test_a_dataset_carries_its_whole_digest(store):
    split = toy_split(20, seed=1)
    with opened() as run:
        run.log_dataset(split, "validation")
    stored = store.get_run(run.id)
    (logged,) = stored.inputs.dataset_inputs
    tags = {tag.key: tag.value for tag in logged.tags}
    assert logged.dataset.digest == split.digest()[:32]
    assert tags == {"mlflow.data.context": "validation", "sha256": split.digest()}
    assert len(tags["sha256"]) == 64
    assert stored.data.tags["dataset.validation.sha256"] == split.digest()
    assert "zalandoresearch/fashion-mnist" in logged.dataset.source


def test_a_dataset_belongs_to_its_run_even_while_another_is_open(store):
    with opened("outer") as outer, opened("inner") as inner:
        outer.log_dataset(toy_split(20, seed=1), "train")
    assert len(store.get_run(outer.id).inputs.dataset_inputs) == 1
    assert not store.get_run(inner.id).inputs.dataset_inputs


def test_a_failure_of_the_store_within_a_run_is_one_sentence(store):
    with pytest.raises(StoreError, match=r"sqlite:.* failed: two lines") as caught, opened():
        raise MlflowException("two\n  lines")
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_in_the_environment_is_a_store_error(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "777")
    with pytest.raises(StoreError, match="777"), opened():
        pass


def test_processes_that_open_a_fresh_store_at_once_all_succeed(tmp_path):
    script = """
        import multiprocessing, os, sys
        from lenet_study.tracking import run as tracking

        def work(number, together):
            together.wait()
            tracking.connect()
            with tracking.run(f"toy {number}", stage="train", params={"seed": number}):
                pass

        processes = multiprocessing.get_context("fork")
        together = processes.Barrier(4)
        workers = [processes.Process(target=work, args=(n, together)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print([worker.exitcode for worker in workers])
    """
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    output, errors = python(script, tmp_path, MLFLOW_TRACKING_URI=address).communicate(timeout=120)
    assert output.strip() == "[0, 0, 0, 0]", errors
    client = mlflow.MlflowClient(address)
    (experiment,) = client.search_experiments(filter_string="name = 'fashion-mnist-lenet'")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["toy 0", "toy 1", "toy 2", "toy 3"]


@pytest.fixture
def silent_server():
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def healthy_server():
    """Answers what an MLflow server answers to a health check, and nothing else."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_is_not_there_is_named_with_the_cure(store, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    start = time.perf_counter()
    with pytest.raises(StoreError, match=rf"{address} does not answer .*start it .*or unset MLFLOW"):
        tracking.connect()
    assert time.perf_counter() - start < 15


def test_a_server_that_never_answers_is_given_up(store, monkeypatch, silent_server):
    get = tracking.requests.get
    timeouts = []

    def hasty(address, timeout):
        timeouts.append(timeout)
        return get(address, timeout=0.2)

    monkeypatch.setattr(tracking.requests, "get", hasty)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    with pytest.raises(StoreError, match=f"{silent_server} does not answer .*Timeout"):
        tracking.connect()
    assert sum(timeouts) < 15  # seconds


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_server_that_answers_is_accepted(store, monkeypatch, healthy_server, ending):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", healthy_server + ending)
    tracking.connect()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_password_is_left_to_mlflow(store, monkeypatch, status):
    answer = SimpleNamespace(status_code=status)
    monkeypatch.setattr(tracking.requests, "get", lambda address, timeout: answer)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    tracking.connect()


def test_some_other_web_server_is_refused(store, monkeypatch, healthy_server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{healthy_server}/elsewhere")
    with pytest.raises(StoreError, match="does not answer"):
        tracking.connect()


def test_a_folder_that_cannot_be_written_to_is_refused(store, monkeypatch, tmp_path):
    monkeypatch.setattr(tracking.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=r"mlflow\.db cannot be written to: work in another folder"):
        tracking.connect()


def test_a_store_in_no_folder_is_refused(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    with pytest.raises(UserError, match=r"nowhere/mlflow\.db is in no existing folder"):
        tracking.connect()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("address", ["./mlruns", "file:///tmp/mlruns", "nosuch://host", "sqlite:///text.db"])
def test_a_store_that_cannot_be_used_is_one_sentence(store, monkeypatch, tmp_path, address):
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises((StoreError, UserError)) as caught:
        tracking.connect()
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_initialising_an_existing_store_keeps_its_runs(store):
    with opened() as run:
        pass
    tracking.connect()
    assert store.get_run(run.id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("store_address", "base"),
    [("sqlite:////x/mlflow.db", "http://127.0.0.1:5000"), ("https://host/ml/", "https://host/ml")],
)
def test_addresses_of_the_ui(monkeypatch, store_address, base):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_address)
    run = tracking.Run.__new__(tracking.Run)
    run.id, run.experiment_id = "r1", "7"
    assert tracking.run_address(run) == f"{base}/#/experiments/7/runs/r1?workflowType=machine_learning"

    addresses = tracking.study_addresses("7", "s1", ["r1", "r2"])
    assert addresses.keys() == {"curves", "comparison"}
    path, _, query = urlsplit(addresses["curves"]).fragment.partition("?")
    assert addresses["curves"].startswith(f"{base}/#/")
    assert path == "/experiments/7/runs"
    assert parse_qs(query) == {
        "searchFilter": ["tags.study = 's1' and tags.stage = 'train'"],
        "orderByKey": ["tags.`variant`"],
        "orderByAsc": ["true"],
        "compareRunsMode": ["CHART"],
        "workflowType": ["machine_learning"],
    }
    path, _, query = urlsplit(addresses["comparison"]).fragment.partition("?")
    assert addresses["comparison"].startswith(f"{base}/#/")
    assert path == "/compare-runs"
    assert parse_qs(query) == {
        "runs": ['["r1","r2"]'],
        "experiments": ['["7"]'],
        "workflowType": ["machine_learning"],
    }
    assert not [address for address in addresses.values() if " " in address]


def test_addresses_may_be_others_than_the_run_s_own_way_to_the_server(monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://server:5000")
    monkeypatch.setenv("LENET_STUDY_UI", "http://127.0.0.1:7000")
    run = SimpleNamespace(id="r1", experiment_id="7")
    assert tracking.run_address(run).startswith("http://127.0.0.1:7000/#/experiments/7/runs/r1")


def test_how_to_look(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "`mlflow ui`" in tracking.how_to_look()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/x.db")
    assert "`mlflow ui --backend-store-uri sqlite:////elsewhere/x.db`" in tracking.how_to_look()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    assert "start" not in tracking.how_to_look()


def test_a_bare_mlflow_ui_shows_the_default_store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    assert "`mlflow ui`" in tracking.how_to_look()
