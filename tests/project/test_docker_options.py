"""The options that docker/MLproject adds to MLflow's own; no daemon is needed."""

import importlib.util
import os
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker"


@pytest.fixture
def module(monkeypatch, tmp_path):
    specification = importlib.util.spec_from_file_location("options", FOLDER / "options.py")
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "image_id", lambda: "sha256:1234")
    monkeypatch.setattr(loaded, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return loaded


def pairs(options):
    return [" ".join(pair) for pair in pairwise(options)]


def test_a_container_can_do_little_and_is_told_its_image(module):
    options = module.options({})
    for wanted in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--init"):
        assert wanted in options
    assert "--env LENET_STUDY_IMAGE=sha256:1234" in pairs(options)
    assert "--network" not in options


def test_the_data_is_this_machine_s_if_it_has_any(module, tmp_path):
    assert module.options({})[0] == "lenet-study-data:/data"
    (tmp_path / "data").mkdir()
    assert module.options({})[0] == f"{tmp_path}/data:/data:ro"
    (tmp_path / "other").mkdir()
    assert module.options({"LENET_STUDY_DATA": str(tmp_path / "other")})[0] == f"{tmp_path}/other:/data:ro"


@pytest.mark.parametrize(
    ("uri", "host"),
    [("http://127.0.0.1:5000", True), ("http://localhost:5000", True), ("https://a.b", False)],
)
def test_a_server_of_this_machine_is_reached_as_the_host_does(module, uri, host):
    assert ("--network host" in pairs(module.options({"MLFLOW_TRACKING_URI": uri}))) == host


def test_passwords_are_passed_by_name(module):
    given = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "secret"}
    options = module.options(given)
    assert "--env MLFLOW_TRACKING_PASSWORD" in pairs(options)
    assert "secret" not in " ".join(options)


def test_a_local_store_is_mounted_whole_for_its_owner(module, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (run_uuid text, artifact_uri text)")
        connection.execute("INSERT INTO runs VALUES ('r', ?)", [f"{tmp_path}/mlruns/1/r/artifacts"])
    found = pairs(module.options({"MLFLOW_TRACKING_URI": f"sqlite:///{database}", "MLFLOW_RUN_ID": "r"}))
    assert f"--volume {tmp_path}:{tmp_path}" in found
    assert f"--user 1000:{os.getgid()}" in found
    assert (tmp_path / "mlruns" / "1" / "r" / "artifacts").is_dir()  # Docker would make it root's


def test_root_is_told_what_to_start_for_a_local_store(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    options = module.options({"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})
    assert f"--volume {tmp_path}:{tmp_path}" not in pairs(options)
    assert "start a server (`make server`" in capsys.readouterr().err


def test_a_user_in_the_address_is_refused(module):
    with pytest.raises(SystemExit, match="MLFLOW_TRACKING_PASSWORD"):
        module.options({"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:5000"})


def test_relative_paths_are_the_project_s(module, tmp_path):
    (tmp_path / "mine").mkdir()
    assert module.options({"LENET_STUDY_DATA": "mine"})[0] == f"{tmp_path}/mine:/data:ro"


def test_a_path_with_a_space_is_refused(tmp_path):
    (tmp_path / "my data").mkdir()
    environment = {**os.environ, "LENET_STUDY_DATA": str(tmp_path / "my data")}
    done = subprocess.run(
        [sys.executable, FOLDER / "options.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "has a space" in done.stderr
    assert not done.stdout


def test_the_project_calls_it():
    environment = yaml.safe_load((FOLDER / "MLproject").read_text())["docker_env"]
    assert environment["volumes"] == ["$(python3 options.py)"]
    assert environment["image"] == "lenet-study"
