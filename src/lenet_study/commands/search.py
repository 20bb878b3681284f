"""``search``: trials beyond the five, and a challenger that has shown itself over several seeds."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from lenet_study import Pruned, StoreError, UserError, data, registry, search_figures, tracking
from lenet_study.commands.confirm import confirm
from lenet_study.commands.train import Job, Trained, train
from lenet_study.device import Machine, share
from lenet_study.progress import Terminal
from lenet_study.search import TENTHS, Ledger, Outcome, Settings
from lenet_study.search_storage import open_ledger
from lenet_study.space import Space
from lenet_study.specs import Recipe
from lenet_study.tracking import Run
from lenet_study.training import Epoch, Precision
from lenet_study.variants import parameters
from lenet_study.workers import Pool

BREATH = 60  # seconds between two looks at trials that run here and elsewhere
_COMPARABLE = ("max_parameters", "max_epochs", "objectives", "seed", "precision")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is asked to do.

    Attributes:
        trials: How many it is to have.
        timeout: Seconds after which no trial begins; 0 sets no limit.
        precision: Of the trials; the confirmation is float32.
        settings: How trials are drawn and judged.
        machine: Of one training.
        data_dir: Where the data is.
    """

    trials: int
    timeout: int
    precision: Precision
    settings: Settings
    machine: Machine
    data_dir: str


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
    side_by_side, machine = share(Machine(device=device, threads=threads), workers)
    settings = Settings(
        space=Space(max_parameters, max_epochs),
        objectives=tuple(objectives.split(",")),
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        workers=side_by_side,
    )
    plan = Plan(
        trials=trials,
        timeout=timeout,
        precision=precision,
        settings=settings,
        machine=machine,
        data_dir=data_dir,
    )
    machine.prepare()
    images = data.load_train(data.folder_of(data_dir))
    identity = {name: params[name] for name in _COMPARABLE}
    identity |= {"space": settings.space.digest(), "data": images.digest()}
    tracking.initialise()
    terminal = Terminal()
    with open_ledger(storage, study_name, settings, identity) as ledger:
        retried = _reclaim(ledger, settings.space)
        with tracking.run(
            f"search {study_name}",
            stage="search",
            params=params,
            tags={**_tags(ledger), "machine.threads": machine.threads, "machine.workers": side_by_side},
            description=f"Search {study_name} within {max_parameters:,} parameters.",
        ) as run:
            known = len(ledger.finished())
            if known or retried:
                again = f"; tried again: {', '.join(map(str, retried))}" if retried else ""
                terminal.say(f"Search {study_name} goes on after {known} trials{again}")
            with (
                _closing(ledger, settings.space, terminal),
                Pool(side_by_side, _Judge(terminal, ledger), tracking.fail) as pool,
            ):
                _explore(plan, ledger, pool, run)
                _report(ledger, run, terminal)
                if ledger.unfinished():
                    terminal.say("Trials still run on other machines: the last one there confirms the best")
                elif confirm_seeds:
                    place = (machine, data_dir, run.id)
                    confirm(ledger, settings, confirm_seeds, pool, run, place, _tags(ledger))
            terminal.say(f"The search {tracking.how_to_look()} {tracking.run_address(run)}")


class _Judge:
    """Reports to the user, and asks the ledger after every epoch of a trial whether it goes on."""

    def __init__(self, terminal: Terminal, ledger: Ledger) -> None:
        self._terminal = terminal
        self._ledger = ledger

    def started(self, name: str, run_id: str, epochs: int) -> None:
        self._terminal.started(name, run_id, epochs)
        if (number := _number(name)) is not None:
            self._ledger.note(number, run_id)

    def epoch(self, name: str, epoch: Epoch) -> None:
        self._terminal.epoch(name, epoch)
        if (number := _number(name)) is not None and epoch.val_accuracy is not None:
            try:
                self._ledger.report(number, epoch.epoch, epoch.val_accuracy)
            except Pruned:
                self._terminal.ended(name)
                raise

    def say(self, line: str) -> None:
        self._terminal.say(line)


def _number(name: str) -> int | None:
    """The number of a trial, from the name of its run."""
    kind, _, number = name.rpartition(" ")
    return int(number) if kind == "trial" else None


def _tags(ledger: Ledger) -> dict[str, object]:
    return {"search": ledger.id, "host": socket.gethostname()}


