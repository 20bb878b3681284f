"""The trials of a search: begun and ended until there are enough."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from optuna.trial import FrozenTrial, TrialState

from lenet_study.errors import Pruned, StoreError, UserError
from lenet_study.execution.processes import Pool
from lenet_study.execution.reporter import Terminal
from lenet_study.search.trials import Ledger, Outcome
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking
from lenet_study.tracking.run import Run
from lenet_study.training.loop import Epoch, Precision
from lenet_study.workflows.train import Job, TrainingResult, train

BREATH = 60  # seconds between two looks at trials that run here and elsewhere


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a search has enough.

    Attributes:
        trials: How many it is to have.
        timeout: Seconds after which no trial begins; 0 sets no limit.
        precision: Of the trials.
    """

    trials: int
    timeout: int
    precision: Precision


class Judge:
    """Reports to the user, and asks the ledger after every epoch of a trial whether it goes on."""

    def __init__(self, terminal: Terminal, ledger: Ledger) -> None:
        self._terminal = terminal
        self._ledger = ledger

    def started(self, name: str, run_id: str, epochs: int) -> None:
        """Hear of a run that begins; a trial's is written down."""
        self._terminal.started(name, run_id, epochs)
        if (number := _number(name)) is not None:
            with self._ledger.guarded():
                self._ledger.note(number, run_id)

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Hear of an epoch.

        Raises:
            Pruned: It is a trial's, and the trial is not worth more.
            StoreError: Optuna's storage failed.
        """
        self._terminal.epoch(name, epoch)
        if (number := _number(name)) is not None and epoch.val_accuracy is not None:
            with self._ledger.guarded():
                self._ledger.report(number, epoch.epoch, epoch.val_accuracy)

    def ended(self, name: str) -> None:
        """Hear of a run that ended early."""
        self._terminal.ended(name)

    def say(self, line: str) -> None:
        """Hear what the user is to read."""
        self._terminal.say(line)


def _number(name: str) -> int | None:
    """The number of a trial, from the name of its run."""
    kind, _, number = name.rpartition(" ")
    return int(number) if kind == "trial" else None


def explore(plan: Plan, ledger: Ledger, pool: Pool, run: Run, job: partial[Job]) -> None:
    """Begin and end trials until there are enough, or the time is over.

    Args:
        plan: When there are enough.
        ledger: The search.
        pool: Where to train.
        run: The search's open run.
        job: What all its trainings have in common.
    """
    start, before = perf_counter(), len(ledger.finished())
    futures: dict[Future[TrainingResult], int] = {}

    def wanted() -> bool:
        in_time = not plan.timeout or perf_counter() - start < plan.timeout
        return in_time and len(ledger.finished()) + ledger.unfinished() < plan.trials

    while True:
        while wanted() and ledger.may_begin():
            number, recipe = ledger.begin()
            config = replace(recipe.config, precision=plan.precision)
            trial = job(stage="trial", recipe=replace(recipe, name=f"trial {number}", config=config))
            trial = replace(trial, extra_tags={**trial.extra_tags, "trial": number})
            futures[pool.submit(train, trial)] = number
        if not futures:
            return
        done, _ = wait(futures, timeout=BREATH, return_when=FIRST_COMPLETED)
        ledger.beat()
        ledger.reclaim(partial(outcome, ledger))  # of machines gone silent
        for future in sorted(done, key=lambda each: futures[each]):
            _settle(ledger, pool, future, futures.pop(future))
            finished = len(ledger.finished())
            _progress(plan, ledger, pool, run, finished, (perf_counter() - start) / max(1, finished - before))


def _settle(ledger: Ledger, pool: Pool, future: Future[TrainingResult], number: int) -> None:
    """Write down how a trial ended."""
    try:
        trained = future.result()
    except Pruned as reason:
        ledger.end(number, TrialState.PRUNED)
        pool.reporter.say(f"trial {number} pruned: {reason}")
    except (UserError, StoreError, OSError):
        raise  # the next trial would fail of it, too
    except Exception as error:
        ledger.end(number, TrialState.FAIL)
        pool.reporter.say(f"trial {number} failed: {error}")
    else:
        ledger.end(number, TrialState.COMPLETE, trained.best.val_accuracy)


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


def outcome(ledger: Ledger, trial: FrozenTrial) -> Outcome:
    """What became of a trial's training whose end nobody wrote down; its run is closed."""
    found: Outcome = TrialState.FAIL, None
    for run in registry.runs_with({"search": ledger.id, "trial": str(trial.number)}):
        if run.info.status == "FINISHED":
            found = TrialState.COMPLETE, run.data.metrics["best/val_accuracy"]
        elif "pruned" in run.data.tags:
            found = TrialState.PRUNED, None
        tracking.fail(run.info.run_id, "its search was killed")
    return found
