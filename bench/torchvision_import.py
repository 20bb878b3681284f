"""The one place that knows about torchvision's binary operators."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_schemas: list[torch.library.Library] = []  # a schema lives as long as its Library object


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its wheel was built for another torch than the installed one.

    The default wheel of torchvision is built for CUDA. Next to a CPU-only torch its extension does not
    load, and its Python code then fails while registering shape rules for operators nobody declared.
    Declaring the two operators cures it; nothing in this project ever calls them.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.append(library)
    return importlib.import_module("torchvision")
