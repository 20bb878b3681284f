"""The five models of the study: each is its parent plus one change.

Adding a variant is one entry in ``VARIANTS``; every command, picture and test that runs over the
table then covers it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """What tells one variant from another.

    Attributes:
        change: One sentence: what differs from the parent.
        channels: Output channels of the two 5x5 convolutions.
        hidden_units: Units of the two hidden fully connected layers.
        batch_norm: Whether batch norm follows each convolution and each hidden layer.
        halve_learning_rate_every: Epochs between halvings of the learning rate; None keeps it constant.
    """

    change: str
    channels: tuple[int, int]
    hidden_units: tuple[int, int]
    batch_norm: bool
    halve_learning_rate_every: int | None


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
    """The variant that ``name`` was derived from; None for the first.

    >>> parent_of("v2")
    'v1'
    """
    names = list(VARIANTS)
    position = names.index(name)
    return names[position - 1] if position else None
