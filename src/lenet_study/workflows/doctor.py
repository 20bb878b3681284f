"""``doctor``: installation, data, store and computer are examined, and cures named."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from lenet_study.errors import HealthError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.disk import store_folder
from lenet_study.training.data_files import DataFiles
from lenet_study.workflows import computer_checks as computer
from lenet_study.workflows.finding import Finding, guarded
from lenet_study.workflows.store_checks import store_findings


def doctor(data_dir: str = "", *, as_json: bool = False, reporter: Reporter = Reporter()) -> None:
    """Examine everything, and say what was found; raise as ``report``.

    A store whose making was cut off is set aside, if it holds nothing; nothing else is changed.
    """
    report(examine(data_dir), as_json=as_json, reporter=reporter)


def report(findings: Iterable[Finding], *, as_json: bool, reporter: Reporter) -> None:
    """Print findings, a line each or as one JSON document.

    Raises:
        HealthError: One is a problem.
    """
    findings = list(findings)
    if as_json:
        reporter.message(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        reporter.message("\n".join(finding.line() for finding in findings))
    if problems := [finding.name for finding in findings if finding.state == "problem"]:
        raise HealthError(f"{len(problems)} of {len(findings)} checks found a problem: {', '.join(problems)}")


def examine(data_dir: str = "") -> Iterator[Finding]:
    """Make all checks."""
    yield guarded("python", computer.python)
    yield guarded("packages", computer.packages)
    yield guarded("torch", computer.torchvision)
    yield guarded("data", lambda: computer.data(DataFiles.at(data_dir)))
    yield from store_findings()
    yield guarded("disk of the store", lambda: computer.disk(store_folder()))
    yield guarded("disk of the data", lambda: computer.disk(DataFiles.at(data_dir).folder))
    yield guarded("disk of temporary files", lambda: computer.disk(Path(tempfile.gettempdir())))
    yield guarded("memory", computer.memory)
    yield guarded("port 5000", partial(computer.port, 5000, "`mlflow ui`"))
    yield guarded("port 5001", partial(computer.port, 5001, "`mlflow models serve`"))
    yield guarded("git", computer.git)
    yield guarded("docker", computer.docker)
