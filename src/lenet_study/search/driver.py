"""``search``: trials beyond the variants, and a challenger confirmed over several seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from lenet_study.errors import StoreError
from lenet_study.execution.reporter import Reporter
from lenet_study.search import attributes, pictures
from lenet_study.search.config import SearchConfig
from lenet_study.search.confirmation import confirm
from lenet_study.search.sampling import REPORTS_PER_TRIAL, Settings
from lenet_study.search.storage import open_trial_store
from lenet_study.search.trial_loop import result_from_run, run_trials
from lenet_study.search.trials import TrialStore
from lenet_study.tracking import links
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import connect, fail, runs_with
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware, divide_cores
from lenet_study.workflows.local_executor import local_executor
from lenet_study.workflows.orphans import end_abandoned
from lenet_study.workflows.sync import deliver_left_behind
from lenet_study.workflows.train import TrainingJob

_COMPARABLE = ("max_parameters", "max_epochs", "objectives", "seed", "precision")


def search(
    config: SearchConfig,
    hardware: Hardware = Hardware(),
    workers: int = 0,
    data: DataFiles | None = None,
    reporter: Reporter = Reporter(),
) -> None:
    """Search, train the best trial beside the champion over several seeds, register it if it is better.

    So many trials train side by side as there are workers; 0 takes as many as the cores allow.

    Raises:
        UserError: No model is within the budget, or ``open_trial_store`` refuses the configuration.
        StoreError: Optuna's storage or MLflow's store failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = data or DataFiles.at()
    side_by_side, share = divide_cores(hardware, workers)
    share.prepare()
    settings = Settings(config, side_by_side)
    fingerprint = _fingerprint(settings, data)
    params = {**asdict(config), **asdict(hardware), "workers": workers, "data_dir": str(data.folder)}
    del params["storage"]  # its address may hold a password
    description = f"Search {config.search_name} within {config.max_parameters:,} parameters."
    connect()  # first: a search is not made if the runs of its trials could not be stored
    deliver_left_behind(reporter)  # a killed worker's trial may have ended, which its run is to tell
    with open_trial_store(settings, fingerprint) as store:
        repeated = _close_orphans(store)
        end_abandoned(reporter)  # of other work
        tags: dict[str, object] = {Tag.SEARCH: store.id, Tag.HOST: store.host}
        run_tags = {**tags, Tag.THREADS: share.threads, Tag.WORKERS: side_by_side}
        name = f"search {config.search_name}"
        with open_run(name, stage="search", params=params, tags=run_tags, description=description) as run:
            _greet(store, repeated, reporter)
            make_job = partial(TrainingJob, hardware=share, data=data, parent=run.id, tags=tags)
            # The executor ends its workers first: a trial is released when nobody trains it any more.
            with _releasing(store, reporter), local_executor(side_by_side, reporter) as executor:
                run_trials(store, executor, run, make_job)
                _report(store, run, reporter)
                confirm(store, executor, run, make_job)
            reporter.on_address(links.how_to_look(), f"search {config.search_name}", links.run_address(run))


def _fingerprint(settings: Settings, data: DataFiles) -> dict[str, object]:
    """Return what must stay the same for the trials of a search to be comparable."""
    # The sampler and the pruner may change: they only choose what is trained, and for how long.
    fingerprint: dict[str, object] = {name: getattr(settings.config, name) for name in _COMPARABLE}
    return fingerprint | {"space": settings.space.digest(), "data": data.train().digest()}


def _greet(store: TrialStore, repeated: list[int], reporter: Reporter) -> None:
    """Say how far an earlier process came, if there was one."""
    finished, name = len(store.finished()), store.settings.config.search_name
    if finished or repeated:
        again = f"; tried again: {', '.join(map(str, repeated))}" if repeated else ""
        reporter.message(f"Search {name} goes on after {finished} trials{again}")


@contextmanager
def _releasing(store: TrialStore, reporter: Reporter) -> Iterator[None]:
    """Leave no trial running, whatever happens; when interrupted, say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        reporter.message(f"Interrupted after {len(store.finished())} trials: the same command goes on")
        raise
    finally:
        # A storage that has failed is what ended the search: the next start closes the trials then.
        with suppress(StoreError, optuna.exceptions.StorageInternalError):
            store.release_own(partial(result_from_run, store.id))


def _close_orphans(store: TrialStore) -> list[int]:
    """Close the trials and runs that a killed process left open; return the trials that will be repeated."""
    repeated = store.recover_orphans(partial(result_from_run, store.id))
    # Runs of other computers may be alive if the storage is shared. If it is not, none is: a container that
    # was killed had another host name.
    left = runs_with({Tag.SEARCH: store.id, **({Tag.HOST: store.host} if store.shared else {})})
    # Evaluations carry no search: they name its run. Version 0.1 wrote that into the tag `study`.
    searches = [run.info.run_id for run in left if run.data.tags[Tag.STAGE] == "search"]
    for tag in (Tag.PARENT_WORK, Tag.STUDY):
        left += [evaluation for search in searches for evaluation in runs_with({tag: search})]
    for run in left:
        fail(run.info.run_id, "its search was killed")
    return repeated


def _report(store: TrialStore, run: Run, reporter: Reporter) -> None:
    """Log a table and pictures of all trials, those of earlier processes too; say which are the best."""
    table = pd.DataFrame(map(_row, store.study.get_trials(deepcopy=False)))
    run.log_table(table, File.TRIALS)
    for name, figure in pictures.still_pictures(store.study).items():
        run.log_figure(figure, File.SEARCH_PICTURE.format(name=name))
    run.log_text(pictures.interactive_page(store.study), File.SEARCH_PAGE)
    counts = {str(state).lower(): count for state, count in table["state"].value_counts().items()}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    best = table[table["state"] == "COMPLETE"].sort_values("accuracy", ascending=False, kind="stable")[:5]
    if best.empty:
        reporter.message(f"\nTrials: {summary}. None was trained to its end: let it have more")
    else:
        columns = ["number", "accuracy", "parameters", "epochs", "run_id"]
        reporter.message(f"\nTrials: {summary}. The best:\n{best[columns].to_string(index=False)}\n")
    run.log_metrics({Metric.SEARCH_STATE.format(state=state): float(n) for state, n in counts.items()})


def _row(trial: FrozenTrial) -> dict[str, object]:
    """Return a trial as a row of the table; without a result, its best accuracy so far."""
    accuracies = trial.values[:1] if trial.values else trial.intermediate_values.values()
    names = (attributes.VARIANT, attributes.RETRY_OF, attributes.RUN_ID, attributes.PARAMETER_COUNT)
    return {
        "number": trial.number,
        "state": trial.state.name,
        "accuracy": max(accuracies, default=np.nan),
        "share_done": len(trial.intermediate_values) / REPORTS_PER_TRIAL,
        "seconds": trial.duration.total_seconds() if trial.duration else np.nan,
        **{name: trial.user_attrs.get(name, "") for name in names},  # the columns have their names
        **trial.params,
    }
