"""The seam between work and where it runs: jobs are data, an executor runs them.

A job is any object that can be pickled and has a method ``run``; see ``workflows`` for the project's own.
Backends: ``InlineExecutor`` (this process), ``ProcessExecutor`` (a process for each job).
"""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeVar

from lenet_study.errors import JobError, StudyError
from lenet_study.execution.reporter import Reporter
from lenet_study.training.history import Epoch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Monitor:
    """Hears for the submitter of a job how far that is; its methods run where the job was submitted."""

    def on_run_start(self, run_id: str) -> None:
        """Hear the id of the MLflow run that the job has opened."""

    def on_epoch_end(self, epoch: Epoch) -> str | None:
        """Hear of an epoch; return a reason to end the training there, or None to go on."""
        return None


class Job(Protocol[T_co]):
    """A piece of work as data: it says enough to be done in any process."""

    def run(self, reporter: Reporter, monitor: Monitor) -> T_co:
        """Do the work."""
        ...


class Executor(AbstractContextManager["Executor"]):
    """Runs jobs. Leaving its context by an exception cancels all jobs that have not ended."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter  # hears what all jobs report
        self.failed: dict[str, str] = {}  # why each job failed, by its name in ``results``

    @abstractmethod
    def submit(self, job: Job[T], monitor: Monitor = Monitor()) -> Future[T]:
        """Run a job as soon as there is room.

        Returns:
            Its result to come: what ``run`` returns, or the exception that ended it. ``JobError`` if its
            process died or the exception is no error of this project.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Terminate the jobs that run and drop those that wait."""

    @abstractmethod
    def close(self) -> None:
        """Wait until all jobs have ended."""

    def results(self, futures: Mapping[str, Future[T]]) -> dict[str, T]:
        """Wait for named jobs and return the results of those that did not fail; report the others."""
        results: dict[str, T] = {}
        # In the order of the names, not of the ends: what is printed and logged is the same each time.
        for name, future in futures.items():
            try:
                results[name] = future.result()
            except Exception as error:  # a job that fails takes no other with it
                self.failed[name] = str(error)
                self.reporter.message(f"{name} failed: {error}")
        return results

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:  # an interruption or a fault of the submitter, not of a job: those are in their futures
            self.cancel()
        self.close()


def presentable(error: Exception) -> Exception:
    """Return an error for a user: one of the program becomes a sentence, and its traceback goes to stderr."""
    if isinstance(error, StudyError | OSError):
        return error
    # A fault of the program: its author needs the trace, which does not cross the border of a process.
    traceback.print_exception(error)
    return JobError(f"{type(error).__name__}: {error}")
