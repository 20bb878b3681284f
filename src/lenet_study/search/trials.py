"""A search's trials in Optuna's storage: asked for, reported on, told, and recovered after a kill.

Optuna's own heartbeat and its callback that retries stale trials are not used: both work within
``Study.optimize`` alone, and "if you use ``ask`` and ``tell`` instead, it will not work" (documentation of
``RDBStorage``). A search needs ask and tell: its trials train in other processes, in a fixed order.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from lenet_study.errors import StoreError, one_line
from lenet_study.recipes.recipe import Recipe
from lenet_study.recipes.variants import parameter_count
from lenet_study.search import attributes
from lenet_study.search.sampling import (
    REPORTS_PER_TRIAL,
    Settings,
    in_memory_study,
    is_suggested,
    origin,
    params_of,
    quiet,
)

GRACE_PERIOD = 600  # seconds without a heartbeat after which another computer's trial counts as dead
MOST_KILLS = 1  # a trial whose process died more often is not repeated: it may be what kills the process
TrialResult = tuple[TrialState, float | None]  # COMPLETE with its accuracy, PRUNED, or FAIL


def reason_of(error: Exception) -> str:
    """Return why a storage failed, in its driver's words: SQLAlchemy wraps them in pages of background."""
    cause = error.__cause__ or error
    return one_line(getattr(cause, "orig", None) or cause, 200)


@dataclass(frozen=True)
class _Running:
    """A trial that this process asked for and has not told yet."""

    order: int  # among the trials that this process asked for
    stored: Trial  # in the storage
    in_memory: Trial  # its twin, in the study that holds what it may see
    epochs: int


