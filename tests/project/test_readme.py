"""Every command of the README runs as written, in a copy of the project; long trainings get one epoch."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import serving

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
SERVERS = {"mlflow ui": "http://127.0.0.1:5000/health", "mlflow models serve": "http://127.0.0.1:5001/ping"}


def quick(command: str) -> str:
    """The command with one epoch and no new environment, where it would take long."""
    if command.startswith("mlflow run"):
        command += "" if "env-manager" in command else " --env-manager local"
        trains = "-e train" in command and "epochs" not in command and "spec=" not in command
        command += " -P epochs=1" if trains else ""
        small = " -P trials=2 -P max_epochs=1 -P max_parameters=20000 -P confirm_seeds=0"
        command = command.replace(" -P trials=50", small)
    return command


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


@pytest.mark.server
@pytest.mark.realdata
def test_commands_of_the_readme_run(tmp_path, monkeypatch):
    copy = tmp_path / "project"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for path in (copy / "docs").glob("*.json"):
        spec = json.loads(path.read_text())
        spec["config"]["epochs"] = 1
        path.write_text(json.dumps(spec))
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "src")
    monkeypatch.setenv("LENET_STUDY_DATA", os.environ.get("LENET_STUDY_DATA", str(ROOT / "data")))
    done = 0
    for command in COMMANDS:
        if command.startswith(("make ", ". ", "export ")):
            continue  # the targets that have set up and started this test, and test_docker.py's
        if command.startswith("mlflow run docker"):
            assert command in (ROOT / "docs" / "docker.md").read_text()  # test_docker.py runs that
            continue
        server = next((name for name in SERVERS if command.startswith(name)), None)
        if server:
            with serving(command.split(), SERVERS[server], copy):
                pass
        else:
            arguments = quick(command).split()
            result = subprocess.run(arguments, cwd=copy, capture_output=True, text=True, timeout=400)
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        done += 1
    assert done >= 9
