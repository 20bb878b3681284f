"""One pinned list of packages feeds every kind of environment."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    stripped = (line.partition("#")[0].strip() for line in lines)
    return dict(line.split("==") for line in stripped if line and not line.startswith("-"))


@pytest.mark.parametrize(
    "name", ["requirements", "requirements-serve", "requirements-dev", "requirements-bench"]
)
def test_every_package_used_directly_is_locked_at_its_pin(name):
    assert pins(f"{name}.in").items() <= pins(f"{name}.txt").items()


@pytest.mark.parametrize(
    "group", ["requirements-serve.txt", "requirements-dev.txt", "requirements-bench.txt"]
)
def test_the_locks_agree(group):
    main, other = pins("requirements.txt"), pins(group)
    shared = main.keys() & other.keys()
    assert {name: main[name] for name in shared} == {name: other[name] for name in shared}


def test_every_package_used_directly_has_its_reason():
    for line in (ROOT / "requirements.in").read_text().splitlines()[1:]:
        assert re.fullmatch(r"[\w-]+==[\w.]+ +# .+", line)


def test_project_environment_and_conda_install_the_same_list_on_the_same_python():
    project = yaml.safe_load((ROOT / "python_env.yaml").read_text())
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert project["dependencies"] == ["-r requirements.txt"]
    assert all(re.fullmatch(r"\w+==[\d.]+", tool) for tool in project["build_dependencies"])
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.txt"]}
    assert f"python={project['python']}" in conda["dependencies"]
    assert project["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def test_this_environment_is_the_locked_one():
    installed = {name: metadata.version(name).partition("+")[0] for name in pins("requirements.txt")}
    assert installed == pins("requirements.txt")
