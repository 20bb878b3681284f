"""The machine on which something was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from lenet_study.training.hardware import cores


def machine() -> dict[str, object]:
    """Return the time, the processor and what runs on it."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }


def processor() -> str:
    """Return the processor's name, as Linux knows it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
