"""The scale of a model's images; the command line, which cannot wait for torch, reads it here."""

from __future__ import annotations

from typing import Annotated, Literal

Scale = Literal["unit", "normalised", "symmetric"]
Inputs = Annotated[
    Literal["auto", "unit", "normalised", "symmetric"],
    "Images of a foreign TorchScript file: from 0 to 1, normalised by the training images' mean and "
    "deviation, or from -1 to 1; auto finds out on validation images.",
]
