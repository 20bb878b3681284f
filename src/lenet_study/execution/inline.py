"""Jobs in this process, one after another."""

from __future__ import annotations

from concurrent.futures import Future

from lenet_study.execution.executor import Executor, Job, Monitor, T, presentable


class InlineExecutor(Executor):
    """Runs a job when it is submitted; an interruption reaches the submitter."""

    def submit(self, job: Job[T], monitor: Monitor = Monitor()) -> Future[T]:
        """Run a job now; its future has ended."""
        future: Future[T] = Future()
        try:
            future.set_result(job.run(self.reporter, monitor))
        except Exception as error:  # no KeyboardInterrupt or SystemExit: these end the submitter, too
            future.set_exception(presentable(error))
        return future

    def cancel(self) -> None:
        """Do nothing: no job outlives its submission."""

    def close(self) -> None:
        """Do nothing: no job outlives its submission."""
