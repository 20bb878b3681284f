"""The executor of this computer."""

from __future__ import annotations

from lenet_study.execution.executor import Executor
from lenet_study.execution.inline import InlineExecutor
from lenet_study.execution.processes import ProcessExecutor
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.store import fail

PRELOADED = (  # imported once, not by each job; MLflow and torch would import the last three late
    "lenet_study.workflows.train",
    "lenet_study.workflows.evaluate",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "torch._inductor",
)


def local_executor(workers: int, reporter: Reporter) -> Executor:
    """Return an executor of so many jobs at a time; the run of a job whose process dies ends FAILED."""
    if workers == 1:
        return InlineExecutor(reporter)
    return ProcessExecutor(workers, reporter, fail, PRELOADED)
