"""A recipe: one model and how to train it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from lenet_study.recipes.variants import STRICT, VARIANTS, Variant

SEED_LIMIT = 2**32  # exclusive; NumPy's limit
Seed = Annotated[int, Interval(ge=0, le=SEED_LIMIT - 1), "Seed of all that is random."]
Auxiliary = Literal["probe", "untrained", "joint"]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    "Precision of a training step; bfloat16 is faster where the processor knows it.",
]
PER_RUN = ("seed", "precision")  # chosen anew for each run: no part of a recipe file or a fingerprint


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Choices of a training beside the model; the defaults are the report's."""

    __pydantic_config__: ClassVar = STRICT
    epochs: Annotated[int, Interval(ge=1, le=10**9), "Passes over the training images."] = 15
    batch_size: Annotated[int, Interval(ge=2, le=60_000), "Images per optimizer step."] = 32
    learning_rate: Annotated[float, Interval(gt=0, le=100), "The optimizer's initial learning rate."] = 0.001
    seed: Seed = 0
    auxiliary: Annotated[
        Auxiliary,
        "Training of the auxiliary heads: by their own loss on detached activations, not at all, "
        "or by a loss that also reaches the trunk.",
    ] = "probe"
    auxiliary_weight: Annotated[float, Interval(gt=0, le=1000), "Weight of each joint auxiliary loss."] = 0.3
    precision: Precision = "float32"

    @property
    def of_recipe(self) -> dict[str, object]:
        """Fields that a recipe file holds: all but those chosen for each run."""
        return {name: value for name, value in asdict(self).items() if name not in PER_RUN}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and how to train it; its runs are called ``name``, as a variant or a searched model is."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    variant: Variant
    config: TrainingConfig = TrainingConfig()

    @property
    def searched(self) -> bool:
        """Whether the model has no row in the table of variants."""
        return self.name not in VARIANTS or _model(VARIANTS[self.name]) != _model(self.variant)

    def params(self, *, from_file: bool) -> dict[str, object]:
        """Return the params of a run that describe the model, named ``variant.FIELD``.

        Of a variant these are the fields in which the variants differ; all are in the recipe file.
        ``from_file`` adds the others and, as ``recipe.FIELD``, what a recipe file decides: `mlflow run` has
        logged its own defaults under the plain names, and a run's params cannot change.
        """
        described = {f"variant.{name}": value for name, value in _fields(self.variant).items()}
        if not from_file:
            return {name: value for name, value in described.items() if name in _different()}
        return described | {f"recipe.{name}": value for name, value in self.config.of_recipe.items()}

    def fingerprint(self) -> str:
        """Return 16 hex digits of a SHA-256 sum that tell recipes apart, whatever they are called."""
        content = json.dumps([_model(self.variant), self.config.of_recipe], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def variant_recipes(config: TrainingConfig) -> dict[str, Recipe]:
    """Return the recipe of every variant by name, trained with this configuration."""
    return {name: Recipe(name=name, variant=variant, config=config) for name, variant in VARIANTS.items()}


def describe(recipe: Recipe) -> str:
    """Return one sentence of Markdown: what is trained.

    >>> describe(variant_recipes(TrainingConfig())["v1"])
    '**v1**: baseline, but the learning rate is halved every 5 epochs.'
    """
    parent = f"{recipe.variant.parent}, but " if recipe.variant.parent else ""
    return f"**{recipe.name}**: {parent}{recipe.variant.change}."


def _different() -> set[str]:
    """Return the params in which the variants differ."""
    tables = [_fields(variant) for variant in VARIANTS.values()]
    return {f"variant.{name}" for name in tables[0] if len({str(table[name]) for table in tables}) > 1}


def _fields(variant: Variant) -> dict[str, Any]:
    """Return a variant's fields without those in words, the augmentation's under names of their own."""
    values = _model(variant)
    augmentation = values.pop("augmentation")
    return values | {f"augmentation.{name}": value for name, value in augmentation.items()}


def _model(variant: Variant) -> dict[str, Any]:
    """Return a variant's fields without those in words, which do not change what is trained."""
    return {name: value for name, value in asdict(variant).items() if name not in ("change", "parent")}
