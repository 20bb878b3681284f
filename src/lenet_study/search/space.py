"""The space of a search: one declaration, within a budget of parameters.

``Space.digest`` is stored with every search: a change of a name or range here ends all searches begun before.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, get_args

import optuna
from optuna.distributions import distribution_to_json

from lenet_study.errors import UserError
from lenet_study.recipes.recipe import Recipe, TrainingConfig
from lenet_study.recipes.variants import VARIANTS, Augmentation, Optimizer, Variant, parameter_count

SMALLEST_CHANNELS = (2, 8)
HIDDEN_UNITS = (16, 512)  # of the first hidden layer
# One range serves all three optimizers. Adam divides its steps by the size of the gradients and SGD does not:
# its learning rates are so many times larger. AdamW's decay acts on the weights alone, unscaled by gradients.
SGD_RATE = 20
ADAMW_DECAY = 100
# Params that are a field of the training's configuration, of the variant or of its augmentation as they are.
_OWN_FIELDS = (
    *("learning_rate", "batch_size", "auxiliary", "auxiliary_weight"),
    *("batch_norm", "optimizer", "weight_decay", "dropout", "label_smoothing"),
    *("flip", "shift", "erase"),
)
SCHEDULES = {"constant": (None, False), "halved": (5, False), "cosine": (None, True)}


@dataclass(frozen=True)
class Space:
    """The space of a search; a UserError if no model of it is within the budget."""

    max_parameters: int  # the budget of a model
    epochs: int  # the most of a training

    def __post_init__(self) -> None:
        smallest = _parameter_count(SMALLEST_CHANNELS, (HIDDEN_UNITS[0], HIDDEN_UNITS[0]), True)
        if self.max_parameters < smallest:
            raise UserError(
                f"max_parameters={self.max_parameters} is below the smallest model of the space, which has "
                f"{smallest:,}: allow at least that many"
            )

    def suggest(self, trial: optuna.trial.BaseTrial, seed: int = 0) -> Recipe:
        """Return what a trial trains; it is within the budget, whatever the sampler suggests.

        The order of the suggestions is part of the space: a sampler draws its random numbers in it.
        """
        epochs = trial.suggest_int("epochs", self._epochs[0], self._epochs[-1], step=self._epochs.step)
        layers = self._suggest_layers(trial)
        optimizer = trial.suggest_categorical("optimizer", get_args(Optimizer))
        learning_rate = trial.suggest_float("learning_rate", 4e-4, 6e-3, log=True)
        halve_every, anneal = SCHEDULES[trial.suggest_categorical("schedule", tuple(SCHEDULES))]
        batch_size = trial.suggest_categorical("batch_size", (32, 64, 128))
        weight_decay = trial.suggest_categorical("weight_decay", (0.0, 1e-5, 1e-4, 5e-4))
        # Keywords are evaluated, and so suggested, in the order in which they stand.
        variant = Variant(
            change=f"found by a search within {self.max_parameters:,} parameters",
            **layers,
            halve_learning_rate_every=halve_every,
            cosine_annealing=anneal,
            optimizer=optimizer,
            # The factors are applied here: multivariate TPE needs ranges that are the same in every trial.
            weight_decay=weight_decay * (ADAMW_DECAY if optimizer == "adamw" else 1),
            dropout=trial.suggest_float("dropout", 0.0, 0.4),
            label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.1),
            augmentation=_suggest_augmentation(trial),
        )
        auxiliary: Any = trial.suggest_categorical("auxiliary", ("probe", "joint"))
        config = TrainingConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate * (SGD_RATE if optimizer == "sgd" else 1),
            seed=seed,
            auxiliary=auxiliary,
            auxiliary_weight=trial.suggest_float("auxiliary_weight", 0.05, 0.5),
        )
        return Recipe(name="trial", variant=variant, config=config)

    def _suggest_layers(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Return the fields of a variant that decide its parameter count."""
        first = trial.suggest_int("first_channels", SMALLEST_CHANNELS[0], self._most_channels[0], step=2)
        second = trial.suggest_int("second_channels", SMALLEST_CHANNELS[1], self._most_channels[1], step=8)
        batch_norm = trial.suggest_categorical("batch_norm", (True, False))
        # A share of what the convolutions leave: of fixed ranges of units most would be beyond the budget.
        share = trial.suggest_float("hidden_share", 0.0, 1.0)
        ratio = trial.suggest_float("hidden_ratio", 0.3, 1.0)
        most = self._most_hidden_units((first, second), ratio, batch_norm)
        wide = HIDDEN_UNITS[0] + round(share * (most - HIDDEN_UNITS[0]))
        hidden_units = (wide, _narrow(wide, ratio))
        return {"channels": (first, second), "hidden_units": hidden_units, "batch_norm": batch_norm}

    def digest(self) -> str:
        """Return 16 hex digits of a SHA-256 sum over names and ranges, which tell this space from others."""
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
        self.suggest(trial)
        ranges = {name: distribution_to_json(values) for name, values in trial.distributions.items()}
        return hashlib.sha256(json.dumps(ranges, sort_keys=True).encode()).hexdigest()[:16]

    def variant_points(self, variants: Mapping[str, Variant] = VARIANTS) -> dict[str, Mapping[str, object]]:
        """Return the points at which variants lie, by name; those outside the space are left out."""
        points = {name: self._point(variant) for name, variant in variants.items()}
        return {name: point for name, point in points.items() if self._gives(point, variants[name])}

    def warm_start_points(self) -> list[Mapping[str, object]]:
        """Return where today's practice would begin: v4 annealed, regularised and augmented, in three ways.

        Empty where v4 is beyond the budget.
        """
        v4 = self.variant_points().get("v4")
        if not v4:
            return []
        annealed = {**v4, "epochs": self._epochs[-1], "schedule": "cosine", "batch_size": 64}
        annealed |= {"dropout": 0.2, "label_smoothing": 0.05}
        annealed |= {"flip": 0.5, "photometric": 0.0, "shift": 1, "erase": 0.1}
        wide = {"first_channels": 48, "second_channels": 96, "hidden_share": 1.0}
        adamw = {"optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 5e-4}
        sgd = {"optimizer": "sgd", "learning_rate": 0.0025, "weight_decay": 5e-4}
        return [annealed | adamw, annealed | sgd, annealed | adamw | wide]

    def _point(self, variant: Variant) -> Mapping[str, object]:
        """Return the params that come nearest to a variant trained with the report's configuration."""
        ratio = variant.hidden_units[1] / variant.hidden_units[0]
        most = self._most_hidden_units(variant.channels, ratio, variant.batch_norm)
        report = TrainingConfig()
        schedule = (variant.halve_learning_rate_every, variant.cosine_annealing)
        fields = asdict(report) | asdict(variant) | asdict(variant.augmentation)
        return {name: fields[name] for name in _OWN_FIELDS} | {
            "epochs": min(self._epochs, key=lambda epochs: abs(epochs - report.epochs)),
            "first_channels": variant.channels[0],
            "second_channels": variant.channels[1],
            "hidden_share": (variant.hidden_units[0] - HIDDEN_UNITS[0]) / max(1, most - HIDDEN_UNITS[0]),
            "hidden_ratio": ratio,
            "schedule": next((name for name, value in SCHEDULES.items() if value == schedule), None),
            "photometric": 1.0,
        }

    def _gives(self, point: Mapping[str, object], variant: Variant) -> bool:
        """Whether a point lies in the space, which ends with the budget, and gives that variant."""
        trial = optuna.trial.FixedTrial(dict(point))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FixedTrial only warns of a value out of range;
            try:
                suggested = self.suggest(trial).variant
                optuna.create_trial(value=0.0, params=trial.params, distributions=trial.distributions)
            except ValueError:  # create_trial refuses it
                return False
        return replace(suggested, change=variant.change, parent=variant.parent) == variant

    @cached_property
    def _epochs(self) -> range:
        """The numbers of epochs to choose from: from half of the most, in steps of 5 if that fits."""
        step = 5 if self.epochs % 5 == 0 else 1
        low = max(step, self.epochs // 2 // step * step)
        return range(low, self.epochs + 1, step)

    @cached_property
    def _most_channels(self) -> tuple[int, int]:
        """The widest convolutions with which the smallest hidden layers are within the budget."""
        smallest = (HIDDEN_UNITS[0], HIDDEN_UNITS[0])
        # In the proportion of the report's channels, about 1 to 2, and in the steps of the two ranges.
        pairs = ((first, max(8, first * 2 // 8 * 8)) for first in range(64, 0, -2))
        return next(pair for pair in pairs if _parameter_count(pair, smallest, True) <= self.max_parameters)

    def _most_hidden_units(self, channels: tuple[int, int], ratio: float, batch_norm: bool) -> int:
        """Return the units of the widest first hidden layer within the budget."""
        widths = range(HIDDEN_UNITS[1], HIDDEN_UNITS[0], -1)

        def count(wide: int) -> int:
            return _parameter_count(channels, (wide, _narrow(wide, ratio)), batch_norm)

        return next((wide for wide in widths if count(wide) <= self.max_parameters), HIDDEN_UNITS[0])


def _suggest_augmentation(trial: optuna.trial.BaseTrial) -> Augmentation:
    flip = trial.suggest_float("flip", 0.0, 0.5)
    photometric = trial.suggest_float("photometric", 0.0, 1.0)  # 1 is the report's strength
    shift = trial.suggest_int("shift", 0, 2)
    erase = trial.suggest_float("erase", 0.0, 0.4)
    strength = 0.2 * photometric
    return Augmentation(
        flip=flip, jitter=strength, autocontrast=strength, solarize=strength, shift=shift, erase=erase
    )


def _narrow(wide: int, ratio: float) -> int:
    """Return the units of the second hidden layer; the report's ratio is 0.7."""
    return max(10, round(ratio * wide))


def _parameter_count(channels: tuple[int, int], hidden_units: tuple[int, int], batch_norm: bool) -> int:
    """Return the number of weights of a model; nothing else of a variant changes it."""
    v4 = VARIANTS["v4"]
    return parameter_count(replace(v4, channels=channels, hidden_units=hidden_units, batch_norm=batch_norm))
