"""Where a command computes, and what makes it come out the same again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from lenet_study.errors import UserError


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The parameters that choose the hardware.

    Attributes:
        device: ``cpu``, ``cuda``, or ``auto``: cuda where there is one.
        threads: Threads of the processor; 0 takes all cores it may use. Other counts round differently, so
            the count is part of a result's identity.
    """

    device: str = "auto"
    threads: int = 0

    def prepare(self) -> torch.device:
        """Set this process up for repeatable computation.

        Raises:
            UserError: cuda was asked for and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda needs an NVIDIA GPU that torch can see: use device=cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable matrix products
        torch.use_deterministic_algorithms(True)
        # Guards against reading memory that nothing was written to, at the price of 5 to 10 % of the time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
        torch.set_num_threads(self.threads or cores())
        has_cuda = self.device != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if has_cuda else "cpu")


def share(machine: Machine, workers: int) -> tuple[int, Machine]:
    """Divide the processor among jobs that run side by side.

    Args:
        machine: What one job was given; without a number of threads it gets its share of the cores.
        workers: Jobs at a time; 0 takes as many as the cores allow.

    Returns:
        Jobs at a time, and the machine of each.
    """
    workers = workers or max(1, cores() // (machine.threads or 1))
    return workers, replace(machine, threads=machine.threads or max(1, cores() // workers))


def tags(device: torch.device) -> dict[str, object]:
    """What was prepared, for the tags of a run."""
    return {"machine.device": device, "machine.threads": torch.get_num_threads()}
