"""Searches on toy images as programs of their own, to be killed.

    toy_process.py search TRIALS WORKERS
    toy_process.py computers ADDRESS COMPUTERS TRIALS
    toy_process.py points

The second runs as many computers at once, which share a search of so many trials each on one storage. The
third reads lines ``MODULE:NAME before|after`` from stdin. For each it runs a search in a child that
kills itself before or after the first call of that function, and writes the child's exit code to stdout. An
empty line is a search that nothing kills.
"""

import importlib
import os
import signal
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from optuna.trial import TrialState
from searches import CONFIG, CPU
from toys import toy_split, write_data_files

from lenet_study.execution.reporter import Terminal
from lenet_study.search.driver import search
from lenet_study.search.sampling import Settings
from lenet_study.search.storage import open_trial_store
from lenet_study.tracking.run import open_run


def arm(module: str, path: str, when: str) -> None:
    """Make the first call of a function the end of this process."""
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for attribute in outer:
        owner = getattr(owner, attribute)
    function = getattr(owner, name)

    def fatal(*arguments, **keywords):
        if when == "after":
            function(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, fatal)


def run(trials: int, confirm_seeds: int, workers: int) -> None:
    torch.set_num_threads(1)
    files = write_data_files(Path("data"), toy_split(200, seed=1), toy_split(60, seed=2))
    changes = {"trials": trials, "confirm_seeds": confirm_seeds, "max_parameters": 20_000}
    search(replace(CONFIG, **changes), CPU, workers, files, Terminal())


def killed(point: str) -> None:
    if point:
        place, when = point.split()
        arm(*place.split(":"), when)
    run(trials=2, confirm_seeds=1, workers=1)


def computer(number: int, address: str, trials: int) -> None:
    """Do what a computer does that takes part in a search, but for the trainings."""
    tempfile.tempdir = tempfile.mkdtemp(dir=".")  # a computer's lock lies in its own folder
    config = replace(CONFIG, search_name="shared", storage=address, max_parameters=500_000, max_epochs=10)
    with open_trial_store(Settings(replace(config, sampler="RandomSampler")), {"seed": 0}) as store:
        store.host = f"computer-{number}"
        for _ in range(trials):
            number, recipe = store.ask()
            with open_run(f"trial {number}", stage="trial", params={}, tags={"trial": number}) as run:
                store.set_run_id(number, run.id)
                for epoch in range(1, recipe.config.epochs + 1):
                    run.log_metrics({"val/accuracy": number + epoch / 100}, step=epoch)
                    store.report(number, epoch, 0.9)
            store.tell(number, TrialState.COMPLETE, 0.9)


def fork(work, *arguments) -> int:
    """Run a function in a child, which has all modules already; gives its process id."""
    if pid := os.fork():
        return pid
    try:
        work(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    mode, *values = sys.argv[1:]
    if mode == "search":
        run(int(values[0]), 0, int(values[1]))
    elif mode == "computers":
        computers = [fork(computer, number, values[0], int(values[2])) for number in range(int(values[1]))]
        sys.exit(max(map(abs, map(exit_code, computers))))
    else:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what searches print belongs into the log
        for line in sys.stdin:
            print(exit_code(fork(killed, line.strip())), file=answers, flush=True)
