"""What a run has logged, and what a store holds otherwise later."""

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from lenet_study.errors import UserError
from lenet_study.evidence.export import file_digest
from lenet_study.tracking.manifest import changes_of, load_manifest
from lenet_study.tracking.run import open_run

LOGGED = {"history.csv", "model_summary.txt", "environment.txt", "provenance.json"}
OTHER_METRIC = "metric val/loss has other values than were logged"


@pytest.fixture
def run_id(store):
    """A run with two files, an epoch's metrics, one that is infinite, one that is none, and a tag."""
    with open_run("toy", stage="train", params={"epochs": 3}, tags={"variant": "v2"}) as run:
        run.log_text("1,2\n", "history.csv")
        run.log_text("summary", "model_summary.txt")
        run.log_metrics({"val/loss": 0.25}, step=1)
        run.log_metrics({"val/loss": 0.125}, step=2)
        run.log_metrics({"best/val_loss": float("inf"), "best/train_loss": float("nan")})
        run.log_metrics({"system/cpu": 50.0, "best/epoch": -0.0})
        run.set_tags({"parity": "passed"})
    return run.id


def changes(store, run_id):
    return list(changes_of(store.get_run(run_id)))


def path_of(store, run_id, name):
    return Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://"), name)


def change_database(tmp_path, statement):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        assert connection.execute(statement).rowcount == 1


def test_a_manifest_lists_all_that_a_run_has_logged(store, run_id):
    path = path_of(store, run_id, "manifest.json")
    assert store.get_run(run_id).data.tags["manifest.sha256"] == file_digest(path)
    content = json.loads(path.read_text())
    assert content["files"] == {
        name: file_digest(path_of(store, run_id, name))
        for name in LOGGED | ({"changes.patch"} & content["files"].keys())
    }
    assert content["params"] == {"epochs": "3"}
    assert content["metrics"]["val/loss"] == [[1, 0.25], [2, 0.125]]
    assert "system/cpu" not in content["metrics"]
    assert content["tags"].items() >= {"parity": "passed", "variant": "v2", "stage": "train"}.items()
    assert not {name for name in content["tags"] if name.startswith(("process.", "mlflow."))}


def test_an_untouched_run_has_no_changes(store, run_id):
    assert changes(store, run_id) == []


@pytest.mark.parametrize("name", ["history.csv", "model_summary.txt", "environment.txt"])
def test_a_flipped_byte_of_a_file_is_named_with_its_run(store, run_id, name):
    path = path_of(store, run_id, name)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    (change,) = changes(store, run_id)
    assert change.startswith(f"{name} of run {run_id} was changed since the run logged it: ")


def test_a_missing_file_is_named(store, run_id):
    path_of(store, run_id, "history.csv").unlink()
    (change,) = changes(store, run_id)
    assert f"history.csv of run {run_id} is missing" in change


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{}")])
def test_a_damaged_manifest_is_refused(store, run_id, damage):
    damage(path_of(store, run_id, "manifest.json"))
    with pytest.raises(UserError, match=f"manifest.json of run {run_id} (is missing|was changed)"):
        changes(store, run_id)


@pytest.mark.parametrize(
    ("statement", "change"),
    [
        ("UPDATE params SET value = '4'", "param epochs is '4', and was logged as '3'"),
        ("UPDATE tags SET value = 'x' WHERE key = 'parity'", "tag parity is 'x', and was logged as 'passed'"),
        ("DELETE FROM tags WHERE key = 'variant'", "tag variant is 'missing', and was logged as 'v2'"),
        (
            "UPDATE metrics SET value = 0.2 WHERE step = 1",
            "metric val/loss has other values than were logged",
        ),
        ("DELETE FROM metrics WHERE step = 2", "metric val/loss has other values than were logged"),
        (
            "UPDATE latest_metrics SET value = 0.2 WHERE key = 'val/loss'",
            "metric val/loss is 0.2, and was logged as 0.125",
        ),
        (
            "DELETE FROM latest_metrics WHERE key = 'val/loss'",
            "metric val/loss is None, and was logged as 0.125",
        ),
    ],
)
def test_a_changed_row_of_the_database_is_named(store, run_id, tmp_path, statement, change):
    change_database(tmp_path, statement)
    assert changes(store, run_id) == [change]


