"""One pinned list of packages feeds every kind of environment."""

import ast
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


def imported(folder: Path) -> set[str]:
    """Packages of others that a file of the folder imports."""
    modules = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module))
    return {module.partition(".")[0] for module in modules} - {"lenet_study"} - sys.stdlib_module_names


def test_every_package_imported_by_the_source_is_listed():
    listed, distributions = pins("requirements.in").keys(), metadata.packages_distributions()
    names = {package: {name.lower() for name in distributions[package]} for package in imported(ROOT / "src")}
    assert "pydantic" in names
    assert [package for package in names if not names[package] & listed] == []


@pytest.mark.parametrize("name", [path.name for path in ROOT.glob("requirements*.txt")])
def test_a_lock_names_no_index_and_no_build_for_cuda(name):
    lines = (ROOT / name).read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9\-]+==[\w.]+", line) for line in lines)
    assert not [line for line in lines if line.startswith("nvidia-")]


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
