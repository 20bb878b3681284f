"""Jobs side by side: results, reports, and processes that fail, die or are terminated."""

import importlib
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from lenet_study.errors import JobError, Pruned, UserError
from lenet_study.execution.processes import _PRELOAD, Pool
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
both = pytest.mark.parametrize("workers", [1, 2])


class Recorder:
    """Keeps what jobs report."""

    def __init__(self):
        self.events = []

    def started(self, *content):
        self.events.append(("started", *content))

    def epoch(self, *content):
        self.events.append(("epoch", *content))

    def ended(self, *content):
        self.events.append(("ended", *content))

    def say(self, *content):
        self.events.append(("say", *content))


def double(value, *, reporter):
    reporter.started("double", f"run {value}", 1)
    reporter.epoch("double", EPOCH)
    reporter.say(f"doubled {value}")
    return torch.tensor(2 * value)


def process_id(*, reporter):
    return os.getpid()


def refuse(*, reporter):
    raise UserError("colour=red is unknown: use blue")


def divide(*, reporter):
    return 1 / 0


def die(*, reporter):
    reporter.started("die", "run 7", 3)
    os.kill(os.getpid(), signal.SIGKILL)


def rest(path, seconds, *, reporter):
    try:
        Path(path).write_text("started")
        time.sleep(seconds)
    except SystemExit:
        Path(path).write_text("closed in peace")
        raise


@pytest.fixture
def failures():
    return []


@pytest.fixture
def pool(request, failures):
    workers = request.param if hasattr(request, "param") else 2
    with Pool(workers, Recorder(), lambda run_id, reason: failures.append((run_id, reason))) as pool:
        yield pool


@pytest.mark.parametrize("pool", [1, 2], indirect=True)
def test_results_and_reports_arrive(pool):
    results = pool.results({str(value): pool.submit(double, value) for value in (1, 2, 3)})
    assert results == {"1": 2, "2": 4, "3": 6}
    assert list(results) == ["1", "2", "3"]
    for value in (1, 2, 3):
        assert ("started", "double", f"run {value}", 1) in pool.reporter.events
        assert ("say", f"doubled {value}") in pool.reporter.events
    assert pool.reporter.events.count(("epoch", "double", EPOCH)) == 3
    assert pool.failed == {}


@both
def test_one_worker_works_here_and_several_elsewhere(workers):
    with Pool(workers, Recorder(), print) as pool:
        found = {pool.submit(process_id).result() for _ in range(3)}
    assert found == {os.getpid()} if workers == 1 else os.getpid() not in found
    assert len(found) == (1 if workers == 1 else 3)  # a process for each job


@pytest.mark.parametrize("pool", [1, 2], indirect=True)
def test_a_job_that_fails_takes_no_other_with_it(pool):
    futures = {
        "refused": pool.submit(refuse),
        "divided": pool.submit(divide),
        "doubled": pool.submit(double, 4),
    }
    assert pool.results(futures) == {"doubled": 8}
    assert pool.failed["refused"] == "colour=red is unknown: use blue"
    assert "division by zero" in pool.failed["divided"]
    assert ("say", "refused failed: colour=red is unknown: use blue") in pool.reporter.events
    with pytest.raises(UserError, match="colour=red"):
        futures["refused"].result()


@both
def test_an_unforeseen_exception_becomes_a_sentence_and_its_trace_is_shown(workers, capfd):
    with Pool(workers, Recorder(), print) as pool:
        job = pool.submit(divide)
        with pytest.raises(JobError, match="ZeroDivisionError: division by zero"):
            job.result()
    if workers == 1:  # the others' fork server has the stderr of the first test that needed it
        assert "in divide" in capfd.readouterr().err


class Critic(Recorder):
    """Ends a job after its first epoch."""

    def epoch(self, *content):
        super().epoch(*content)
        raise Pruned("others are better")


@both
def test_an_exception_of_the_reporter_is_raised_in_the_job(workers):
    with Pool(workers, Critic(), print) as pool:
        job = pool.submit(double, 4)
        with pytest.raises(Pruned, match="others are better"):
            job.result()
        assert pool.submit(process_id).result()
    assert [event[0] for event in pool.reporter.events] == ["started", "epoch"]


def test_the_run_of_a_process_that_died_is_failed(pool, failures):
    futures = {"dead": pool.submit(die), "doubled": pool.submit(double, 4)}
    assert pool.results(futures) == {"doubled": 8}
    assert failures == [("run 7", "its process died (exit code -9)")]
    assert ("ended", "die") in pool.reporter.events
    with pytest.raises(JobError, match="exit code -9"):
        futures["dead"].result()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_exception_ends_a_job_whose_process_is_just_being_started(tmp_path):
    start = time.monotonic()

    def interrupted():
        with Pool(2, Recorder(), print) as pool:
            pool.submit(rest, str(tmp_path / "path"), 300)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 120


def test_an_exception_ends_the_jobs_that_run_and_drops_those_that_wait(tmp_path):
    paths = [tmp_path / name for name in ("first", "second", "third")]
    start = time.monotonic()

    def interrupted():
        with Pool(2, Recorder(), print) as pool:
            for path in paths:
                pool.submit(rest, str(path), 300)
            wait_for(lambda: paths[0].is_file() and paths[1].is_file())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 120
    assert [path.read_text() for path in paths[:2]] == ["closed in peace"] * 2
    assert not paths[2].exists()


@pytest.mark.parametrize("module", _PRELOAD)
def test_what_jobs_share_can_be_imported(module):
    importlib.import_module(module)  # the fork server itself would go on without it, and say nothing
