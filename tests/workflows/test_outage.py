"""A server that is away, for a while or for ever, or slow: nothing is lost, nothing doubled, nobody waits."""

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import SimpleNamespace

import mlflow
import pytest
from conftest import TRAINING_ARTIFACTS, Recorder
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from proxy import Proxy
from servers import free_port, serving
from toys import start_process, toy_split

from lenet_study.__main__ import main
from lenet_study.errors import StoreError
from lenet_study.execution.executor import Monitor
from lenet_study.execution.inline import InlineExecutor
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking.registry import load_model
from lenet_study.tracking.run import open_run
from lenet_study.tracking.store import NAME, spool_folder
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.evaluate import EvaluationJob
from lenet_study.workflows.kfold import kfold
from lenet_study.workflows.orphans import reap
from lenet_study.workflows.resume import resume
from lenet_study.workflows.sync import sync
from lenet_study.workflows.train import TrainingJob, train
from lenet_study.workflows.waiting import wait_for_store

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory, initialised_database):
    """The port of a real MLflow server."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    (folder / "mlflow.db").write_bytes(initialised_database.read_bytes())
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with serving(command, f"http://127.0.0.1:{port}/health", folder):
        yield port


@pytest.fixture
def proxy(server, tmp_path, monkeypatch):
    """What stands between the tests and the server; the store is what is behind it."""
    proxy = Proxy(server)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.port}")
    return proxy


@pytest.fixture
def client(server, proxy):
    """A client that reaches the server by itself."""
    return mlflow.MlflowClient(f"http://127.0.0.1:{server}")


def opened(**options):
    return open_run("toy", stage="train", params={"epochs": 3}, **options)


def write(run):
    for step in range(1, 4):
        run.log_metrics({"train/loss": 0.5 * step}, step=step)
    run.log_figure(Figure(), "curves.png")
    run.log_dataset(toy_split(20, seed=1), "train")
    run.set_tags({"variant": "v1"})


def assert_whole(client, run_id, status="FINISHED", at_its_end=("manifest.json",)):
    """Whether a run has what ``write`` wrote, once."""
    run = client.get_run(run_id)
    rows = [(row.step, row.value) for row in client.get_metric_history(run_id, "train/loss")]
    assert (run.info.status, run.data.tags["variant"]) == (status, "v1")
    assert rows == [(1, 0.5), (2, 1.0), (3, 1.5)]
    files = {file.path for file in client.list_artifacts(run_id)} - {"changes.patch"}
    assert files == {"curves.png", "environment.txt", "provenance.json", *at_its_end}
    assert len(run.inputs.dataset_inputs) == 1
    return run


def test_a_server_that_is_away_in_mid_run(client, proxy):
    lines = []
    with opened(message=lines.append) as run:
        assert run.delivery.wait(60)
        proxy.down()
        start = time.monotonic()
        write(run)
        assert time.monotonic() - start < 2  # it is away longer than that
        while not run.delivery.outage:
            time.sleep(0.05)
        written = time.time() * 1000
        run.set_tags({"later": "yes"})
        proxy.up()
    stored = assert_whole(client, run.id)
    assert all(row.timestamp < written for row in client.get_metric_history(run.id, "train/loss"))
    assert stored.data.tags["later"] == "yes"
    (line,) = lines
    assert "does not answer" in line
    assert str(spool_folder() / run.id) in line
    assert not spool_folder().exists()


def test_a_server_that_is_away_at_the_end(client, proxy):
    lines = []
    with opened(message=lines.append) as run:
        write(run)
        proxy.down()
        threading.Timer(3, proxy.up).start()
        ended = time.time() * 1000
    stored = assert_whole(client, run.id)
    assert abs(stored.info.end_time - ended) < 2000
    assert lines == []


def write_and_leave(folder, then, patience, depth):
    """A process of the command line whose run writes while the server is away, and that then ends.

    The run is the innermost of so many.
    """

    def command(*_):
        with ExitStack() as nested:
            run = [nested.enter_context(opened(patience=patience)) for _ in range(depth)][-1]
            assert run.delivery.wait(60)
            (folder / "open").write_text(run.id)
            while not (folder / "away").exists():
                time.sleep(0.02)
            write(run)
            (folder / "ended").write_text(str(time.time()))
            if then:
                os.kill(os.getpid(), then)

    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.modules["lenet_study.workflows.data"] = SimpleNamespace(verify_data=command)
    sys.exit(main(["data"]))


def leave(proxy, folder, then=0, patience=1, depth=1):
    """Run that process; returns the run's id, when its work ended, its exit code, and what it said."""
    process = start_process(write_and_leave, folder, then, patience, depth)
    while not (folder / "open").exists() or not (folder / "open").read_text():
        assert process.is_alive(), (folder / "log").read_text()
        time.sleep(0.05)
    proxy.down()
    (folder / "away").touch()
    process.join(60)
    ended = float((folder / "ended").read_text())
    took = time.time() - ended
    return (folder / "open").read_text(), ended, took, process.exitcode, (folder / "log").read_text()


