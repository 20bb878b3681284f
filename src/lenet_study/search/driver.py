"""``search``: trials beyond the five, and a challenger that has shown itself over several seeds."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
import optuna
import pandas as pd

from lenet_study.errors import StoreError
from lenet_study.execution.processes import Pool
from lenet_study.execution.reporter import Terminal
from lenet_study.search import pictures as search_figures
from lenet_study.search.confirmation import confirm
from lenet_study.search.exploration import Judge, Plan, explore, outcome
from lenet_study.search.sampling import TENTHS, Settings
from lenet_study.search.space import Space
from lenet_study.search.storage import open_ledger
from lenet_study.search.trials import Ledger
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking
from lenet_study.tracking.run import Run
from lenet_study.training import fashion_mnist as data
from lenet_study.training.hardware import Hardware, share
from lenet_study.training.loop import Precision
from lenet_study.workflows.train import Job

_COMPARABLE = ("max_parameters", "max_epochs", "objectives", "seed", "precision")


def main(
    *,
    trials: int,
    timeout: int,
    study_name: str,
    storage: str,
    objectives: str,
    max_parameters: int,
    max_epochs: int,
    sampler: str,
    pruner: str,
    confirm_seeds: int,
    seed: int,
    precision: Precision,
    device: str,
    threads: int,
    workers: int,
    data_dir: str,
) -> None:
    """Search, train the best trial beside the champion over several seeds, register it if it is better."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    params = {name: value for name, value in locals().items() if name != "storage"}  # it may hold a password
    side_by_side, machine = share(Hardware(device=device, threads=threads), workers)
    settings = Settings(
        space=Space(max_parameters, max_epochs),
        objectives=tuple(objectives.split(",")),
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        workers=side_by_side,
    )
    plan = Plan(trials=trials, timeout=timeout, precision=precision)
    machine.prepare()
    images = data.load_train(data.folder_of(data_dir))
    identity = {name: params[name] for name in _COMPARABLE}
    identity |= {"space": settings.space.digest(), "data": images.digest()}
    tracking.connect()
    terminal = Terminal()
    with open_ledger(storage, study_name, settings, identity) as ledger:
        tags = {"search": ledger.id, "host": socket.gethostname()}
        retried = _reclaim(ledger, tags if ledger.shared else {"search": ledger.id})
        with tracking.run(
            f"search {study_name}",
            stage="search",
            params=params,
            tags={**tags, "hardware.threads": machine.threads, "hardware.workers": side_by_side},
            description=f"Search {study_name} within {max_parameters:,} parameters.",
        ) as run:
            known = len(ledger.finished())
            if known or retried:
                again = f"; tried again: {', '.join(map(str, retried))}" if retried else ""
                terminal.say(f"Search {study_name} goes on after {known} trials{again}")
            job = partial(Job, hardware=machine, data_dir=data_dir, parent=run.id, extra_tags=tags)
            with (
                _closing(ledger, terminal),
                Pool(side_by_side, Judge(terminal, ledger), tracking.fail) as pool,
            ):
                explore(plan, ledger, pool, run, job)
                _report(ledger, run, terminal)
                if ledger.unfinished():
                    terminal.say("Trials still run on other machines: the last one there confirms the best")
                elif confirm_seeds:
                    confirm(ledger, settings, confirm_seeds, pool, run, job)
            terminal.say(f"The search {tracking.how_to_look()} {tracking.run_address(run)}")


@contextmanager
def _closing(ledger: Ledger, terminal: Terminal) -> Iterator[None]:
    """Leave no trial running, whatever happens; when interrupted, say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        terminal.say(f"Interrupted after {len(ledger.finished())} trials: the same command goes on")
        raise
    finally:
        with suppress(StoreError, optuna.exceptions.StorageInternalError):  # the next start does it then
            ledger.abandon(partial(outcome, ledger))


def _reclaim(ledger: Ledger, tags: Mapping[str, str]) -> list[int]:
    """Close what a killed search has left in Optuna and in MLflow.

    Args:
        ledger: The search.
        tags: Of the runs that nothing but a killed search can have left open.

    Returns:
        Numbers of the trials that are tried again.
    """
    retried = ledger.reclaim(partial(outcome, ledger))
    for run in registry.runs_with(tags):
        tracking.fail(run.info.run_id, "its search was killed")
        if run.data.tags["stage"] == "search":
            for evaluation in registry.runs_with({"study": run.info.run_id}):
                tracking.fail(evaluation.info.run_id, "its search was killed")
    return retried


def _report(ledger: Ledger, run: Run, terminal: Terminal) -> None:
    """Log table and pictures of all trials of the search, and say which are the best."""
    table = _table(ledger)
    run.log_table(table, "trials.csv")
    for name, figure in search_figures.pictures(ledger.study).items():
        run.log_figure(figure, f"{name}.png")
    run.log_text(search_figures.page(ledger.study), "search.html")
    states = table["state"].value_counts()
    summary = ", ".join(f"{count} {state.lower()}" for state, count in states.items())
    best = table[table["state"] == "COMPLETE"].sort_values("accuracy", ascending=False, kind="stable")[:5]
    if best.empty:
        terminal.say(f"\nTrials: {summary}. None was trained to its end: let it have more")
    else:
        shown = ["number", "accuracy", "parameters", "epochs", "run_id"]
        terminal.say(f"\nTrials: {summary}. The best:\n{best[shown].to_string(index=False)}\n")
    run.log_metrics({f"search/{state.lower()}": float(count) for state, count in states.items()})


def _table(ledger: Ledger) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": trial.number,
            "state": trial.state.name,
            "accuracy": trial.values[0]
            if trial.values
            else max(trial.intermediate_values.values(), default=np.nan),
            "share_done": len(trial.intermediate_values) / TENTHS,
            "seconds": trial.duration.total_seconds() if trial.duration else np.nan,
            "variant": trial.user_attrs.get("variant", ""),
            "retry_of": trial.user_attrs.get("retry_of", ""),
            "run_id": trial.user_attrs.get("run_id", ""),
            "parameters": trial.user_attrs.get("parameters", ""),
            **trial.params,
        }
        for trial in ledger.study.get_trials(deepcopy=False)
    )
