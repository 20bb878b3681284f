"""The one declaration of every parameter and entry point: type, range, default, meaning.

Standard library and click alone, so that help and rejected values answer at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import click

from lenet_study.recipes.variants import VARIANTS


class Count(click.IntRange):
    """A whole number within a range."""

    name = "whole number"


class PositiveNumber(click.FloatRange):
    """A finite number above zero."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan and inf, which compare as if they were in range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class StudyName(click.ParamType[str]):
    """Letters, digits and a few signs: it becomes part of names of runs and models."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what no run or model could be called."""
        if not re.fullmatch(r"\w[\w.+-]{0,59}", value):
            self.fail(f"{value!r}: use up to 60 letters, digits and . + - _", param, ctx)
        return str(value)


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name in MLflow, its click type, its default and its meaning."""

    name: str
    type: click.ParamType[Any]
    default: str | int | float | bool
    meaning: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    def option(self) -> click.Option:
        """It as click's option."""
        return click.Option(
            [self.flag, self.name],
            type=self.type,
            default=self.default,
            show_default=self.default != "",
            help=self.meaning,
        )


PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter("variant", click.Choice(tuple(VARIANTS)), "v4", "Which of the five models."),
        Parameter(
            "spec", click.STRING, "", "A spec file to train instead of a variant, as a search logs it."
        ),
        Parameter("epochs", Count(1), 15, "Passes over the training images."),
        Parameter("batch_size", Count(2), 32, "Images per optimiser step."),
        Parameter("learning_rate", PositiveNumber(), 0.001, "Adam's initial learning rate."),
        Parameter("seed", Count(0, 2**32 - 1), 0, "Seed of all that is random."),
        Parameter(
            "auxiliary",
            click.Choice(("probe", "untrained", "joint")),
            "probe",
            "What trains the auxiliary heads: their own loss on detached activations, nothing, "
            "or a loss that also reaches the trunk.",
        ),
        Parameter("auxiliary_weight", PositiveNumber(), 0.3, "Weight of each auxiliary loss when joint."),
        Parameter(
            "precision",
            click.Choice(("float32", "bfloat16")),
            "float32",
            "Of a training step; bfloat16 is faster where the processor knows it.",
        ),
        Parameter("device", click.Choice(("auto", "cpu", "cuda")), "auto", "auto: cuda if there is one."),
        Parameter("threads", Count(0, 1024), 0, "Processor threads; 0 takes the cores, or a worker's share."),
        Parameter("workers", Count(0, 1024), 0, "Trainings side by side; 0 takes one per core."),
        Parameter(
            "data_dir",
            click.STRING,
            "",
            "Folder of the data; else the environment's LENET_STUDY_DATA, else ./data.",
        ),
        Parameter("folds", Count(2), 5, "Parts of the k-fold cross-validation."),
        Parameter(
            "model",
            click.STRING,
            "models:/fashion-mnist-lenet@champion",
            "A run id, a models:/ address, or the path of a TorchScript file.",
        ),
        Parameter("trials", Count(1), 50, "Trials that the search is to have, earlier ones included."),
        Parameter("timeout", Count(0), 0, "Seconds after which no trial begins; 0 sets no limit."),
        Parameter("study_name", StudyName(), "lenet", "Name of the search; the same name goes on."),
        Parameter("storage", click.STRING, "sqlite:///optuna.db", "Where Optuna keeps the trials."),
        Parameter(
            "objectives",
            click.Choice(("accuracy", "accuracy,parameters")),
            "accuracy",
            "Validation accuracy of the best epoch, or also few parameters.",
        ),
        Parameter("max_parameters", Count(1), 500_000, "Budget of a model."),
        Parameter("max_epochs", Count(1, 1000), 30, "The most epochs that a trial may choose."),
        Parameter(
            "sampler",
            click.Choice(("TPESampler", "GPSampler", "NSGAIISampler", "RandomSampler")),
            "TPESampler",
            "Of Optuna's samplers.",
        ),
        Parameter(
            "pruner",
            click.Choice(("HyperbandPruner", "WilcoxonPruner", "MedianPruner", "NopPruner")),
            "HyperbandPruner",
            "Of Optuna's pruners; with two objectives nothing is pruned.",
        ),
        Parameter(
            "confirm_seeds", Count(0, 100), 3, "Seeds to train the best trial and the champion on at the end."
        ),
        Parameter("rollback", click.BOOL, False, "Give the alias back to the former champion."),
    )
}
_PROTOCOL = ("epochs", "batch_size", "learning_rate", "seed", "auxiliary", "auxiliary_weight", "precision")
_MACHINE = ("device", "threads", "data_dir")
_MACHINES = ("device", "threads", "workers", "data_dir")

_COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("Find or fetch Fashion-MNIST, and verify it.", ("data_dir",)),
    "train": ("Train one variant and register the model.", ("variant", "spec", *_PROTOCOL, *_MACHINE)),
    "kfold": ("Cross-validate one variant.", ("variant", "spec", "folds", *_PROTOCOL, *_MACHINES)),
    "evaluate": ("Evaluate any model on the test split.", ("model", "seed", *_MACHINE)),
    "retrain": (
        "Train one variant on training and validation images, then evaluate it.",
        ("variant", "spec", *_PROTOCOL, *_MACHINE),
    ),
    "promote": ("Make the best training's model the champion.", ("rollback",)),
    "search": (
        "Search beyond the five with Optuna, within a budget of parameters.",
        (
            "trials",
            "timeout",
            "study_name",
            "storage",
            "objectives",
            "max_parameters",
            "max_epochs",
            "sampler",
            "pruner",
            "confirm_seeds",
            "seed",
            "precision",
            *_MACHINES,
        ),
    ),
    "study": ("The whole study.", ("folds", *_PROTOCOL, *_MACHINES)),
}
COMMANDS = {
    name: (meaning, tuple(PARAMETERS[parameter] for parameter in parameters))
    for name, (meaning, parameters) in _COMMANDS.items()
}