def test_a_server_that_does_not_come_back_before_the_end(client, proxy, tmp_path):
    run_id, ended, _, code, log = leave(proxy, tmp_path)
    assert code == 0
    assert f"of run {run_id} wait in {spool_folder() / run_id}" in log
    assert "`sync` delivers them" in log
    assert "Traceback" not in log
    assert client.get_run(run_id).info.status == "RUNNING"
    with pytest.raises(StoreError, match="does not answer"):
        sync()
    proxy.up()
    recorder = Recorder()
    sync(recorder)
    stored = assert_whole(client, run_id)
    assert abs(stored.info.end_time / 1000 - ended) < 3
    assert f"operations of run {run_id} delivered" in recorder.text
    assert not spool_folder().exists()
    sync(recorder)
    assert recorder.text.endswith("Nothing waits to be delivered.")


@pytest.mark.parametrize("depth", [1, 3])
def test_a_signal_ends_a_process_in_time_while_the_server_is_away(client, proxy, tmp_path, depth):
    run_id, _, took, code, log = leave(proxy, tmp_path, signal.SIGTERM, patience=60, depth=depth)
    assert code == 143, log
    assert took < 10
    proxy.up()
    sync()
    assert assert_whole(client, run_id, "KILLED").data.tags["failure.kind"] == "Stopped"


def test_what_a_killed_process_has_written_is_delivered_before_its_run_is_ended(client, proxy, tmp_path):
    run_id, *_ = leave(proxy, tmp_path, signal.SIGKILL)
    proxy.up()
    assert reap() == [run_id]
    assert_whole(client, run_id, "KILLED", at_its_end=())


def test_an_open_run_is_left_to_its_process(client, proxy):
    recorder = Recorder()
    with opened() as run:
        proxy.down()
        write(run)
        proxy.up()
        sync(recorder)
        assert f"Run {run.id} is left to the process that works on it" in recorder.text
    assert_whole(client, run.id)


def test_a_slow_server_keeps_nobody_waiting(client, proxy):
    with opened() as run:
        proxy.delay = 2
        start = time.monotonic()
        write(run)
        assert time.monotonic() - start < 1  # ten requests
        proxy.delay = 0
    assert_whole(client, run.id)


