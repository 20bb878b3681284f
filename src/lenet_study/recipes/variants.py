"""The models of the study: each is its parent plus one change.

Adding a variant is one entry in ``VARIANTS``; every command, picture and test that runs over the
table then covers it. A searched model is another ``Variant``, without a row in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

Optimizer = Literal["adam", "adamw", "sgd"]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Width = Annotated[int, Interval(ge=1, le=4096)]  # channels or units of a layer
STRICT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}  # of pydantic, for recipe files


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strengths of the changes to training images; the defaults are the report's."""

    __pydantic_config__: ClassVar = STRICT
    flip: Annotated[Share, "Probability of mirroring left and right."] = 0.25
    jitter: Annotated[Share, "Brightness and contrast factors lie in [1 - jitter, 1 + jitter]."] = 0.2
    autocontrast: Annotated[Share, "Probability of stretching the grey levels to their full range."] = 0.2
    solarize: Annotated[Share, "Probability of inverting the grey levels at or above 15."] = 0.2
    shift: Annotated[int, Interval(ge=0, le=14), "Pixels an image may move each way; black moves in."] = 0
    erase: Annotated[Share, "Probability of blackening a rectangle."] = 0.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model: all that tells it from another."""

    __pydantic_config__: ClassVar = STRICT
    change: Annotated[str, "One sentence: what differs from the parent."]
    parent: Annotated[str | None, "The variant that it was derived from."] = None
    channels: Annotated[tuple[Width, Width], "Output channels of the two 5x5 convolutions."]
    hidden_units: Annotated[tuple[Width, Width], "Units of the two hidden fully connected layers."]
    batch_norm: Annotated[bool, "Whether batch norm follows each convolution and hidden layer."]
    halve_learning_rate_every: Annotated[
        Annotated[int, Interval(ge=1, le=10**9)] | None,
        "Epochs between halvings of the learning rate; None never halves it.",
    ]
    cosine_annealing: Annotated[bool, "Whether the learning rate falls along a half cosine to zero."] = False
    dropout: Annotated[ShareBelowOne, "Probability of dropping an input of a classifier's layer."] = 0.0
    optimizer: Annotated[Optimizer, "Adam, AdamW, or SGD with a Nesterov momentum of 0.9."] = "adam"
    weight_decay: Annotated[Share, "Weight decay of the optimizer, on all weights."] = 0.0
    label_smoothing: Annotated[ShareBelowOne, "Share of the target spread over all classes."] = 0.0
    augmentation: Annotated[Augmentation, "Changes to the training images."] = Augmentation()


def _derive(parent: str, change: str, **fields: Any) -> Variant:
    """Return the variant ``parent`` with one change; ``fields`` are those of ``Variant``."""
    return replace(VARIANTS[parent], parent=parent, change=change, **fields)


VARIANTS = {
    "baseline": Variant(
        change="LeNet-5 with ReLU and max-pooling",
        channels=(6, 16),
        hidden_units=(120, 84),
        batch_norm=False,
        halve_learning_rate_every=None,
    )
}
VARIANTS["v1"] = _derive(
    "baseline", "the learning rate is halved every 5 epochs", halve_learning_rate_every=5
)
VARIANTS["v2"] = _derive("v1", "32 and 64 convolution channels instead of 6 and 16", channels=(32, 64))
VARIANTS["v3"] = _derive("v2", "200 and 140 hidden units instead of 120 and 84", hidden_units=(200, 140))
VARIANTS["v4"] = _derive("v3", "batch norm after every convolution and hidden layer", batch_norm=True)


def parameter_count(variant: Variant) -> int:
    """Return the number of trainable parameters of a model, auxiliary heads included.

    >>> parameter_count(VARIANTS["v4"])
    481458
    """
    (first, second), (wide, narrow) = variant.channels, variant.hidden_units
    features = second * 5 * 5
    convolutions = first * (25 + 1) + second * (25 * first + 1)
    heads = 10 * (first * 14 * 14 + 1) + 10 * (features + 1)
    classifier = wide * (features + 1) + narrow * (wide + 1) + 10 * (narrow + 1)
    norms = 2 * (first + second + wide + narrow) if variant.batch_norm else 0
    return convolutions + heads + classifier + norms


def multiply_adds(variant: Variant) -> int:
    """Return the multiplications and additions of one image's pass, as torchinfo counts them.

    A convolution counts each of its weights and biases once for every output pixel, any other layer once.
    The auxiliary heads are included. The published "Total mult-adds (Units.MEGABYTES)" is this in millions.

    >>> multiply_adds(VARIANTS["v4"])
    6208050
    """
    first, second = variant.channels
    convolutions = first * (25 + 1), second * (25 * first + 1)
    elsewhere = parameter_count(variant) - sum(convolutions)
    return convolutions[0] * 28 * 28 + convolutions[1] * 10 * 10 + elsewhere
