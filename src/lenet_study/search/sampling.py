"""How a trial is drawn and judged: by Optuna's sampler and pruner, over the trials that it may know.

Every trial has a place: its own, or that of the trial that it repeats. The trial at place k is drawn, and
judged while it trains, from what places 0 to k - 1 - lag gave, whatever else has ended meanwhile. So a seed
and a number of workers decide the sequence of trials, not the accidents of timing. Every trial therefore
has a study of its own in memory, which knows these places and no other; the storage is the ledger.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from numpy.random import SeedSequence
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lenet_study.search.space import Space

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


def memory_of(
    trials: Sequence[FrozenTrial], number: int, settings: Settings, name: str
) -> tuple[optuna.Study, dict[str, Any]]:
    """A study that knows what a trial may know.

    Args:
        trials: Those of the search, in order.
        number: Of the trial among them.
        settings: How to draw and judge.
        name: Of the search.

    Returns:
        The study, and the parameters that the trial is given, if it is not drawn.
    """
    places = _places(trials[: number + 1])
    place = next(place for place, trial in enumerate(places) if trial.number == number)
    (seed,) = SeedSequence((settings.seed, place)).generate_state(1)
    with quiet():
        memory = optuna.create_study(
            study_name=name,
            directions=settings.directions,
            sampler=SAMPLERS[settings.sampler](int(seed)),
            pruner=PRUNERS[settings.pruner](),
        )
    unknown = optuna.create_trial(state=TrialState.FAIL)
    for before, trial in enumerate(places[:place]):
        known = trial.state.is_finished() and before < place - settings.lag
        memory.add_trial(trial if known else unknown)
    return memory, given(trials[number])


class Drawn(BaseSampler):
    """Gives what was drawn in memory."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What was drawn."""
        return self.params[param_name]


def _places(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The latest trial at each place; one that ended before it was fully drawn has none."""
    places: dict[int, FrozenTrial] = {}
    for trial in trials:
        if trial.state.is_finished() and not given(trial):
            continue
        places[origin(trial)] = trial
    return [places[number] for number in sorted(places)]


def origin(trial: FrozenTrial) -> int:
    """The number of the trial that it repeats; its own if it repeats none."""
    return int(trial.user_attrs.get("retry_of", trial.number))


def given(trial: FrozenTrial) -> dict[str, Any]:
    """All parameters of a trial that has them, from the queue or from its draw."""
    drawn = trial.params if is_drawn(trial) else {}
    return dict(trial.system_attrs.get("fixed_params") or drawn)


def is_drawn(trial: FrozenTrial) -> bool:
    """Whether a trial has all its parameters."""
    return "parameters" in trial.user_attrs


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's notes on experimental parts from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
