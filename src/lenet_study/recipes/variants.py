"""The five models of the study: each is its parent plus one change.

Adding a variant is one entry in ``VARIANTS``; every command, picture and test that runs over the
table then covers it. A searched model is another ``VariantSpec``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Optimizer = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly training images are varied; the defaults are the report's.

    Attributes:
        flip: Probability of mirroring left and right.
        jitter: Brightness and contrast factors lie in [1 - jitter, 1 + jitter].
        autocontrast: Probability of stretching the grey levels to their full range.
        solarize: Probability of inverting the grey levels at or above 15.
        shift: Pixels that an image may move in each direction; black moves in.
        erase: Probability of blackening a rectangle.
    """

    flip: float = 0.25
    jitter: float = 0.2
    autocontrast: float = 0.2
    solarize: float = 0.2
    shift: int = 0
    erase: float = 0.0


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """What tells one variant from another.

    Attributes:
        change: One sentence: what differs from the parent.
        channels: Output channels of the two 5x5 convolutions.
        hidden_units: Units of the two hidden fully connected layers.
        batch_norm: Whether batch norm follows each convolution and each hidden layer.
        halve_learning_rate_every: Epochs between halvings of the learning rate; None never halves it.
        cosine_annealing: Whether the learning rate falls along a half cosine towards zero.
        dropout: Probability of dropping an input of a fully connected layer of the classifier.
        optimizer: Adam, AdamW, or SGD with a Nesterov momentum of 0.9.
        weight_decay: The optimiser's, on all parameters.
        label_smoothing: Share of the target probability that is spread over all classes.
        augmentation: Of the training images.
    """

    change: str
    channels: tuple[int, int]
    hidden_units: tuple[int, int]
    batch_norm: bool
    halve_learning_rate_every: int | None
    cosine_annealing: bool = False
    dropout: float = 0.0
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = Augmentation()


_BASELINE = VariantSpec(
    change="LeNet-5 with ReLU and max-pooling",
    channels=(6, 16),
    hidden_units=(120, 84),
    batch_norm=False,
    halve_learning_rate_every=None,
)
_V1 = replace(_BASELINE, change="the learning rate is halved every 5 epochs", halve_learning_rate_every=5)
_V2 = replace(_V1, change="32 and 64 convolution channels instead of 6 and 16", channels=(32, 64))
_V3 = replace(_V2, change="200 and 140 hidden units instead of 120 and 84", hidden_units=(200, 140))
_V4 = replace(_V3, change="batch norm after every convolution and hidden layer", batch_norm=True)

VARIANTS = {"baseline": _BASELINE, "v1": _V1, "v2": _V2, "v3": _V3, "v4": _V4}


def parent_of(name: str) -> str | None:
    """The variant that ``name`` was derived from; None for the first, and for what is no variant.

    >>> parent_of("v2")
    'v1'
    """
    names = list(VARIANTS)
    return dict(zip(names[1:], names, strict=False)).get(name)


def parameters(spec: VariantSpec) -> int:
    """Trainable parameters of a model, auxiliary heads included.

    >>> parameters(VARIANTS["v4"])
    481458
    """
    (first, second), (wide, narrow) = spec.channels, spec.hidden_units
    features = second * 5 * 5
    convolutions = first * (25 + 1) + second * (25 * first + 1)
    heads = 10 * (first * 14 * 14 + 1) + 10 * (features + 1)
    classifier = wide * (features + 1) + narrow * (wide + 1) + 10 * (narrow + 1)
    norms = 2 * (first + second + wide + narrow) if spec.batch_norm else 0
    return convolutions + heads + classifier + norms