@dataclass
class TrialStore:
    """The trials of one search; ``open_trial_store`` makes it."""

    study: optuna.Study  # in the storage
    storage: RDBStorage
    address: str  # of the storage, without a password
    settings: Settings
    # Whether several computers may work on the search. Else its lock proves that no other process does, so
    # that all running trials which this process did not ask for are orphans.
    shared: bool
    host: str = field(default_factory=socket.gethostname)
    clock: Callable[[], float] = time.time  # Unix time in seconds
    _running: dict[int, _Running] = field(default_factory=dict, init=False)  # by number
    _asked: int = field(default=0, init=False)
    # Reports come from the threads that wait for the workers.
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def id(self) -> str:
        """Text that tells this search from others of the same name."""
        return str(self.study.user_attrs[attributes.SEARCH_ID])

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn a failure of the storage into a StoreError of one sentence."""
        try:
            yield
        except StorageInternalError as error:
            message = f"storage={self.address} failed ({reason_of(error)}); the same command goes on"
            raise StoreError(message) from error

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that count: complete, pruned, or failed for good."""
        trials = self.study.get_trials(deepcopy=False)
        latest = {origin(trial): trial.number for trial in trials}
        return [
            trial
            for trial in trials
            if trial.state.is_finished() and is_suggested(trial) and trial.number == latest[origin(trial)]
        ]

    def unfinished(self) -> int:
        """Return how many trials run, here or on other computers."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def best(self, *, variants: bool = False) -> FrozenTrial | None:
        """Return the complete trial, or that of a variant, with the highest accuracy; the first on a tie."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        considered = [trial for trial in complete if not variants or attributes.VARIANT in trial.user_attrs]
        return max(considered, key=lambda trial: trial.values[0], default=None)

    def can_ask(self) -> bool:
        """Whether all that the next trial has to see has ended."""
        oldest = min((running.order for running in self._running.values()), default=self._asked)
        return self._asked - oldest <= self.settings.hidden_trials

    def ask(self) -> tuple[int, Recipe]:
        """Begin the next trial; return its number and its recipe."""
        with self._lock, quiet():
            # The storage gives the trial its number first: it decides what the trial may see.
            stored = self.study.ask()
            stored.set_user_attr(attributes.HOST, self.host)
            trials = self.study.get_trials(deepcopy=False)
            memory, params = in_memory_study(trials, stored.number, self.settings)
            if params:
                memory.enqueue_trial(params)
            in_memory = memory.ask()
            recipe = self.settings.space.suggest(in_memory, self.settings.config.seed)
            self.study.sampler = PartialFixedSampler(in_memory.params, RandomSampler())
            self.settings.space.suggest(stored)
            # Last: a process that is killed before leaves a trial that nobody takes for a whole one.
            stored.set_user_attr(attributes.PARAMETER_COUNT, parameter_count(recipe.variant))
            self._running[stored.number] = _Running(self._asked, stored, in_memory, recipe.config.epochs)
            self._asked += 1
        self.heartbeat()
        return stored.number, recipe

    def set_run_id(self, number: int, run_id: str) -> None:
        """Store which MLflow run trains a trial."""
        with self.guarded(), self._lock:
            self._running[number].stored.set_user_attr(attributes.RUN_ID, run_id)

    def heartbeat(self) -> None:
        """Show other computers that the trials of this process are alive."""
        with self.guarded(), self._lock:
            for running in self._running.values():
                with suppress(UpdateFinishedTrialError):  # another computer took this one for dead
                    running.stored.set_user_attr(attributes.LAST_HEARTBEAT, self.clock())

    def report(self, number: int, epoch: int, accuracy: float) -> str | None:
        """Report an epoch of a trial; the pruner compares it with others at the same share of their epochs.

        Returns:
            Why the trial is to end there; None if it is to go on.
        """
        self.heartbeat()
        if len(self.settings.directions) > 1:  # Optuna prunes nothing there
            return None
        with self.guarded(), self._lock:
            running = self._running[number]
            # An epoch may complete several of the ten shares, or none; the pruner is to see each share once.
            first, last = (REPORTS_PER_TRIAL * done // running.epochs for done in (epoch - 1, epoch))
            for share in range(first + 1, last + 1):
                running.in_memory.report(accuracy, share)
                prune = running.in_memory.should_prune()
                try:
                    running.stored.report(accuracy, share)
                    self._store_rungs(running)
                except UpdateFinishedTrialError:
                    return "this computer was silent for long: the trial was given to another"
                if prune and epoch < running.epochs:  # after the last epoch nothing would be saved
                    pruner = self.settings.config.pruner
                    return (
                        f"{pruner} ended it after epoch {epoch} of {running.epochs} with {accuracy:.2%}: "
                        "at this share of their epochs the better trials before it had more"
                    )
        return None

    def tell(self, number: int, state: TrialState, accuracy: float | None = None) -> None:
        """Store how a trial ended: COMPLETE with an accuracy, PRUNED, or FAIL."""
        with self._lock:
            stored = self._running.pop(number).stored
            # Finished already: another computer took it for dead, and a repetition of it counts instead.
            self.study.tell(stored, self._values(stored, accuracy), state, skip_if_finished=True)

    def release_own(self, result_of: Callable[[FrozenTrial], TrialResult]) -> list[int]:
        """Close all trials of this process as ``recover_orphans`` does; an interruption counts as no kill."""
        self._running.clear()
        return self.recover_orphans(result_of, killed=False)

    def recover_orphans(
        self, result_of: Callable[[FrozenTrial], TrialResult], *, killed: bool = True
    ) -> list[int]:
        """Close the trials of a process that was killed, and those of computers gone silent.

        ``result_of`` infers a trial's result from its MLflow run. Returns the trials that will be repeated.
        """
        with self._lock, quiet():
            repeated = []
            for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
                if trial.number in self._running or not self._is_orphan(trial):
                    continue
                state, accuracy = result_of(trial)
                # Queued before it is told: killed in between, the next process finds the repetition queued.
                if state == TrialState.FAIL and self._repeat(trial, killed):
                    repeated.append(trial.number)
                self.study.tell(trial.number, self._values(trial, accuracy), state, skip_if_finished=True)
            return repeated

    def _values(self, trial: FrozenTrial | Trial, accuracy: float | None) -> list[float] | None:
        """Return the values of the objectives."""
        if accuracy is None:
            return None
        values = [accuracy, float(trial.user_attrs[attributes.PARAMETER_COUNT])]
        return values[: len(self.settings.directions)]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        asked = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        silent = self.clock() - trial.user_attrs.get(attributes.LAST_HEARTBEAT, asked) > GRACE_PERIOD
        return silent or not self.shared or trial.user_attrs.get(attributes.HOST) == self.host

    def _repeat(self, trial: FrozenTrial, killed: bool) -> bool:
        """Queue a failed trial again, unless it was killed too often; return whether it will be repeated."""
        params = params_of(trial)
        # A kill before the training began was not the training's fault.
        fatal = killed and attributes.RUN_ID in trial.user_attrs
        kills = trial.user_attrs.get(attributes.KILLS, 0) + int(fatal)
        if not params or kills > MOST_KILLS:
            return False
        slot = origin(trial)
        later = self.study.get_trials(deepcopy=False)[trial.number + 1 :]
        if all(origin(other) != slot for other in later):  # not queued by a process that was then killed
            attrs = {name: value for name, value in trial.user_attrs.items() if name == attributes.VARIANT}
            attrs |= {attributes.RETRY_OF: slot, attributes.KILLS: kills}
            self.study.enqueue_trial(params, attrs)
        return True

    def _store_rungs(self, running: _Running) -> None:
        """Copy Hyperband's rungs from memory into the storage: later trials are compared with them."""
        twin = running.in_memory.study.get_trials(deepcopy=False)[running.in_memory.number]
        for key, value in twin.system_attrs.items():
            if key.startswith("completed_rung"):
                self.storage.set_trial_system_attr(running.stored._trial_id, key, value)
