"""Jobs side by side, each in a process of its own, so that a job that dies takes no other with it.

Neither ``ProcessPoolExecutor`` nor loky does: with one dead worker they give up all jobs.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import psutil

from lenet_study.errors import JobError
from lenet_study.execution.executor import Executor, Job, Monitor, T, presentable
from lenet_study.execution.output import drop_unwritable_output
from lenet_study.execution.reporter import Reporter
from lenet_study.execution.signals import Stopped, deferred, stop_on_signals

_CONTEXT = multiprocessing.get_context("forkserver")


class ProcessExecutor(Executor):
    """Runs jobs in the order of submission, so many at a time as there are workers."""

    def __init__(
        self,
        workers: int,
        reporter: Reporter,
        on_death: Callable[[str, str], None],  # of the id of an MLflow run whose process died, and why
        preload: Sequence[str] = (),  # modules that the fork server imports once, instead of every job
    ) -> None:
        super().__init__(reporter)
        self._on_death = on_death
        self._processes: set[ForkServerProcess] = set()
        self._cancelled = False
        self._threads = ThreadPoolExecutor(workers)  # each waits for one process
        _CONTEXT.set_forkserver_preload(list(preload))

    def submit(self, job: Job[T], monitor: Monitor = Monitor()) -> Future[T]:
        """Start a job as soon as a worker is free."""
        return self._threads.submit(self._run_in_process, job, monitor)

    def cancel(self) -> None:
        """Terminate the jobs that run and drop those that wait."""
        self._cancelled = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in tuple(self._processes):
            process.terminate()
        if not self._processes:  # jobs may wait for the fork server, which imports for seconds
            _end_fork_server()

    def close(self) -> None:
        """Wait until all jobs have ended."""
        self._threads.shutdown()

    def _run_in_process(self, job: Job[T], monitor: Monitor) -> T:
        if self._cancelled:
            raise JobError("it was cancelled")
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, job, dict(os.environ)), daemon=True)
        try:
            process.start()  # the first waits some seconds for the fork server
        except (EOFError, ConnectionError):
            raise JobError("it was cancelled, or the fork server died") from None
        self._processes.add(process)
        theirs.close()
        if self._cancelled:
            process.terminate()
        run_ids: dict[str, str] = {}  # of the job's MLflow runs, by their names
        try:
            while True:
                event, *content = pickle.loads(ours.recv_bytes())
                if event == "result":
                    return content[0]
                if event == "error":
                    raise content[0]
                if event == "reporter.on_run_start":
                    name, run_id, _ = content
                    run_ids[name] = run_id
                _send(ours, *self._answer(event, content, monitor))
        except (EOFError, ConnectionError):
            process.join()
            reason = f"its process died (exit code {process.exitcode})"
            for name, run_id in run_ids.items():
                self.reporter.on_run_end(name)
                if not self._cancelled:  # it was told to end, and has written that down itself
                    self._on_death(run_id, reason)
            raise JobError(reason) from None
        finally:
            ours.close()
            process.join()
            self._processes.remove(process)

    def _answer(self, event: str, content: list[Any], monitor: Monitor) -> tuple[Any, Exception | None]:
        """Call what a job has called; return what it returned, or the exception to raise in the job."""
        receiver, _, method = event.partition(".")
        try:
            return getattr(monitor if receiver == "monitor" else self.reporter, method)(*content), None
        except Exception as error:
            return None, error


def _end_fork_server() -> None:
    """Kill the fork server; the next job gets a new one."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ChildProcessError):
            if "multiprocessing.forkserver" in " ".join(child.cmdline()):
                child.kill()
                # Left to be reaped by multiprocessing, which takes one that is about to die for alive.
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


class _Proxy:
    """A worker's reporter or monitor: each method calls its namesake where the job was submitted."""

    def __init__(self, connection: Connection, receiver: str) -> None:
        self._connection = connection
        self._receiver = receiver

    def __getattr__(self, method: str) -> Any:
        return partial(self._call, f"{self._receiver}.{method}")

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            with deferred():  # a call without its answer would be answered by the next one's
                _send(self._connection, method, *arguments)
                answer, error = pickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise Stopped(signal.SIGTERM) from None  # the parent is no more
        if error:
            raise error
        return answer


def _send(connection: Connection, *message: object) -> None:
    # Pickled here: torch's own pickling of tensors for processes needs this one to live on.
    connection.send_bytes(pickle.dumps(message))


def _work(connection: Connection, job: Job[object], environment: Mapping[str, str]) -> None:
    """Run a job in a process of its own, which only its parent ends early, be it by its own end."""
    os.environ.clear()  # left from the fork server's start, which may name another store
    os.environ.update(environment)
    drop_unwritable_output()
    stop_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    reporter: Any = _Proxy(connection, "reporter")
    monitor: Any = _Proxy(connection, "monitor")
    try:
        _send(connection, "result", job.run(reporter, monitor))
    except Exception as error:
        _send(connection, "error", presentable(error))


def _follow_parent() -> None:
    """End this process, and so its run, when the one that started it is no more."""
    parent = multiprocessing.parent_process()
    assert parent
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
