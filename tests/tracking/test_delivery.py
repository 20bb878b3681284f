"""What a spool's operations do in a real store, once or twice; and which failures are tried again."""

import errno
import shutil
import sqlite3
import threading
import time

import pytest
import requests
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from toys import toy_split

from lenet_study.errors import StoreError
from lenet_study.tracking.delivery import Delivery, may_pass
from lenet_study.tracking.operations import carry_out
from lenet_study.tracking.run import open_run
from lenet_study.tracking.spool import Operation, Spool
from lenet_study.tracking.store import spool_folder


def opened(**options):
    return open_run("toy", stage="train", params={"epochs": 3}, **options)


def contents(store, run_id):
    """All that a run holds, with times and the number of each thing."""
    run = store.get_run(run_id)
    histories = {name: store.get_metric_history(run_id, name) for name in run.data.metrics}
    models = store.search_logged_models([run.info.experiment_id])
    tags = {name: value for name, value in run.data.tags.items() if name != "process.heartbeat"}
    rows = {
        name: [(row.step, str(row.value), row.timestamp) for row in history]
        for name, history in histories.items()
    }
    return {
        "status": run.info.status,
        "end": run.info.end_time,
        "params": run.data.params,
        "tags": tags,
        "metrics": rows,
        "artifacts": sorted((file.path, file.file_size) for file in store.list_artifacts(run_id)),
        "inputs": [(item.dataset.name, item.dataset.digest) for item in run.inputs.dataset_inputs],
        "outputs": [item.model_id for item in run.outputs.model_outputs],
        "models": [(model.model_id, str(model.status), len(model.metrics or ())) for model in models],
        "versions": [version.version for version in store.search_model_versions()],
    }


@pytest.fixture
def model_files(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    Model().save(str(folder / "MLmodel"))
    (folder / "weights").write_bytes(b"weights")
    return folder


def write_everything(run, model_files):
    run.log_metrics({"best/epoch": 2.0})
    run.log_metrics({"train/loss": 0.5}, step=1)
    run.log_metrics({"train/loss": float("nan")}, step=2)
    run.log_figure(Figure(), "curves.png")
    run.log_text("LeNet", "model_summary.txt")
    run.log_dataset(toy_split(20, seed=1), "train")
    return run.log_model(model_files, {"variant": "v1"}, register=True)


def test_operations_that_are_done_twice_change_nothing(store, tmp_path, model_files):
    done = []

    with opened() as run:
        spool = run.delivery.spool
        remove = spool.remove

        def keep_and_remove(operation):
            copy = tmp_path / "kept" / operation.folder.name
            shutil.copytree(operation.folder, copy)
            done.append(Operation(copy, operation.content))
            remove(operation)

        spool.remove = keep_and_remove
        model = write_everything(run, model_files)
    assert model.version == 1
    before = contents(store, run.id)
    assert before["status"] == "FINISHED"
    kinds = {operation.content["kind"] for operation in done}
    assert kinds == {"batch", "artifact", "dataset", "model", "end"}
    for operation in done:
        carry_out(run.id, [operation])
    assert contents(store, run.id) == before


def test_a_model_that_was_half_delivered_is_completed(store, model_files):
    with opened() as run:
        store.create_logged_model(run.experiment_id, "model", run.id)
        run.log_model(model_files, {}, register=True)
    (model,) = store.search_logged_models([run.experiment_id])
    assert str(model.status) == "READY"
    assert [item.model_id for item in store.get_run(run.id).outputs.model_outputs] == [model.model_id]
    assert len(store.search_model_versions()) == 1


def test_a_locked_database_keeps_nobody_waiting_and_loses_nothing(store, tmp_path):
    lines = []
    with opened(message=lines.append) as run:
        assert run.delivery.wait(60)
        lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        for step in range(5):
            run.log_metrics({"train/loss": 0.5 + step}, step=step)
            run.log_text(str(step), f"{step}.txt")
        assert time.monotonic() - start < 2
        threading.Timer(21, lock.execute, ["COMMIT"]).start()  # MLflow itself gives up after 20 s
        while not run.delivery.outage:
            time.sleep(0.1)
        run.set_tags({"late": "yes"})
    stored = contents(store, run.id)
    assert (stored["status"], stored["tags"]["late"]) == ("FINISHED", "yes")
    assert [row[:2] for row in stored["metrics"]["train/loss"]] == [(n, str(0.5 + n)) for n in range(5)]
    assert {f"{step}.txt" for step in range(5)} < {path for path, _ in stored["artifacts"]}
    (line,) = lines
    assert "is locked by another program" in line
    assert not spool_folder().exists()


def test_what_the_store_refuses_fails_the_run(store):
    run_ids = []

    def work():
        with opened() as run:
            run_ids.append(run.id)
            run.delivery.wait(60)
            store.log_param(run.id, "seed", "1")
            run.log_params({"seed": 2})

    with pytest.raises(StoreError, match="seed"):
        work()
    stored = store.get_run(run_ids[0])
    assert stored.info.status == "FAILED"
    assert "seed" in stored.data.tags["failure.reason"]
    assert not spool_folder().exists()


def test_what_waits_with_a_refused_operation_is_delivered(store, tmp_path):
    with opened() as run:
        pass
    store.log_param(run.id, "seed", "1")
    spool = Spool(tmp_path / run.id, {"run_id": run.id})
    for content in ({"tags": {"a": "1"}}, {"params": {"seed": "2"}}, {"tags": {"b": "2"}}):
        with spool.add({"kind": "batch", **content}):
            pass
    delivery = Delivery(spool)
    while delivery.deliver_next():
        pass
    assert "seed" in delivery.refusal
    stored = store.get_run(run.id).data
    assert (stored.tags["a"], stored.tags["b"], stored.params["seed"]) == ("1", "2", "1")


def test_a_run_that_was_deleted_meanwhile_fails(store):
    def work():
        with opened() as run:
            run.delivery.wait(60)
            store.delete_run(run.id)
            run.log_metrics({"best/epoch": 1.0})

    with pytest.raises(StoreError, match="active"):
        work()
    assert not spool_folder().exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("API request failed: Connection refused"), True),
        (MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST), False),
        (MlflowException("database or disk is full"), True),
        (MlflowException("UNIQUE constraint failed: datasets.name", error_code=BAD_REQUEST), True),
        (MlflowException("duplicate key value violates unique constraint", error_code=BAD_REQUEST), True),
        (MlflowException("params cannot change", error_code=BAD_REQUEST), False),
        (requests.ConnectionError(), True),
        (requests.Timeout(), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (TypeError("a fault of the program"), False),
    ],
    ids=str,
)
def test_what_is_tried_again(error, expected):
    assert may_pass(error) == expected


@pytest.mark.parametrize(
    ("status", "expected"), [(500, True), (503, True), (401, True), (429, True), (400, False)]
)
def test_which_answers_are_tried_again(status, expected):
    answer = requests.Response()
    answer.status_code = status
    assert may_pass(requests.HTTPError(response=answer)) == expected
