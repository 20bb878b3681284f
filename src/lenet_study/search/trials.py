"""A search's trials in Optuna's storage: what the next one is, and which of the running ones goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from lenet_study.errors import Pruned, StoreError
from lenet_study.recipes.recipe import Recipe
from lenet_study.recipes.variants import parameters
from lenet_study.search.sampling import TENTHS, Drawn, Settings, given, is_drawn, memory_of, origin, quiet

GRACE = 600  # seconds without a sign of life after which a trial of another machine counts as dead
Outcome = tuple[TrialState, float | None]  # COMPLETE with its accuracy, PRUNED, or FAIL


@dataclass(frozen=True)
class _Running:
    """A trial that trains."""

    order: int  # among those that this process has begun
    stored: Trial  # in the storage
    drawn: Trial  # in memory, among those that it may know
    epochs: int


class Ledger:
    """The trials of one search; ``search_storage`` opens it.

    Attributes:
        study: Optuna's study, to look at.
        id: Tells this search from others of the same name.
        shared: Several machines may work on it; else its lock shows that no other process does.
    """

    def __init__(
        self, study: optuna.Study, storage: RDBStorage, settings: Settings, *, address: str, shared: bool
    ) -> None:
        self.study = study
        self.id = str(study.user_attrs["id"])
        self.shared = shared
        self._storage = storage
        self._settings = settings
        self._address = address  # without a password
        self._running: dict[int, _Running] = {}  # by number
        self._begun = 0
        self._lock = threading.Lock()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn a failure of the storage into one sentence.

        Raises:
            StoreError: The storage failed.
        """
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise StoreError(
                f"storage={self._address} failed ({reason}); the same command goes on"
            ) from error

    def finished(self) -> list[FrozenTrial]:
        """The trials that count: complete, pruned, or failed for good."""
        trials = self.study.get_trials(deepcopy=False)
        latest = {origin(trial): trial.number for trial in trials}
        return [
            trial
            for trial in trials
            if trial.state.is_finished() and is_drawn(trial) and trial.number == latest[origin(trial)]
        ]

    def unfinished(self) -> int:
        """How many trials run, here or elsewhere."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def best(self, *, variants: bool = False) -> FrozenTrial | None:
        """The complete trial with the highest accuracy, the first on a tie.

        Args:
            variants: Only among those of the five variants.
        """
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        considered = [trial for trial in complete if not variants or "variant" in trial.user_attrs]
        return max(considered, key=lambda trial: trial.values[0], default=None)

    def may_begin(self) -> bool:
        """Whether the next trial may be drawn yet."""
        oldest = min((running.order for running in self._running.values()), default=self._begun)
        return self._begun - oldest <= self._settings.lag

    def begin(self) -> tuple[int, Recipe]:
        """Draw the next trial.

        Returns:
            Its number, and what to train.
        """
        with self._lock:
            self.study.sampler = Drawn({})
            trial = self.study.ask()
            trial.set_user_attr("host", socket.gethostname())
            trials = self.study.get_trials(deepcopy=False)
            memory, params = memory_of(trials, trial.number, self._settings, self.study.study_name)
            if params:
                memory.enqueue_trial(params)
            drawn = memory.ask()
            recipe = self._settings.space.suggest(drawn, self._settings.seed)
            self.study.sampler.params = drawn.params
            self._settings.space.suggest(trial)
            trial.set_user_attr("parameters", parameters(recipe.spec))  # now it is complete
            self._running[trial.number] = _Running(self._begun, trial, drawn, recipe.config.epochs)
            self._begun += 1
        self.beat()
        return trial.number, recipe

    def note(self, number: int, run_id: str) -> None:
        """Write down the MLflow run of a trial."""
        with self._lock:
            self._running[number].stored.set_user_attr("run_id", run_id)

    def beat(self) -> None:
        """Show other machines that the trials of this process are alive."""
        with self._lock:
            for running in self._running.values():
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    running.stored.set_user_attr("alive", time.time())

    def report(self, number: int, epoch: int, accuracy: float) -> None:
        """Note what an epoch of a trial gave; it is compared with others at the same share of their epochs.

        Raises:
            Pruned: The trial is not worth more epochs.
        """
        self.beat()
        if len(self._settings.objectives) > 1:
            return
        with self._lock:
            running = self._running[number]
            before, now = (TENTHS * done // running.epochs for done in (epoch - 1, epoch))
            for tenth in range(before + 1, now + 1):
                running.drawn.report(accuracy, tenth)
                prune = running.drawn.should_prune()
                try:
                    running.stored.report(accuracy, tenth)
                    self._keep_rungs(running)
                except optuna.exceptions.UpdateFinishedTrialError:
                    raise Pruned("this machine was silent for long: the trial was given to another") from None
                if prune and epoch < running.epochs:
                    raise Pruned(
                        f"{self._settings.pruner} ended it after epoch {epoch} of {running.epochs} with "
                        f"{accuracy:.2%}: at this share of their epochs the better trials before it had more"
                    )

    def end(self, number: int, state: TrialState, accuracy: float | None = None) -> None:
        """Write down how a trial ended: COMPLETE with an accuracy, PRUNED, or FAIL."""
        with self._lock:
            running = self._running.pop(number)
            values = self._values(running.stored, accuracy)
            self.study.tell(running.stored, values, state, skip_if_finished=True)

    def reclaim(self, outcome: Callable[[FrozenTrial], Outcome]) -> list[int]:
        """Close the trials that a killed process has left, and those of machines gone silent.

        What trained is tried again once: it may be what killed the process.

        Args:
            outcome: What became of a trial's training, as far as its run tells.

        Returns:
            Numbers of the trials that are to be tried again.
        """
        return self._close(outcome, killed=True)

    def abandon(self, outcome: Callable[[FrozenTrial], Outcome]) -> list[int]:
        """Close all trials of this process, which is interrupted; as ``reclaim``, but all are tried again."""
        self._running.clear()
        return self._close(outcome, killed=False)

    def _close(self, outcome: Callable[[FrozenTrial], Outcome], *, killed: bool) -> list[int]:
        with self._lock, quiet():
            again = []
            for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
                if trial.number in self._running or not self._is_orphan(trial):
                    continue
                state, accuracy = outcome(trial)
                if state == TrialState.FAIL and self._repeat(trial, killed):
                    again.append(trial.number)
                self.study.tell(trial.number, self._values(trial, accuracy), state, skip_if_finished=True)
            return again

    def _values(self, trial: FrozenTrial | Trial, accuracy: float | None) -> list[float] | None:
        """Of the objectives."""
        if accuracy is None:
            return None
        return [accuracy, float(trial.user_attrs["parameters"])][: len(self._settings.objectives)]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        silent = time.time() - trial.user_attrs.get("alive", begun) > GRACE
        return silent or not self.shared or trial.user_attrs.get("host") == socket.gethostname()

    def _repeat(self, trial: FrozenTrial, killed: bool) -> bool:
        """Queue a trial again, unless it was killed twice; what was not fully drawn is drawn anew instead."""
        params = given(trial)
        kills = trial.user_attrs.get("kills", 0) + int(killed and "run_id" in trial.user_attrs)
        if not params or kills > 1:
            return False
        place = origin(trial)
        if not any(
            origin(each) == place for each in self.study.get_trials(deepcopy=False)[trial.number + 1 :]
        ):
            kept = {key: value for key, value in trial.user_attrs.items() if key == "variant"}
            self.study.enqueue_trial(params, {**kept, "retry_of": place, "kills": kills})
        return True

    def _keep_rungs(self, running: _Running) -> None:
        """Store Hyperband's rungs: later trials are compared with them."""
        notes = running.drawn.study.get_trials(deepcopy=False)[running.drawn.number].system_attrs
        for key, value in notes.items():
            if key.startswith("completed_rung"):
                self._storage.set_trial_system_attr(running.stored._trial_id, key, value)
