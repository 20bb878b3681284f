"""Every command of the README runs in a copy of the project; trainings get one epoch, servers a free port."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import free_port, serving
from toys import toy_split, write_data_files

from lenet_study.training.data_files import SHA256

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
SERVERS = {"mlflow ui": "health", "mlflow models serve": "ping"}  # where they answer
SMALL_SEARCH = "-P trials=2 -P max_epochs=1 -P max_parameters=20000 -P confirm_seeds=0"


def quick(command: str) -> str:
    """The command with the smallest model, one epoch and no new environment, where it would take long."""
    if not command.startswith("mlflow run"):
        return command
    command += "" if "env-manager" in command else " --env-manager local"
    command = re.sub(r"variant=\w+", "variant=baseline", command).replace("-P trials=50", SMALL_SEARCH)
    trains = "-e train" in command and "epochs" not in command and "recipe=" not in command
    return command + (" -P epochs=1" if trains else "")


def shrink(recipe: Path) -> None:
    """Make a recipe file's model small and its training short."""
    content = json.loads(recipe.read_text())
    content["config"]["epochs"] = 1
    content["variant"]["channels"] = [4, 8]
    del content["sha256"]
    recipe.write_text(json.dumps(content))


def few_images(project: Path) -> None:
    """Give a copy of the project toy images in place of Fashion-MNIST, and their sums in place of its."""
    toys = write_data_files(project / "data", toy_split(200, seed=1), toy_split(60, seed=2))
    module = project / "src/lenet_study/training/data_files.py"
    content = module.read_text()
    for name, original in SHA256.items():
        content = content.replace(original, toys.sha256[name])
    module.write_text(content)


def serve(command: str, folder: Path) -> None:
    """Start a server on a free port, wait until it answers, and stop it."""
    port = str(free_port())
    arguments = [*re.sub(r" --port \d+", "", command).split(), "--port", port]
    path = next(path for name, path in SERVERS.items() if command.startswith(name))
    with serving(arguments, f"http://127.0.0.1:{port}/{path}", folder):
        pass


def test_make_targets_of_the_readme_exist():
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    targets = {line.split()[0] for line in help_text.splitlines() if line}
    used = {word for word in re.findall(r"`?\bmake ([a-z-]+)", README) if word != "and"}
    assert used
    assert used <= targets


def test_pictures_of_the_readme_exist():
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


@pytest.fixture
def checkout(tmp_path, initialised_database, monkeypatch):
    """A copy of the project with an empty store, and an environment as after the README's set-up."""
    copy = tmp_path / "project"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for recipe in (copy / "docs").glob("*.json"):
        shrink(recipe)
    few_images(copy)
    shutil.copy(initialised_database, copy / "mlflow.db")
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return copy


@pytest.mark.server
def test_commands_of_the_readme_run(checkout, monkeypatch):
    done: list[list[str]] = []
    for command in COMMANDS:
        if command.startswith("export "):
            monkeypatch.setenv(*command.removeprefix("export ").split("="))
        elif command.startswith(("make ", ". ")):
            continue  # the targets that have set up and started this test, and test_docker.py's
        elif command.startswith("mlflow run docker"):
            assert command in (ROOT / "docs" / "docker.md").read_text()  # test_docker.py runs that
        elif command.startswith(tuple(SERVERS)):
            serve(command, checkout)
            done.append(command.split())
        elif sorted(words := quick(command).split()) not in done:
            result = subprocess.run(words, cwd=checkout, capture_output=True, text=True, timeout=400)
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
            done.append(sorted(words))
    assert len(done) >= 8