@contextmanager
def _closing(ledger: Ledger, space: Space, terminal: Terminal) -> Iterator[None]:
    """Leave no trial running, whatever happens; when interrupted, say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        terminal.say(f"Interrupted after {len(ledger.finished())} trials: the same command goes on")
        raise
    finally:
        with suppress(StoreError, optuna.exceptions.StorageInternalError):  # the next start does it then
            ledger.abandon(lambda trial: _outcome(ledger, space, trial))


def _explore(plan: Plan, ledger: Ledger, pool: Pool, run: Run) -> None:
    """Begin and end trials until there are enough, or the time is over."""
    start, before = perf_counter(), len(ledger.finished())
    futures: dict[Future[Trained], tuple[int, Recipe]] = {}

    def wanted() -> bool:
        in_time = not plan.timeout or perf_counter() - start < plan.timeout
        return in_time and len(ledger.finished()) + ledger.unfinished() < plan.trials

    while True:
        while wanted() and ledger.may_begin():
            number, recipe = ledger.begin()
            protocol = replace(recipe.protocol, precision=plan.precision)
            job = Job(
                stage="trial",
                recipe=replace(recipe, name=f"trial {number}", protocol=protocol),
                machine=plan.machine,
                data_dir=plan.data_dir,
                parent=run.id,
                extra_tags={**_tags(ledger), "trial": number},
            )
            futures[pool.submit(train, job)] = number, recipe
        if not futures:
            return
        done, _ = wait(futures, timeout=BREATH, return_when=FIRST_COMPLETED)
        ledger.beat()
        ledger.reclaim(lambda trial: _outcome(ledger, plan.settings.space, trial))  # of machines gone silent
        for future in sorted(done, key=lambda each: futures[each][0]):
            number, recipe = futures.pop(future)
            _settle(ledger, pool, future, number, recipe)
            finished = len(ledger.finished())
            _progress(plan, ledger, pool, run, finished, (perf_counter() - start) / max(1, finished - before))


def _settle(ledger: Ledger, pool: Pool, future: Future[Trained], number: int, recipe: Recipe) -> None:
    """Write down how a trial ended."""
    try:
        trained = future.result()
    except Pruned as reason:
        ledger.end(number, None, TrialState.PRUNED)
        pool.reporter.say(f"trial {number} pruned: {reason}")
    except (UserError, StoreError, OSError):
        raise  # the next trial would fail of it, too
    except Exception as error:
        ledger.end(number, None, TrialState.FAIL)
        pool.reporter.say(f"trial {number} failed: {error}")
    else:
        assert trained.best.val_accuracy is not None
        values = [trained.best.val_accuracy, float(parameters(recipe.spec))]
        ledger.end(number, values[: len(ledger.study.directions)], TrialState.COMPLETE)


def _progress(plan: Plan, ledger: Ledger, pool: Pool, run: Run, finished: int, seconds: float) -> None:
    """Say how far the search is, and log the best so far."""
    left = seconds * max(0, plan.trials - finished)
    line = f"{finished} of {plan.trials} trials"
    best = ledger.best()
    if best:
        line += f", best {best.values[0]:.2%} (trial {best.number})"
        run.log_metrics({"search/best_val_accuracy": best.values[0]}, step=finished)
    limit = f", none begins after {plan.timeout:,} s in all" if plan.timeout else ""
    pool.reporter.say(f"{line}, about {left / 60:.0f} min left{limit}")


def _reclaim(ledger: Ledger, space: Space) -> list[int]:
    """Close what a killed search of this machine has left in Optuna and in MLflow.

    Returns:
        Numbers of the trials that are tried again.
    """
    retried = ledger.reclaim(lambda trial: _outcome(ledger, space, trial))
    for run in registry.runs_with({"search": ledger.id, "host": socket.gethostname()}):
        tracking.fail(run.info.run_id, "its search was killed")
        if run.data.tags["stage"] == "search":
            for evaluation in registry.runs_with({"study": run.info.run_id}):
                tracking.fail(evaluation.info.run_id, "its search was killed")
    return retried


def _outcome(ledger: Ledger, space: Space, trial: FrozenTrial) -> Outcome:
    """What became of a trial's training whose end nobody wrote down; its run is closed."""
    outcome: Outcome = TrialState.FAIL, None
    for run in registry.runs_with({"search": ledger.id, "trial": str(trial.number)}):
        if run.info.status == "FINISHED":
            recipe = space.suggest(optuna.trial.FixedTrial(trial.params))
            values = [run.data.metrics["best/val_accuracy"], float(parameters(recipe.spec))]
            outcome = TrialState.COMPLETE, values[: len(ledger.study.directions)]
        elif "pruned" in run.data.tags:
            outcome = TrialState.PRUNED, None
        tracking.fail(run.info.run_id, "its search was killed")
    return outcome


def _report(ledger: Ledger, run: Run, terminal: Terminal) -> None:
    """Log table and pictures of all trials of the search, and say which are the best."""
    table = _table(ledger)
    run.log_table(table, "trials.csv")
    for name, figure in search_figures.pictures(ledger.study).items():
        run.log_figure(figure, f"{name}.png")
    run.log_text(search_figures.page(ledger.study), "search.html")
    states = table["state"].value_counts()
    summary = ", ".join(f"{count} {state.lower()}" for state, count in states.items())
    terminal.say(f"\nTrials: {summary}. The best:")
    shown = ["number", "accuracy", "parameters", "epochs", "run_id"]
    best = table[table["state"] == "COMPLETE"].sort_values("accuracy", ascending=False, kind="stable")[:5]
    terminal.say(best[shown].to_string(index=False) + "\n")
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
