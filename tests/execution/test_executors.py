"""Jobs here and side by side: results, reports, monitors, and processes that fail, die or are terminated."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import Recorder

from lenet_study.errors import JobError, StoreError, UserError
from lenet_study.execution.executor import Monitor
from lenet_study.execution.inline import InlineExecutor
from lenet_study.execution.processes import ProcessExecutor
from lenet_study.training.history import Epoch

EPOCH = Epoch(
    epoch=1,
    learning_rate=0.1,
    train_loss=1.0,
    train_accuracy=0.5,
    val_loss=None,
    val_accuracy=None,
    seconds=1.0,
)


@dataclass(frozen=True)
class Double:
    """Reports a run of one epoch and returns twice its value."""

    value: int

    def run(self, reporter, monitor):
        reporter.on_run_start("double", f"run {self.value}", 1)
        reporter.on_epoch_end("double", EPOCH)
        reporter.message(f"doubled {self.value}")
        return torch.tensor(2 * self.value)


@dataclass(frozen=True)
class ProcessId:
    def run(self, reporter, monitor):
        return os.getpid()


@dataclass(frozen=True)
class CtrlC:
    """Gets the signal that a terminal sends to all processes of a command."""

    def run(self, reporter, monitor):
        os.kill(os.getpid(), signal.SIGINT)
        return "left to the command"


@dataclass(frozen=True)
class Environment:
    def run(self, reporter, monitor):
        return os.environ.get("STORE"), os.environ.get("OTHER")


@dataclass(frozen=True)
class Refuse:
    def run(self, reporter, monitor):
        raise UserError("colour=red is unknown: use blue")


@dataclass(frozen=True)
class Divide:
    def run(self, reporter, monitor):
        return 1 / 0


@dataclass(frozen=True)
class Die:
    def run(self, reporter, monitor):
        reporter.on_run_start("die", "run 7", 3)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Rest:
    """Sleeps, and writes down that it was woken by its end."""

    path: str
    seconds: int

    def run(self, reporter, monitor):
        try:
            Path(self.path).write_text("started")
            time.sleep(self.seconds)
        except SystemExit:
            Path(self.path).write_text("closed in peace")
            raise


@dataclass(frozen=True)
class Train:
    """Three epochs, unless the monitor ends it; returns the process, the epochs and the monitor's reason."""

    def run(self, reporter, monitor):
        monitor.on_run_start("run 9")
        for number in (1, 2, 3):
            reporter.on_epoch_end("train", replace(EPOCH, epoch=number))
            if reason := monitor.on_epoch_end(replace(EPOCH, epoch=number)):
                return os.getpid(), number, reason
        return os.getpid(), 3, ""


@dataclass(frozen=True)
class Heed:
    """Returns the exception that its own call raised."""

    def run(self, reporter, monitor):
        try:
            reporter.on_epoch_end("heed", EPOCH)
            monitor.on_epoch_end(EPOCH)
        except StoreError as error:
            return os.getpid(), str(error)


@pytest.fixture
def failures():
    return []


@pytest.fixture(params=["inline", "processes"])
def executor(request, failures):
    with make_executor(request.param, Recorder(), failures) as executor:
        yield executor


@pytest.fixture
def processes(failures):
    with make_executor("processes", Recorder(), failures) as executor:
        yield executor


def make_executor(kind, reporter, failures=None):
    if kind == "inline":
        return InlineExecutor(reporter)
    # One fork server serves all tests of this process, those of workflows, too; here it would load nothing.
    from lenet_study.workflows.local_executor import PRELOADED

    on_death = (lambda run_id, reason: failures.append((run_id, reason))) if failures is not None else print
    return ProcessExecutor(2, reporter, on_death, PRELOADED)


def test_results_and_reports_arrive(executor):
    results = executor.results({str(value): executor.submit(Double(value)) for value in (1, 2, 3)})
    assert results == {"1": 2, "2": 4, "3": 6}
    assert list(results) == ["1", "2", "3"]
    events = executor.reporter.events
    for value in (1, 2, 3):
        assert ("on_run_start", "double", f"run {value}", 1) in events
        assert ("message", f"doubled {value}") in events
    assert events.count(("on_epoch_end", "double", EPOCH)) == 3
    assert executor.failed == {}


def test_a_job_has_the_environment_of_its_submission(executor, monkeypatch):
    monkeypatch.delenv("OTHER", raising=False)
    for value in ("first", "second"):
        monkeypatch.setenv("STORE", value)
        assert executor.submit(Environment()).result() == (value, None)


def test_a_job_that_fails_takes_no_other_with_it(executor):
    futures = {
        "refused": executor.submit(Refuse()),
        "divided": executor.submit(Divide()),
        "doubled": executor.submit(Double(4)),
    }
    assert executor.results(futures) == {"doubled": 8}
    assert executor.failed["refused"] == "colour=red is unknown: use blue"
    assert "division by zero" in executor.failed["divided"]
    assert ("message", "refused failed: colour=red is unknown: use blue") in executor.reporter.events
    with pytest.raises(UserError, match="colour=red"):
        futures["refused"].result()


