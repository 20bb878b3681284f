"""The models of the study: each is its parent plus one change.

Adding a variant is one entry in ``VARIANTS``; every command, picture and test that runs over the
table then covers it. A searched model is another ``Variant``, without a row in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

Optimizer = Literal["adam", "adamw", "sgd"]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Width = Annotated[int, Interval(ge=1, le=4096)]  # channels or units of a layer
STRICT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}  # pydantic's, for recipe files


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly training images are varied; the defaults are the report's."""

    __pydantic_config__: ClassVar = STRICT
    flip: Annotated[Share, "Probability of mirroring left and right."] = 0.25
    jitter: Annotated[Share, "Brightness and contrast factors lie in [1 - jitter, 1 + jitter]."] = 0.2
    autocontrast: Annotated[Share, "Probability of stretching the grey levels to their full range."] = 0.2
    solarize: Annotated[Share, "Probability of inverting the grey levels at or above 15."] = 0.2
    shift: Annotated[int, Interval(ge=0, le=14), "Pixels an image may move each way; black moves in."] = 0
    erase: Annotated[Share, "Probability of blackening a rectangle."] = 0.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What tells one model from another."""

    __pydantic_config__: ClassVar = STRICT
    change: Annotated[str, "One sentence: what differs from the parent."]
    parent: Annotated[str | None, "The variant that it was derived from."] = None
    channels: Annotated[tuple[Width, Width], "Output channels of the two 5x5 convolutions."]
    hidden_units: Annotated[tuple[Width, Width], "Units of the two hidden fully connected layers."]
    batch_norm: Annotated[bool, "Whether batch norm follows each convolution and hidden layer."]
    halve_learning_rate_every: Annotated[
        Annotated[int, Ge(1)] | None, "Epochs between halvings of the learning rate; None never halves it."
    ]
    cosine_annealing: Annotated[bool, "Whether the learning rate falls along a half cosine to zero."] = False
    dropout: Annotated[ShareBelowOne, "Probability of dropping an input of a classifier's layer."] = 0.0
    optimizer: Annotated[Optimizer, "Adam, AdamW, or SGD with a Nesterov momentum of 0.9."] = "adam"
    weight_decay: Annotated[Share, "The optimizer's, on all weights."] = 0.0
    label_smoothing: Annotated[ShareBelowOne, "Share of the target spread over all classes."] = 0.0
    augmentation: Annotated[Augmentation, "Of the training images."] = Augmentation()


_BASELINE = Variant(
    change="LeNet-5 with ReLU and max-pooling",
    channels=(6, 16),
    hidden_units=(120, 84),
    batch_norm=False,
    halve_learning_rate_every=None,
)
_V1 = replace(
    _BASELINE,
    parent="baseline",
    change="the learning rate is halved every 5 epochs",
    halve_learning_rate_every=5,
)
_V2 = replace(
    _V1, parent="v1", change="32 and 64 convolution channels instead of 6 and 16", channels=(32, 64)
)
_V3 = replace(
    _V2, parent="v2", change="200 and 140 hidden units instead of 120 and 84", hidden_units=(200, 140)
)
_V4 = replace(_V3, parent="v3", change="batch norm after every convolution and hidden layer", batch_norm=True)

VARIANTS = {"baseline": _BASELINE, "v1": _V1, "v2": _V2, "v3": _V3, "v4": _V4}


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
