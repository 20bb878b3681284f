"""The one declaration of every parameter and entry point: type, range, default, meaning.

Standard library and click alone, so that help and rejected values answer at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import click

from lenet_study.variants import VARIANTS


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


_PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter("variant", click.Choice(tuple(VARIANTS)), "v4", "Which of the five models."),
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
        Parameter("rollback", click.BOOL, False, "Give the alias back to the former champion."),
    )
}
_PROTOCOL = ("epochs", "batch_size", "learning_rate", "seed", "auxiliary", "auxiliary_weight", "precision")
_MACHINE = ("device", "threads", "data_dir")
_MACHINES = ("device", "threads", "workers", "data_dir")

_COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("Find or fetch Fashion-MNIST, and verify it.", ("data_dir",)),
    "train": ("Train one variant and register the model.", ("variant", *_PROTOCOL, *_MACHINE)),
    "kfold": ("Cross-validate one variant.", ("variant", "folds", *_PROTOCOL, *_MACHINES)),
    "evaluate": ("Evaluate any model on the test split.", ("model", "seed", *_MACHINE)),
    "retrain": (
        "Train one variant on training and validation images, then evaluate it.",
        ("variant", *_PROTOCOL, *_MACHINE),
    ),
    "promote": ("Make the best training's model the champion.", ("rollback",)),
    "study": ("The whole study.", ("folds", *_PROTOCOL, *_MACHINES)),
}
COMMANDS = {
    name: (meaning, tuple(_PARAMETERS[parameter] for parameter in parameters))
    for name, (meaning, parameters) in _COMMANDS.items()
}
