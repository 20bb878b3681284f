"""Independent jobs side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any, TypeVar

from lenet_study.errors import JobError, Pruned, StoreError, UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.execution.signals import exit_on_sigterm
from lenet_study.training.loop import Epoch

T = TypeVar("T")
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [  # imported once, not by each job; MLflow and torch would import the last three late
    "lenet_study.workflows.train",
    "lenet_study.workflows.evaluate",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "torch._inductor",
]


class Pool:
    """Runs jobs: functions that take a ``reporter`` besides their arguments.

    Several workers run them in the order of submission, each in a process of its own, so that a job
    that dies takes no other with it. One worker runs a job in this process, when it is submitted.
    Leaving the pool by an exception terminates the jobs that run and drops those that wait.

    Args:
        workers: Jobs at a time.
        reporter: Hears what all jobs report; an exception that it raises is raised in the job.
        fail: Told of each run of a process that died, and why.
    """

    def __init__(self, workers: int, reporter: Reporter, fail: Callable[[str, str], None]) -> None:
        self._workers = workers
        self.reporter = reporter
        self.failed: dict[str, str] = {}  # why, by the name of the job
        self._fail = fail
        self._processes: set[ForkServerProcess] = set()
        self._closing = False
        self._threads = ThreadPoolExecutor(workers)
        _CONTEXT.set_forkserver_preload(_PRELOAD)

    def submit(self, function: Callable[..., T], *arguments: object, **options: object) -> Future[T]:
        """Start a job as soon as a worker is free.

        Returns:
            Its result to come: what the function returns, or the exception that ended it. ``JobError``
            if its process died or the exception is no error of this project.
        """
        if self._workers > 1:
            return self._threads.submit(self._run_apart, function, arguments, options)
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments, **options, reporter=self.reporter))
        except Exception as error:
            future.set_exception(_presentable(error))
        return future

    def results(self, futures: Mapping[str, Future[T]]) -> dict[str, T]:
        """Wait for named jobs and give the results of those that did not fail; report the others."""
        found: dict[str, T] = {}
        for name, future in futures.items():
            try:
                found[name] = future.result()
            except Exception as error:
                self.failed[name] = str(error)
                self.reporter.say(f"{name} failed: {error}")
        return found

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            self._closing = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            for process in tuple(self._processes):
                process.terminate()
        self._threads.shutdown()

    def _run_apart(self, function: Callable[..., T], arguments: Any, options: Any) -> T:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, function, arguments, options), daemon=True)
        process.start()  # the first waits some seconds for the fork server
        self._processes.add(process)
        theirs.close()
        if self._closing:
            process.terminate()
        begun: dict[str, str] = {}  # ids of its runs, by their names
        try:
            while True:
                event, *content = pickle.loads(ours.recv_bytes())
                if event == "result":
                    return content[0]
                if event == "error":
                    raise content[0]
                if event == "started":
                    begun[content[0]] = content[1]
                ours.send_bytes(pickle.dumps(self._report(event, content)))
        except (EOFError, ConnectionError):
            process.join()
            reason = f"its process died (exit code {process.exitcode})"
            for name, run_id in begun.items():
                self.reporter.ended(name)
                self._fail(run_id, reason)
            raise JobError(reason) from None
        finally:
            ours.close()
            process.join()
            self._processes.remove(process)

    def _report(self, event: str, content: list[Any]) -> Exception | None:
        try:
            getattr(self.reporter, event)(*content)
        except Exception as error:
            return error
        return None


class _Relay:
    """Reports to the process that started this one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, *message: object) -> None:
        # Pickled here: torch's own pickling of tensors for processes needs this one to live on.
        self._connection.send_bytes(pickle.dumps(message))

    def started(self, name: str, run_id: str, epochs: int) -> None:
        self._tell("started", name, run_id, epochs)

    def epoch(self, name: str, epoch: Epoch) -> None:
        self._tell("epoch", name, epoch)

    def ended(self, name: str) -> None:
        self._tell("ended", name)

    def say(self, line: str) -> None:
        self._tell("say", line)

    def _tell(self, *message: object) -> None:
        self.send(*message)
        answer = pickle.loads(self._connection.recv_bytes())
        if answer:
            raise answer


def _work(connection: Connection, function: Callable[..., object], arguments: Any, options: Any) -> None:
    """What a worker's process does; only its parent ends it early, be it by its own end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_on_sigterm()
    threading.Thread(target=_follow_parent, daemon=True).start()
    relay = _Relay(connection)
    try:
        relay.send("result", function(*arguments, **options, reporter=relay))
    except Exception as error:
        relay.send("error", _presentable(error))


def _presentable(error: Exception) -> Exception:
    """An error of this project or of the machine as it is; another as one sentence, its trace on stderr."""
    if isinstance(error, UserError | JobError | StoreError | Pruned | OSError):
        return error
    traceback.print_exception(error)
    return JobError(f"{type(error).__name__}: {error}")


def _follow_parent() -> None:
    """End this process, and so its run, when the one that started it is no more."""
    parent = multiprocessing.parent_process()
    assert parent
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
