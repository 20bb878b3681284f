"""The parameters of a search. Standard library alone: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from lenet_study.recipes.constraints import Matches
from lenet_study.recipes.recipe import Precision, Seed


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search: its budget, its name, and how it samples, prunes and confirms."""

    trials: Annotated[
        int, Interval(ge=1, le=10**6), "Trials that the search is to have, earlier ones included."
    ] = 50
    timeout: Annotated[
        int, Interval(ge=0, le=10**9), "Seconds after which no trial begins; 0 sets no limit."
    ] = 0
    search_name: Annotated[
        str,
        Matches(r"\w[\w.+-]{0,59}", "use up to 60 letters, digits and . + - _"),
        "Name of the search; the same name goes on.",
    ] = "lenet"
    storage: Annotated[str, "Where Optuna keeps the trials."] = "sqlite:///optuna.db"
    objectives: Annotated[
        Literal["accuracy", "accuracy,parameters"],
        "Validation accuracy of the best epoch, or also few parameters.",
    ] = "accuracy"
    max_parameters: Annotated[int, Interval(ge=1, le=10**9), "Budget of a model."] = 500_000
    max_epochs: Annotated[int, Interval(ge=1, le=1000), "The most epochs that a trial may choose."] = 30
    sampler: Annotated[
        Literal["TPESampler", "GPSampler", "NSGAIISampler", "RandomSampler"], "One of Optuna's samplers."
    ] = "TPESampler"
    pruner: Annotated[
        Literal["HyperbandPruner", "WilcoxonPruner", "MedianPruner", "NopPruner"],
        "One of Optuna's pruners; with two objectives nothing is pruned.",
    ] = "HyperbandPruner"
    confirm_seeds: Annotated[
        int, Interval(ge=0, le=100), "Seeds to train the best trial and the champion on at the end."
    ] = 3
    seed: Seed = 0
    precision: Precision = "float32"
