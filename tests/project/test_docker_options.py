"""The options that docker/MLproject adds to MLflow's own; no daemon is needed."""

import os
import runpy
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker"


@pytest.fixture
def options(tmp_path):
    """The options in an environment, of a project in ``tmp_path``."""
    function = runpy.run_path(str(FOLDER / "options.py"))["options"]

    def in_environment(environment, user=1000):
        return function(environment, tmp_path, "sha256:1234", user)

    return in_environment


def pairs(words):
    return [" ".join(pair) for pair in pairwise(words)]


def test_a_container_can_do_little_and_is_told_its_image(options):
    words = options({})
    for word in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--init"):
        assert word in words
    assert "--env LENET_STUDY_IMAGE=sha256:1234" in pairs(words)
    assert "--network" not in words


def test_the_data_is_this_machine_s_if_it_has_any(options, tmp_path):
    assert options({})[0] == "lenet-study-data:/data"
    (tmp_path / "data").mkdir()
    assert options({})[0] == f"{tmp_path}/data:/data:ro"
    (tmp_path / "other").mkdir()
    assert options({"LENET_STUDY_DATA": str(tmp_path / "other")})[0] == f"{tmp_path}/other:/data:ro"


@pytest.mark.parametrize(
    ("uri", "host"),
    [("http://127.0.0.1:5000", True), ("http://localhost:5000", True), ("https://a.b", False)],
)
def test_a_server_of_this_machine_is_reached_as_the_host_does(options, uri, host):
    assert ("--network host" in pairs(options({"MLFLOW_TRACKING_URI": uri}))) == host


def test_passwords_are_passed_by_name(options):
    words = options({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "secret"})
    assert "--env MLFLOW_TRACKING_PASSWORD" in pairs(words)
    assert "secret" not in " ".join(words)


def test_a_local_store_is_mounted_whole_for_its_owner(options, tmp_path):
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (run_uuid text, artifact_uri text)")
        connection.execute("INSERT INTO runs VALUES ('r', ?)", [f"{tmp_path}/mlruns/1/r/artifacts"])
    found = pairs(options({"MLFLOW_TRACKING_URI": f"sqlite:///{database}", "MLFLOW_RUN_ID": "r"}))
    assert f"--volume {tmp_path}:{tmp_path}" in found
    assert f"--user 1000:{os.getgid()}" in found
    assert (tmp_path / "mlruns" / "1" / "r" / "artifacts").is_dir()  # Docker would make it root's


def test_root_is_told_what_to_start_for_a_local_store(options, tmp_path, capsys):
    words = options({"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}, user=0)
    assert f"--volume {tmp_path}:{tmp_path}" not in pairs(words)
    assert "start a server (`make server`" in capsys.readouterr().err


def test_a_user_in_the_address_is_refused(options):
    with pytest.raises(SystemExit, match="MLFLOW_TRACKING_PASSWORD"):
        options({"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:5000"})


def test_relative_paths_are_the_project_s(options, tmp_path):
    (tmp_path / "mine").mkdir()
    assert options({"LENET_STUDY_DATA": "mine"})[0] == f"{tmp_path}/mine:/data:ro"


def test_a_path_with_a_space_is_refused(tmp_path):
    (tmp_path / "my data").mkdir()
    environment = {**os.environ, "LENET_STUDY_DATA": str(tmp_path / "my data")}
    result = subprocess.run(
        [sys.executable, FOLDER / "options.py"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "has a space" in result.stderr
    assert not result.stdout


def test_the_project_calls_it():
    environment = yaml.safe_load((FOLDER / "MLproject").read_text())["docker_env"]
    assert environment["volumes"] == ["$(python3 options.py)"]
    assert environment["image"] == "lenet-study"
