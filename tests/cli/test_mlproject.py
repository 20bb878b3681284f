"""MLproject declares what the command line declares, and `mlflow run` behaves as the command line does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from conftest import TRAINING_ARTIFACTS

from lenet_study.cli.parameters import COMMANDS

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
QUICK = ("variant=baseline", "epochs=1", "threads=1")


def environment(store: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **inherited,
        "PATH": path,
        "PYTHONPATH": "src",
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "fashion-mnist-lenet",
        "LENET_STUDY_DATA": os.environ.get("LENET_STUDY_DATA", str(ROOT / "data")),
    }


def execute(store: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(store), capture_output=True, text=True, timeout=600
    )


def mlflow_run(store: Path, entry_point: str, *params: str) -> subprocess.CompletedProcess[str]:
    options = [option for param in params for option in ("-P", param)]
    return execute(store, "mlflow", "run", ".", "--env-manager", "local", "-e", entry_point, *options)


def test_docker_has_the_same_entry_points():
    """In an image the command is what follows ``python -m lenet_study``."""
    inside = yaml.safe_load((ROOT / "docker" / "MLproject").read_text())
    prefix = "PYTHONPATH=src python -m lenet_study "
    expected = {
        name: {**each, "command": each["command"].removeprefix(prefix)} for name, each in ENTRY_POINTS.items()
    }
    assert inside["entry_points"] == expected


def test_main_is_the_study():
    assert ENTRY_POINTS["main"] == ENTRY_POINTS["study"]
    assert ENTRY_POINTS.keys() == COMMANDS.keys() | {"main"}


@pytest.mark.parametrize("command", COMMANDS)
def test_parameters_and_defaults_are_those_of_the_command_line(command):
    declared = ENTRY_POINTS[command]["parameters"]
    expected = {parameter.name: parameter.default for parameter in COMMANDS[command][1]}
    assert {name: value["default"] for name, value in declared.items()} == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_is_passed_on(command):
    line = ENTRY_POINTS[command]["command"]
    assert line.startswith(f"PYTHONPATH=src python -m lenet_study {command} ")
    passed = re.findall(r"(--[\w-]+) \{(\w+)\}", line)
    assert passed == [(parameter.flag, parameter.name) for parameter in COMMANDS[command][1]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the same quick training, once through `mlflow run`, once through the command line."""
    folder = tmp_path_factory.mktemp("store")
    project = mlflow_run(folder, "train", *QUICK, "learning_rate=0.0010")
    assert project.returncode == 0, project.stderr
    flags = [f"--{param}" for param in QUICK]
    direct = execute(folder, sys.executable, "-m", "lenet_study", "train", *flags)
    assert direct.returncode == 0, direct.stderr
    return folder


def runs(store: Path) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, order_by=["attributes.start_time ASC"])


@pytest.mark.server
@pytest.mark.realdata
def test_both_ways_give_the_same_weights_bit_for_bit(store):
    project, direct = runs(store)
    assert project.data.tags["weights.sha256"] == direct.data.tags["weights.sha256"]
    assert project.data.metrics["best/val_accuracy"] == direct.data.metrics["best/val_accuracy"]


@pytest.mark.server
@pytest.mark.realdata
def test_both_ways_log_the_same_parameters_metrics_and_artifacts(store):
    project, direct = runs(store)
    assert project.data.params.keys() == direct.data.params.keys()
    assert project.data.params["learning_rate"] == "0.0010", "the user's spelling stays"
    metrics = [
        {name for name in run.data.metrics if not name.startswith("system/")}  # sampled by the clock
        for run in (project, direct)
    ]
    assert metrics[0] == metrics[1]
    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
    project_files, direct_files = (
        {file.path for file in client.list_artifacts(run.info.run_id)} for run in (project, direct)
    )
    assert project_files == direct_files >= TRAINING_ARTIFACTS


@pytest.mark.server
@pytest.mark.realdata
def test_the_project_run_is_finished_named_and_nothing_else_is_made(store):
    project, direct = runs(store)
    assert [run.info.status for run in (project, direct)] == ["FINISHED", "FINISHED"]
    assert [run.info.run_name for run in (project, direct)] == ["baseline", "baseline"]


@pytest.mark.server
@pytest.mark.parametrize(
    ("param", "sentence"),
    [
        ("variant=v9", "Invalid value for '--variant': 'v9'"),
        ("epochs=0", "Invalid value for '--epochs': 0"),
        ("colour=red", "No such option '--colour'"),
    ],
)
def test_bad_input_fails_the_run_with_one_sentence(tmp_path, param, sentence):
    result = mlflow_run(tmp_path, "train", param)
    assert result.returncode != 0
    assert f"Error: {sentence}" in result.stderr
    assert "lenet_study/" not in result.stderr, "no traceback of ours"
    (run,) = runs(tmp_path)
    assert run.info.status == "FAILED"
    assert sentence in run.data.tags["error"]
