"""MLproject declares what the command line declares, and `mlflow run` behaves as the command line does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import mlflow
import pytest
import yaml
from conftest import TRAINING_ARTIFACTS

from lenet_study.cli import mlproject
from lenet_study.cli.commands import COMMANDS, ENTRY_POINTS
from lenet_study.cli.parameters import options_of

ROOT = Path(__file__).parents[2]
LOCAL, DOCKER = ROOT / "MLproject", ROOT / "docker" / "MLproject"
DECLARED = yaml.safe_load(LOCAL.read_text())["entry_points"]
QUICK = ("variant=baseline", "epochs=1", "threads=1", "batch_size=500")
REFUSED = {  # a param, and the sentence that names it
    "variant=v9": "Invalid value for '--variant': 'v9'",
    "epochs=0": "Invalid value for '--epochs': 0",
    "colour=red": "No such option '--colour'",
}


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


def new_store(folder: Path, database: Path) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(database, folder / "mlflow.db")
    return folder


def start(store: Path, *command: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(store), **pipes)


def mlflow_run(store: Path, entry_point: str, *params: str) -> subprocess.Popen[str]:
    options = [option for param in params for option in ("-P", param)]
    return start(store, "mlflow", "run", ".", "--env-manager", "local", "-e", entry_point, *options)


def test_both_files_are_made_of_the_commands():
    """`make mlproject` makes them anew."""
    assert LOCAL.read_text() == mlproject.mlproject(mlproject.LOCAL, mlproject.PREFIX)
    assert DOCKER.read_text() == mlproject.mlproject(mlproject.DOCKER, "")


def test_the_generator_writes_both_files(tmp_path):
    (tmp_path / "docker").mkdir()
    mlproject.write(tmp_path)
    assert (tmp_path / "MLproject").read_text() == LOCAL.read_text()
    assert (tmp_path / "docker" / "MLproject").read_text() == DOCKER.read_text()


def test_docker_has_the_same_entry_points():
    """In an image the command is what follows ``python -m lenet_study``."""
    inside = yaml.safe_load(DOCKER.read_text())
    prefix = "PYTHONPATH=src python -m lenet_study "
    expected = {
        name: {**entry, "command": entry["command"].removeprefix(prefix)} for name, entry in DECLARED.items()
    }
    assert inside["entry_points"] == expected


def test_main_is_the_study():
    assert DECLARED["main"] == DECLARED["study"]
    assert DECLARED.keys() == ENTRY_POINTS.keys() | {"main"}
    assert ENTRY_POINTS.keys() < COMMANDS.keys()


@pytest.mark.parametrize("command", ENTRY_POINTS)
def test_parameters_and_defaults_are_those_of_the_command_line(command):
    declared = DECLARED[command]["parameters"]
    options = options_of(ENTRY_POINTS[command])
    expected = {parameter: option.default for parameter, option in options.items()}
    assert {name: value["default"] for name, value in declared.items()} == expected
    numbers = {
        name for name, default in expected.items() if type(default) in (int, float)
    }  # all others are texts to MLflow, switches included
    assert {name for name, value in declared.items() if value["type"] == "float"} == numbers


@pytest.mark.parametrize("command", ENTRY_POINTS)
def test_every_parameter_is_passed_on(command):
    line = DECLARED[command]["command"]
    assert f"{line} ".startswith(f"PYTHONPATH=src python -m lenet_study {command} ")
    passed = re.findall(r"(--[\w-]+) \{(\w+)\}", line)
    options = options_of(ENTRY_POINTS[command])
    assert passed == [(option.opts[0], parameter) for parameter, option in options.items()]


def test_a_parameter_without_default_is_declared_without_one():
    def study(folder: Annotated[str, "Where."], count: int = 3) -> None:
        """Do it."""

    text = mlproject.mlproject("python_env: x", "python ", {"study": study})
    assert yaml.safe_load(text)["entry_points"]["study"] == {
        "parameters": {"folder": {"type": "string"}, "count": {"type": "float", "default": 3}},
        "command": "python study --folder {folder} --count {count}",
    }


def runs(store: Path) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments)


@pytest.fixture(scope="module")
def store(tmp_path_factory, initialised_database):
    """A store with the same quick training, once through `mlflow run`, once through the command line."""
    folder = new_store(tmp_path_factory.mktemp("store"), initialised_database)
    flags = [option for param in QUICK for option in ("--" + param.replace("_", "-")).split("=")]
    ways = (
        mlflow_run(folder, "train", *QUICK, "learning_rate=0.0010"),
        start(folder, sys.executable, "-m", "lenet_study", "train", *flags),
    )
    for process in ways:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    return folder


def both_runs(store):
    """The run of `mlflow run`, then that of the command line; no other was made."""
    project, direct = sorted(runs(store), key=lambda run: "mlflow.project.entryPoint" not in run.data.tags)
    assert "mlflow.project.entryPoint" in project.data.tags
    assert "mlflow.project.entryPoint" not in direct.data.tags
    return project, direct


@pytest.mark.server
@pytest.mark.realdata
def test_both_ways_give_the_same_weights_bit_for_bit(store):
    project, direct = both_runs(store)
    assert project.data.tags["weights.sha256"] == direct.data.tags["weights.sha256"]
    assert project.data.metrics["best/val_accuracy"] == direct.data.metrics["best/val_accuracy"]


@pytest.mark.server
@pytest.mark.realdata
def test_both_ways_log_the_same_parameters_metrics_and_artifacts(store):
    project, direct = both_runs(store)
    valued = {
        name for name, value in project.data.params.items() if value != "''"
    }  # MLflow stores the others
    assert valued <= direct.data.params.keys() <= project.data.params.keys()
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
    project, direct = both_runs(store)
    assert [run.info.status for run in (project, direct)] == ["FINISHED", "FINISHED"]
    assert [run.info.run_name for run in (project, direct)] == ["baseline", "baseline"]


@pytest.fixture(scope="module")
def refused(tmp_path_factory, initialised_database):
    """A store and what was printed of each refused param; the runs are made side by side."""
    folder = tmp_path_factory.mktemp("refused")
    stores = {param: new_store(folder / param, initialised_database) for param in REFUSED}
    processes = {param: mlflow_run(store, "train", param) for param, store in stores.items()}
    results = {}
    for param, process in processes.items():
        _, errors = process.communicate(timeout=600)
        results[param] = stores[param], process.returncode, errors
    return results


@pytest.mark.server
@pytest.mark.parametrize("param", REFUSED)
def test_bad_input_fails_the_run_with_one_sentence(refused, param):
    store, code, errors = refused[param]
    assert code != 0
    assert f"Error: {REFUSED[param]}" in errors
    assert "lenet_study/" not in errors, "no traceback of ours"
    (run,) = runs(store)
    assert run.info.status == "FAILED"
    assert run.info.run_name == "train"
    for tag in ("failure.reason", "mlflow.note.content"):
        assert REFUSED[param] in run.data.tags[tag]
