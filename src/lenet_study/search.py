"""A search's trials in Optuna's storage: what the next one is, and which of the running ones goes on.

Every trial has a place: its own, or that of the trial that it repeats. The trial at place k is drawn, and
judged while it trains, from what places 0 to k - 1 - lag gave, whatever else has ended meanwhile. So a seed
and a number of workers decide the sequence of trials, not the accidents of timing. Every trial therefore
has a study of its own in memory, which knows these places and no other; the storage is the ledger.
"""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
from numpy.random import SeedSequence
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from lenet_study import Pruned
from lenet_study.space import Space
from lenet_study.specs import Recipe
from lenet_study.variants import parameters

GRACE = 600  # seconds without a sign of life after which a trial of another machine counts as dead
SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "TPESampler": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "GPSampler": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "NSGAIISampler": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "RandomSampler": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
TENTHS = 10  # a trial is judged by what it reaches after each tenth of its own epochs
PRUNERS: Mapping[str, Callable[[], optuna.pruners.BasePruner]] = {
    "HyperbandPruner": lambda: optuna.pruners.HyperbandPruner(
        min_resource=2, max_resource=TENTHS, reduction_factor=2
    ),
    "WilcoxonPruner": lambda: optuna.pruners.WilcoxonPruner(n_startup_steps=2),
    "MedianPruner": lambda: optuna.pruners.MedianPruner(n_warmup_steps=2),
    "NopPruner": optuna.pruners.NopPruner,
}
Outcome = tuple[TrialState, Sequence[float] | None]  # COMPLETE with values, PRUNED, or FAIL


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a search draws and judges.

    Attributes:
        space: What may be drawn.
        objectives: ``accuracy``, or ``accuracy`` and ``parameters``.
        sampler: Name among ``SAMPLERS``.
        pruner: Name among ``PRUNERS``; with two objectives nothing is pruned.
        seed: Of the sampler and of every training.
        workers: Trials at a time.
    """

    space: Space
    objectives: tuple[str, ...] = ("accuracy",)
    sampler: str = "TPESampler"
    pruner: str = "HyperbandPruner"
    seed: int = 0
    workers: int = 1

    @property
    def lag(self) -> int:
        """How many places before its own a trial may not know: enough that no worker waits for another."""
        return 2 * self.workers - 1 if self.workers > 1 else 0

    @property
    def directions(self) -> list[StudyDirection]:
        """Accuracy is to grow, parameters are to shrink."""
        known = {"accuracy": StudyDirection.MAXIMIZE, "parameters": StudyDirection.MINIMIZE}
        return [known[objective] for objective in self.objectives]


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
    """

    def __init__(self, study: optuna.Study, storage: RDBStorage, settings: Settings, *, shared: bool) -> None:
        self.study = study
        self.id = str(study.user_attrs["id"])
        self._storage = storage
        self._settings = settings
        self._shared = shared  # with other machines
        self._running: dict[int, _Running] = {}  # by number
        self._begun = 0
        self._lock = threading.Lock()

    def finished(self) -> list[FrozenTrial]:
        """The trials that count: complete, pruned, or failed for good."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get("retry_of") for trial in trials}
        return [t for t in trials if t.state.is_finished() and _is_drawn(t) and t.number not in repeated]

    def unfinished(self) -> int:
        """How many trials run, here or elsewhere."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def best(self) -> FrozenTrial | None:
        """The complete trial with the highest accuracy, the first on a tie."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(complete, key=lambda trial: trial.values[0], default=None)

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
            self.study.sampler = _Drawn({})
            trial = self.study.ask()
            trial.set_user_attr("host", socket.gethostname())
            memory, given = self._memory_of(trial.number)
            if given:
                memory.enqueue_trial(given)
            drawn = memory.ask()
            recipe = self._settings.space.suggest(drawn, self._settings.seed)
            self.study.sampler.params = drawn.params
            self._settings.space.suggest(trial)
            trial.set_user_attr("parameters", parameters(recipe.spec))  # now it is complete
            self._running[trial.number] = _Running(self._begun, trial, drawn, recipe.protocol.epochs)
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

    def end(self, number: int, values: Sequence[float] | None, state: TrialState) -> None:
        """Write down how a trial ended."""
        with self._lock:
            running = self._running.pop(number)
            self.study.tell(running.stored, values, state, skip_if_finished=True)

    def reclaim(self, outcome: Callable[[FrozenTrial], Outcome]) -> list[int]:
        """Close the trials that this machine has begun and not ended, and those of machines gone silent.

        Args:
            outcome: What became of a trial's training, as far as its run tells.

        Returns:
            Numbers of the trials that are to be tried again.
        """
        with self._lock, _quiet():
            again = []
            for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
                if trial.number in self._running or not self._is_orphan(trial):
                    continue
                state, values = outcome(trial)
                if state == TrialState.FAIL and self._repeat(trial):
                    again.append(trial.number)
                self.study.tell(trial.number, values, state, skip_if_finished=True)
            return again

    def abandon(self, outcome: Callable[[FrozenTrial], Outcome]) -> list[int]:
        """Close all trials of this process, which ends; as ``reclaim``."""
        self._running.clear()
        return self.reclaim(outcome)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        silent = time.time() - trial.user_attrs.get("alive", begun) > GRACE
        host = trial.user_attrs.get("host")
        mine = host == socket.gethostname() or (host is None and not self._shared)
        return silent or mine

    def _repeat(self, trial: FrozenTrial) -> bool:
        """Queue a trial a second time, not a third; what was not fully drawn is drawn anew instead."""
        given = _given(trial)
        trials = self.study.get_trials(deepcopy=False)
        if not given or "retry_of" in trial.user_attrs:
            return False
        if not any(each.user_attrs.get("retry_of") == trial.number for each in trials):
            kept = {key: value for key, value in trial.user_attrs.items() if key == "variant"}
            self.study.enqueue_trial(given, {**kept, "retry_of": trial.number})
        return True

    def _keep_rungs(self, running: _Running) -> None:
        """Store Hyperband's rungs: later trials are compared with them."""
        notes = running.drawn.study.get_trials(deepcopy=False)[running.drawn.number].system_attrs
        for key, value in notes.items():
            if key.startswith("completed_rung"):
                self._storage.set_trial_system_attr(running.stored._trial_id, key, value)

    def _memory_of(self, number: int) -> tuple[optuna.Study, dict[str, Any]]:
        """A study that knows what a trial may know, and what the trial is given, if it is not drawn."""
        settings = self._settings
        trials = self.study.get_trials(deepcopy=False)[: number + 1]
        places = _places(trials)
        place = next(place for place, trial in enumerate(places) if trial.number == number)
        (seed,) = SeedSequence((settings.seed, place)).generate_state(1)
        with _quiet():
            memory = optuna.create_study(
                study_name=self.study.study_name,
                directions=settings.directions,
                sampler=SAMPLERS[settings.sampler](int(seed)),
                pruner=PRUNERS[settings.pruner](),
            )
        unknown = optuna.create_trial(state=TrialState.FAIL)
        for before, trial in enumerate(places[:place]):
            known = trial.state.is_finished() and before < place - settings.lag
            memory.add_trial(trial if known else unknown)
        return memory, _given(trials[number])


class _Drawn(BaseSampler):
    """Gives what was drawn in memory."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.params[param_name]


def _places(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The latest trial at each place; one that ended before it was fully drawn has none."""
    places: dict[int, FrozenTrial] = {}
    for trial in trials:
        if trial.state.is_finished() and not _given(trial):
            continue
        places[trial.user_attrs.get("retry_of", trial.number)] = trial
    return [places[number] for number in sorted(places)]


def _given(trial: FrozenTrial) -> dict[str, Any]:
    """All parameters of a trial that has them, from the queue or from its draw."""
    drawn = trial.params if _is_drawn(trial) else {}
    return dict(trial.system_attrs.get("fixed_params") or drawn)


def _is_drawn(trial: FrozenTrial) -> bool:
    return "parameters" in trial.user_attrs


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's notes on experimental parts from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
