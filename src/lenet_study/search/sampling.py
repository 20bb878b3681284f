"""Suggestion and judgement of a trial by Optuna's sampler and pruner, from the trials that it may see.

Every trial has a slot in the order of the search: its own, or that of the trial that it repeats. The trial in
slot k is suggested, and judged while it trains, from the results in slots 0 to k - 1 - ``hidden_trials``,
whatever else has ended meanwhile. So a seed and a number of workers determine the sequence of trials, and the
accidents of timing do not. Therefore every trial has a study of its own in memory, which holds the trials of
these slots and no others; the storage only records what happened.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from numpy.random import SeedSequence
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lenet_study.search import attributes
from lenet_study.search.config import SearchConfig
from lenet_study.search.space import Space

# Trials differ in their numbers of epochs, and an annealed learning rate is high when a halved one is low
# already. So trials are compared after equal shares of their own epochs, not after equal numbers of epochs.
REPORTS_PER_TRIAL = 10
OPTIONS: Mapping[str, Mapping[str, Any]] = {  # of Optuna's samplers and pruners
    "TPESampler": {"multivariate": True},
    "HyperbandPruner": {"min_resource": 2, "max_resource": REPORTS_PER_TRIAL, "reduction_factor": 2},
    "WilcoxonPruner": {"n_startup_steps": 2},
    "MedianPruner": {"n_warmup_steps": 2},
}
_DIRECTIONS = {"accuracy": StudyDirection.MAXIMIZE, "parameters": StudyDirection.MINIMIZE}


@dataclass(frozen=True)
class Settings:
    """A search's way to suggest and judge its trials."""

    config: SearchConfig
    workers: int = 1  # trials at a time

    @cached_property
    def space(self) -> Space:
        """All points that may be suggested; a UserError if no model of the space is within the budget."""
        return Space(self.config.max_parameters, self.config.max_epochs)

    @property
    def directions(self) -> list[StudyDirection]:
        """Direction of each objective."""
        return [_DIRECTIONS[objective] for objective in self.config.objectives.split(",")]

    @property
    def hidden_trials(self) -> int:
        """Number of slots before its own that a trial does not see.

        With this many, suggestions do not depend on which worker finishes first, and no worker has to wait
        for another unless that one takes more than twice as long.
        """
        return 2 * self.workers - 1 if self.workers > 1 else 0


def in_memory_study(
    trials: Sequence[FrozenTrial], number: int, settings: Settings
) -> tuple[optuna.Study, dict[str, Any]]:
    """Build the study that holds those of a search's trials, given in order, that one of them may see.

    Returns:
        The study, and the params that the trial has already; empty if they are to be suggested.
    """
    slots = _slots(trials[: number + 1])
    slot = next(slot for slot, trial in enumerate(slots) if trial.number == number)
    # A sampler's state after a restart cannot be had again: every slot gets a sampler with a seed of its own.
    (seed,) = SeedSequence((settings.config.seed, slot)).generate_state(1)
    sampler, pruner = settings.config.sampler, settings.config.pruner
    with quiet():
        memory = optuna.create_study(
            # Hyperband assigns a trial to a bracket by a checksum of the study's name and the trial's number.
            study_name=settings.config.search_name,
            directions=settings.directions,
            sampler=getattr(optuna.samplers, sampler)(seed=int(seed), **OPTIONS.get(sampler, {})),
            pruner=getattr(optuna.pruners, pruner)(**OPTIONS.get(pruner, {})),
        )
    # A hidden trial leaves its slot empty: later trials must keep their numbers, which Hyperband reads.
    hidden = optuna.create_trial(state=TrialState.FAIL)
    for earlier, trial in enumerate(slots[:slot]):
        visible = trial.state.is_finished() and earlier < slot - settings.hidden_trials
        memory.add_trial(trial if visible else hidden)
    return memory, params_of(trials[number])


def _slots(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the latest trial of each slot; one that ended before it was completely suggested has none."""
    slots: dict[int, FrozenTrial] = {}
    for trial in trials:
        if not trial.state.is_finished() or params_of(trial):
            slots[origin(trial)] = trial
    return [slots[number] for number in sorted(slots)]


def origin(trial: FrozenTrial) -> int:
    """Return the number of the trial that this one repeats; its own if it repeats none."""
    return int(trial.user_attrs.get(attributes.RETRY_OF, trial.number))


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return all params of a trial, queued or suggested; none where the suggestion was interrupted."""
    suggested = trial.params if is_suggested(trial) else {}
    return dict(trial.system_attrs.get("fixed_params") or suggested)  # Optuna's key for a queued trial


def is_suggested(trial: FrozenTrial) -> bool:
    """Whether a trial has all its params."""
    return attributes.PARAMETER_COUNT in trial.user_attrs


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Optuna's warnings about experimental parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
