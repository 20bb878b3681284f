"""The trials of a search: asked for, trained and told until there are enough."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from optuna.trial import FrozenTrial, TrialState

from lenet_study.errors import DiskError, StoreError, UserError
from lenet_study.execution.executor import Executor, Monitor
from lenet_study.search.trials import TrialResult, TrialStore
from lenet_study.tracking.run import Run
from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.store import fail, runs_with
from lenet_study.training.history import Epoch
from lenet_study.workflows.train import TrainingJob, TrainingResult

POLL_SECONDS = 60  # between two looks at the trials that run here and elsewhere; a tenth of the grace period


@dataclass(frozen=True)
class TrialMonitor(Monitor):
    """Follows the training of one trial, and ends it when the pruner wants that."""

    store: TrialStore
    number: int

    def on_run_start(self, run_id: str) -> None:
        """Store the id of the trial's run: after a kill it tells what became of the training."""
        self.store.set_run_id(self.number, run_id)

    def on_epoch_end(self, epoch: Epoch) -> str | None:
        """Report an epoch; return why the trial is pruned, or None."""
        assert epoch.val_accuracy is not None, "a trial has a validation split"
        return self.store.report(self.number, epoch.epoch, epoch.val_accuracy)


def run_trials(store: TrialStore, executor: Executor, run: Run, make_job: partial[TrainingJob]) -> None:
    """Train trials until there are enough, or the time is over; ``run`` is the search's."""
    start, finished_before = perf_counter(), len(store.finished())
    futures: dict[Future[TrainingResult], int] = {}

    def wanted() -> bool:
        timeout = store.settings.config.timeout
        in_time = not timeout or perf_counter() - start < timeout
        return in_time and len(store.finished()) + store.unfinished() < store.settings.config.trials

    while True:
        # More trials than workers may be asked for here: they wait in the executor, so no worker is idle.
        while wanted() and store.can_ask():
            number, recipe = store.ask()
            config = replace(recipe.config, precision=store.settings.config.precision)
            job = make_job(stage="trial", recipe=replace(recipe, name=f"trial {number}", config=config))
            job = replace(job, tags={**job.tags, Tag.TRIAL: number})
            futures[executor.submit(job, TrialMonitor(store, number))] = number
        if not futures:
            return
        done, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        store.heartbeat()  # an epoch may last longer than the grace period
        store.recover_orphans(partial(result_from_run, store.id))  # of computers gone silent
        for future in sorted(done, key=lambda future: futures[future]):
            _tell(store, futures.pop(future), future, executor)
            finished = len(store.finished())
            seconds = (perf_counter() - start) / max(1, finished - finished_before)
            _show_progress(store, executor, run, finished, seconds)


def _tell(store: TrialStore, number: int, future: Future[TrainingResult], executor: Executor) -> None:
    """Tell the storage how a trial ended."""
    try:
        result = future.result()
    except (UserError, StoreError, DiskError, OSError):
        raise  # a full disk or a lost server: the next trial would fail of it, too
    except Exception as error:
        store.tell(number, TrialState.FAIL)
        executor.reporter.message(f"trial {number} failed: {error}")
        return
    if result.pruned:
        store.tell(number, TrialState.PRUNED)
        executor.reporter.message(f"trial {number} pruned: {result.pruned}")
    else:
        store.tell(number, TrialState.COMPLETE, result.best.val_accuracy)


def _show_progress(store: TrialStore, executor: Executor, run: Run, finished: int, seconds: float) -> None:
    """Say how far the search is, and log the best accuracy so far; ``seconds`` is the time per trial."""
    config = store.settings.config
    line = f"{finished} of {config.trials} trials"
    if best := store.best():
        line += f", best {best.values[0]:.2%} (trial {best.number})"
        run.log_metrics({Metric.SEARCH_BEST: best.values[0]}, step=finished)
    minutes = seconds * max(0, config.trials - finished) / 60
    limit = f", none begins after {config.timeout:,} s in all" if config.timeout else ""
    executor.reporter.message(f"{line}, about {minutes:.0f} min left{limit}")


def result_from_run(search_id: str, trial: FrozenTrial) -> TrialResult:
    """Infer a trial's result from its MLflow run after a crash, and mark that run failed if it is open."""
    result: TrialResult = TrialState.FAIL, None
    # Found by its tags: a process may be killed before it stores the run's id with the trial.
    for run in runs_with({Tag.SEARCH: search_id, Tag.TRIAL: str(trial.number)}):
        if run.info.status == "FINISHED":
            result = TrialState.COMPLETE, run.data.metrics[Metric.BEST_VAL_ACCURACY]
        elif Tag.PRUNED in run.data.tags:
            result = TrialState.PRUNED, None
        fail(run.info.run_id, "its search was killed")
    return result
