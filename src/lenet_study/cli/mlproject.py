"""Both MLproject files, made of the commands: ``make mlproject`` writes them, a test compares."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from lenet_study.cli.commands import ENTRY_POINTS
from lenet_study.cli.parameters import options_of

DEFAULT = "study"  # also as `main`: what a bare `mlflow run .` does
NOTE = "# Made by `make mlproject` from src/lenet_study/cli/commands.py."
LOCAL = "python_env: python_env.yaml"
DOCKER = """\
docker_env:
  image: lenet-study  # `make image`
  # MLflow hands the command to bash: options.py prints the options that MLflow's own lack.
  volumes: ["$(python3 options.py)"]
  # The host's own address: MLflow would mount the database alone, elsewhere in the container.
  environment: [[MLFLOW_TRACKING_URI, $MLFLOW_TRACKING_URI]]"""
# `mlflow run` makes an environment of the requirements alone, which clones share: it has no lenet_study.
PREFIX = "PYTHONPATH=src python -m lenet_study "


def mlproject(
    environment: str, prefix: str, commands: Mapping[str, Callable[..., None]] = ENTRY_POINTS
) -> str:
    """Return the text of an MLproject file; the prefix stands before each command's name."""
    entries = [_entry_point(name, prefix, options_of(command)) for name, command in commands.items()]
    head = f"{NOTE}\nname: lenet-study\n\n{environment}\n\nentry_points:\n"
    return head + "\n".join(entries) + f"\n  main: *{DEFAULT}\n"


def _entry_point(name: str, prefix: str, options: Mapping[str, click.Option]) -> str:
    anchor = f" &{name}" if name == DEFAULT else ""
    declared = "".join(f"      {parameter}: {_declared(option)}\n" for parameter, option in options.items())
    # A flag stays with its value: textwrap breaks lines at spaces alone.
    values = " ".join(f"{option.opts[0]}\0{{{parameter}}}" for parameter, option in options.items())
    command = textwrap.fill(f"{prefix}{name} {values}", 100, break_on_hyphens=False).replace("\0", " ")
    return (
        f"  {name}:{anchor}\n    parameters:{'' if declared else ' {}'}\n{declared}"
        f"    command: >-\n{textwrap.indent(command, ' ' * 6)}\n"
    )


def _declared(option: click.Option) -> str:
    """Return a parameter's declaration as YAML; MLflow checks no type, the command line does."""
    if option.required:
        return "{type: string}"
    number = isinstance(option.default, int | float) and not isinstance(option.default, bool)
    return f"{{type: {'float' if number else 'string'}, default: {json.dumps(option.default)}}}"


def write(root: Path) -> None:
    """Write both files of a checkout."""
    (root / "MLproject").write_text(mlproject(LOCAL, PREFIX), encoding="utf-8")
    (root / "docker" / "MLproject").write_text(mlproject(DOCKER, ""), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