def test_an_unforeseen_exception_becomes_a_sentence_and_its_trace_is_printed(executor, capfd):
    with pytest.raises(JobError, match="ZeroDivisionError: division by zero"):
        executor.submit(Divide()).result()
    if isinstance(executor, InlineExecutor):  # a fork server has the stderr of the first test that needed it
        assert "1 / 0" in capfd.readouterr().err


class Impatient(Monitor):
    """Ends a training after its second epoch; remembers what it heard, and where."""

    def __init__(self):
        self.run_ids = []
        self.process_ids = set()

    def on_run_start(self, run_id):
        self.run_ids.append(run_id)

    def on_epoch_end(self, epoch):
        self.process_ids.add(os.getpid())
        return "others are better" if epoch.epoch == 2 else None


def test_the_monitors_reason_reaches_the_job(executor):
    monitor = Impatient()
    process_id, epochs, reason = executor.submit(Train(), monitor).result()
    assert (epochs, reason) == (2, "others are better")
    assert (process_id == os.getpid()) == isinstance(executor, InlineExecutor)
    assert monitor.process_ids == {os.getpid()}  # where the job was submitted
    assert monitor.run_ids == ["run 9"]
    assert [name for name, *_ in executor.reporter.events] == ["on_epoch_end"] * 2


def test_without_a_monitor_a_job_goes_on_to_its_end(executor):
    assert executor.submit(Train()).result()[1:] == (3, "")


def test_each_job_has_its_own_monitor(executor):
    monitors = Monitor(), Impatient()
    futures = [executor.submit(Train(), monitor) for monitor in monitors]
    assert [future.result()[1] for future in futures] == [3, 2]


class Broken(Recorder):
    """A reporter that fails at the first epoch."""

    def on_epoch_end(self, name, epoch):
        super().on_epoch_end(name, epoch)
        raise StoreError("the disk is full")


class BrokenMonitor(Monitor):
    def on_epoch_end(self, epoch):
        raise StoreError("the disk is full")


@pytest.mark.parametrize(
    ("reporter", "monitor"),
    [(Broken(), Monitor()), (Recorder(), BrokenMonitor())],
    ids=["reporter", "monitor"],
)
@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_an_exception_of_reporter_or_monitor_is_raised_in_the_job(kind, reporter, monitor):
    with make_executor(kind, reporter) as executor:
        reporter.events.clear()
        process_id, message = executor.submit(Heed(), monitor).result()
        assert message == "the disk is full"
        assert (process_id == os.getpid()) == (kind == "inline")
        with pytest.raises(StoreError, match="the disk is full"):
            executor.submit(Train(), monitor).result()
        assert executor.submit(ProcessId()).result()  # the executor goes on
    assert [name for name, *_ in reporter.events] == ["on_epoch_end"] * 2


def test_the_run_of_a_process_that_died_is_failed(processes, failures):
    futures = {"dead": processes.submit(Die()), "doubled": processes.submit(Double(4))}
    assert processes.results(futures) == {"doubled": 8}
    assert failures == [("run 7", "its process died (exit code -9)")]
    assert ("on_run_end", "die") in processes.reporter.events
    with pytest.raises(JobError, match="exit code -9"):
        futures["dead"].result()


def test_a_worker_leaves_ctrl_c_to_its_command(processes):
    assert processes.submit(CtrlC()).result() == "left to the command"


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_exception_ends_a_job_whose_process_is_just_being_started(tmp_path):
    start = time.monotonic()

    def interrupted():
        with make_executor("processes", Recorder()) as executor:
            executor.submit(Rest(str(tmp_path / "path"), 300))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 120


def test_an_exception_ends_the_jobs_that_run_and_drops_those_that_wait(tmp_path):
    paths = [tmp_path / name for name in ("first", "second", "third")]
    start = time.monotonic()

    def interrupted():
        with make_executor("processes", Recorder()) as executor:
            for path in paths:
                executor.submit(Rest(str(path), 300))
            wait_for(lambda: paths[0].is_file() and paths[1].is_file())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 120
    assert [path.read_text() for path in paths[:2]] == ["closed in peace"] * 2
    assert not paths[2].exists()


CANCELLED_EARLY = """
import time
import psutil
from lenet_study.execution.processes import ProcessExecutor
from lenet_study.execution.reporter import Reporter
from test_executors import ProcessId

executor = ProcessExecutor(2, Reporter(), print, ["takes_a_minute"])
futures = [executor.submit(ProcessId()) for _ in range(3)]
while not psutil.Process().children():
    time.sleep(0.05)
time.sleep(0.5)
start = time.monotonic()
executor.cancel()
executor.close()
print("closed", time.monotonic() - start < 30, [future.done() for future in futures])
"""


def test_jobs_that_wait_for_the_fork_server_are_cancelled_at_once(tmp_path):
    (tmp_path / "takes_a_minute.py").write_text("import time; time.sleep(60)")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", CANCELLED_EARLY],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stdout == "closed True [True, True, True]\n", ended.stderr