def test_a_late_answer_makes_no_version_twice(client, proxy, tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    folder.mkdir()
    Model().save(str(folder / "MLmodel"))
    with suppress(MlflowException):  # another test has made it
        client.create_registered_model(NAME)
    with opened() as run:
        assert run.delivery.wait(60)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        proxy.delay, proxy.delayed = 1.5, b"model-versions/create"
        model = run.log_model(folder, {}, register=True)
        time.sleep(1)  # a repeated request would still be on its way
    (version,) = client.search_model_versions(f"run_id = '{run.id}'")
    assert model.version == int(version.version)
    assert len(client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'")) == 1


def test_a_late_answer_makes_no_run_twice(client, proxy, monkeypatch):
    with opened() as run:
        pass
    before = client.search_runs([run.experiment_id])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.delay, proxy.delayed = 1.5, b"runs/create"

    def open_another():
        with opened():
            pass

    with pytest.raises(StoreError, match="does not answer"):
        open_another()
    time.sleep(4)  # repeated requests would have been carried out
    assert len(client.search_runs([run.experiment_id])) == len(before) + 1


def test_a_training_goes_on_through_an_outage(client, proxy, toy_files):
    class Away(Monitor):
        def on_epoch_end(self, epoch):
            if epoch.epoch == 1:
                proxy.down()
            if epoch.epoch == 3:
                threading.Timer(3, proxy.up).start()

    config = TrainingConfig(epochs=3, batch_size=16, seed=3)
    recipe = variant_recipes(config)["baseline"]
    result = train(
        TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=toy_files), monitor=Away()
    )
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert [row.step for row in client.get_metric_history(result.run_id, "val/loss")] == [1, 2, 3]
    assert len(run.outputs.model_outputs) == 1
    assert {file.path for file in client.list_artifacts(result.run_id)} >= TRAINING_ARTIFACTS
    (version,) = client.search_model_versions(f"run_id = '{result.run_id}'")
    assert result.model.version == int(version.version)
    assert load_model(result.run_id).weights_sha256 == result.model.weights_sha256


def test_parts_that_begin_while_the_server_is_away_wait_for_it(client, proxy, toy_files):
    config, recorder = TrainingConfig(epochs=2, batch_size=16, seed=4), Recorder()
    job = TrainingJob(
        recipe=variant_recipes(config)["baseline"],
        hardware=Hardware(device="cpu"),
        data=toy_files,
        stage="fold",
        folds=2,
        once=True,
    )
    proxy.down()
    threading.Timer(1.5, proxy.up).start()
    with InlineExecutor(recorder) as executor:
        futures = {f"fold {fold}": executor.submit(replace(job, fold=fold)) for fold in (1, 2)}
        trained = executor.results(futures)
    assert len(trained) == 2
    assert recorder.text.count("A part of the work waits for the store") == 1

    proxy.down()
    threading.Timer(1.5, proxy.up).start()
    former = trained["fold 1"].run_id
    assert EvaluationJob.of(former, job).run(recorder, Monitor()).model_run_id == former
    assert recorder.text.count("A part of the work waits for the store") == 2


def test_a_command_that_begins_while_the_server_is_away_says_so_at_once(client, proxy, toy_files):
    recipe = variant_recipes(TrainingConfig(epochs=1))["baseline"]
    job = TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=toy_files, folds=2, once=True)
    proxy.down()
    with pytest.raises(StoreError, match="does not answer"):
        kfold(job, InlineExecutor(Recorder()))
    with pytest.raises(StoreError, match="does not answer"):
        train(job)
    proxy.up()


def test_a_part_finds_what_an_earlier_one_could_not_deliver(client, proxy, tmp_path):
    run_id, *_ = leave(proxy, tmp_path)
    proxy.up()
    wait_for_store(Recorder())
    assert_whole(client, run_id)
    assert not spool_folder().exists()


class Slow(Monitor):
    """Tells the test of the first epoch, and waits for what it does."""

    def __init__(self, folder):
        self.folder = folder

    def on_epoch_end(self, epoch):
        if epoch.epoch == 1:
            (self.folder / "open").touch()
            while not (self.folder / "away").exists():
                time.sleep(0.02)
        if epoch.epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder, job):
    train(job, monitor=Slow(folder))


def test_a_training_that_is_killed_while_the_server_is_away_goes_on(client, proxy, toy_files, tmp_path):
    recipe = variant_recipes(TrainingConfig(epochs=4, batch_size=16, seed=3))["baseline"]
    job = TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=toy_files)
    process = start_process(train_and_die, tmp_path, job)
    while not (tmp_path / "open").exists():
        assert process.is_alive()
        time.sleep(0.05)
    proxy.down()
    (tmp_path / "away").touch()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (folder,) = spool_folder().iterdir()
    proxy.up()
    results = resume(folder.name, data=toy_files)
    run = client.get_run(folder.name)
    assert run.info.status == "FINISHED"
    assert [row.step for row in client.get_metric_history(folder.name, "val/loss")] == [1, 2, 3, 4]
    assert len(client.search_model_versions(f"run_id = '{folder.name}'")) == 1
    assert results["baseline"].model.weights_sha256 == run.data.tags["weights.sha256"]
    assert not spool_folder().exists()