def test_a_resumed_run_s_result_takes_the_place_of_the_one_before(store):
    with suppress(KeyboardInterrupt), open_run("toy", stage="study", params={}) as run:
        run.log_result({"best/val_accuracy": 0.5, "test/accuracy": 0.25, "gain/retraining": None})
        run.set_tags({"failed": "a part"})
        raise KeyboardInterrupt
    with open_run("toy", stage="study", params={}, resume=run.id) as resumed:
        resumed.log_result({"best/val_accuracy": 0.75, "test/accuracy": 0.25, "gain/retraining": 0.125})
    stored = store.get_run(run.id)
    assert stored.data.metrics.items() >= {"best/val_accuracy": 0.75, "test/accuracy": 0.25}.items()
    assert stored.data.metrics["gain/retraining"] == 0.125
    assert len(store.get_metric_history(run.id, "test/accuracy")) == 1
    assert "failed" not in stored.data.tags
    assert changes(store, run.id) == []


def test_a_model_s_copies_are_compared_and_what_the_run_has_not_logged_is_not(store, run_id):
    manifest = load_manifest(store.get_run(run_id))

    def model(epochs="3", loss=0.125, **further):
        metrics = {"val/loss": loss, "system/cpu": 7.0}
        return SimpleNamespace(
            params={"epochs": epochs, **further},
            metrics=[SimpleNamespace(key=key, value=value) for key, value in metrics.items()],
        )

    assert list(manifest.model_changes(model(other="1"))) == []
    assert list(manifest.model_changes(model(epochs="4"))) == ["param epochs is '4', and was logged as '3'"]
    assert list(manifest.model_changes(model(loss=0.5))) == ["metric val/loss of its model is 0.5, not 0.125"]


def test_a_step_that_is_there_twice_is_named(store, run_id):
    store.log_metric(run_id, "val/loss", 0.125, step=2, timestamp=1)
    assert changes(store, run_id) == [OTHER_METRIC]


def test_what_people_change_is_no_damage(store, run_id):
    store.set_tag(run_id, "mlflow.note.content", "mine")
    store.set_tag(run_id, "study", "another")
    store.set_tag(run_id, "my own", "tag")
    assert changes(store, run_id) == []


def test_a_long_value_is_compared_as_mlflow_cuts_it(store):
    with open_run("toy", stage="train", params={"data_dir": "x" * 7000}) as run:
        run.set_tags({"failed": "y" * 9000})
    assert changes(store, run.id) == []


def test_a_run_of_an_older_version_has_no_manifest(store):
    run = store.create_run(store.create_experiment("old"))
    assert load_manifest(run) is None
    assert changes(store, run.info.run_id) == []


def test_a_resumed_run_s_manifest_holds_both_parts(store):
    with suppress(KeyboardInterrupt), open_run("toy", stage="train", params={"epochs": 3}) as run:
        run.log_text("first", "model_summary.txt")
        run.log_metrics({"val/loss": 0.25}, step=1)
        raise KeyboardInterrupt
    with open_run("toy", stage="train", params={}, resume=run.id) as resumed:
        resumed.log_text("second", "history.csv")
        resumed.log_metrics({"val/loss": 0.25}, step=1)
        resumed.log_metrics({"val/loss": 0.125}, step=2)
    manifest = load_manifest(store.get_run(run.id))
    assert manifest.files.keys() - {"changes.patch"} == LOGGED
    assert manifest.metrics["val/loss"] == [(1, 0.25), (2, 0.125)]
    assert changes(store, run.id) == []
