"""Measurements in processes of their own: no memory, thread count or environment reaches another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import SPIN_COUNT

T = TypeVar("T")
LIMITED_SPINNING = {"GOMP_SPINCOUNT": SPIN_COUNT}  # what a command of this project sets for itself
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # how OpenMP's threads wait; read when a process starts


def environment_of(**variables: str) -> dict[str, str]:
    """Return the environment of a command of this project, wherever it is started.

    How OpenMP's threads wait is left to libgomp and to the command, unless ``variables`` say it.
    """
    root = Path(__file__).parents[1]
    inherited = {name: value for name, value in os.environ.items() if name not in _WAITING}
    data_dir = str(DataFiles.at().folder.resolve())
    return {**inherited, "PYTHONPATH": f"{root / 'src'}:{root}", "LENET_STUDY_DATA": data_dir, **variables}


def call_in_process(
    function: Callable[..., T], *arguments: object, environment: Mapping[str, str] | None = None
) -> T:
    """Call a function of a module in a new process and return its result.

    Args:
        function: Reached by its module and name.
        arguments: Values that JSON can hold, as must be the result.
        environment: Variables beside those of ``environment_of``.
    """
    script = (
        f"import json, sys; from {function.__module__} import {function.__name__} as function; "
        "print(json.dumps(function(*json.loads(sys.argv[1]))))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        env=environment_of(**(environment or {})),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    result: T = json.loads(output.splitlines()[-1])
    return result
