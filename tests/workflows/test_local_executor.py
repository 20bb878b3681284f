"""The executor of this computer: one worker works in this process, several in their own."""

import importlib
import os
import signal
from dataclasses import dataclass

import pytest
from conftest import Recorder, add_training

from lenet_study.errors import JobError
from lenet_study.workflows.local_executor import PRELOADED, local_executor


@dataclass(frozen=True)
class ProcessId:
    def run(self, reporter, monitor):
        return os.getpid()


@dataclass(frozen=True)
class Die:
    run_id: str

    def run(self, reporter, monitor):
        reporter.on_run_start("die", self.run_id, 3)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_worker_works_here_and_several_elsewhere(workers):
    with local_executor(workers, Recorder()) as executor:
        process_ids = {executor.submit(ProcessId()).result() for _ in range(3)}
    assert process_ids == {os.getpid()} if workers == 1 else os.getpid() not in process_ids
    assert len(process_ids) == (1 if workers == 1 else 3)  # a process for each job


def test_the_run_of_a_process_that_died_ends_failed(store):
    run_id = add_training(store, "v1", None, status="RUNNING", registered=False)
    with local_executor(2, Recorder()) as executor, pytest.raises(JobError, match="exit code -9"):
        executor.submit(Die(run_id)).result()
    stored = store.get_run(run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["failure.reason"] == "its process died (exit code -9)"


@pytest.mark.parametrize("module", PRELOADED)
def test_what_jobs_share_can_be_imported(module):
    importlib.import_module(module)  # the fork server itself would go on without it, and say nothing
