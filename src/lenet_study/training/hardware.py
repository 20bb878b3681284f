"""Where a command computes, and what makes it come out the same again.

torch is imported when it is needed: the command line reads the declaration and has to answer at once.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from lenet_study.errors import UserError

if TYPE_CHECKING:
    import torch

# libgomp's threads wait for each other by spinning, which starves them beside busy processes: v4's step
# beside two took 112 ms with libgomp's own count, 37 with this one; idle 13.3 and 13.2 (docs/performance.md).
SPIN_COUNT = "10000"
_CPUINFO = Path("/proc/cpuinfo")
Workers = Annotated[int, Interval(ge=0, le=1024), "Trainings side by side; 0 takes as many as fit the cores."]


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor(device: torch.device) -> str:
    """Return the model and vector instructions of what computes: the last bits depend on them."""
    import torch  # noqa: PLC0415

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    model = next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where to compute.

    One thread by default, so that the same recipe and seed give the same bits alone and beside others:
    another count rounds differently, and is part of a result's identity.
    """

    device: Annotated[Literal["auto", "cpu", "cuda"], "auto: cuda if there is one."] = "auto"
    threads: Annotated[
        int,
        Interval(ge=0, le=1024),
        "Processor threads of each training; more are faster alone and give other bits; 0: all cores.",
    ] = 1

    def prepare(self) -> torch.device:
        """Set this process up for repeatable computation; refuse cuda where there is none."""
        import torch  # noqa: PLC0415

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda needs an NVIDIA GPU that torch can see: use device=cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable matrix products
        torch.use_deterministic_algorithms(True)
        # Guards against reading memory that nothing was written to, at the price of 5 to 10 % of the time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
        torch.set_num_threads(self.threads or cores())
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


def limit_spinning() -> None:
    """Keep several threads usable beside busy processes; to be called before torch is imported.

    A choice that the environment makes itself (OMP_WAIT_POLICY, GOMP_SPINCOUNT) stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def divide_cores(hardware: Hardware, workers: int) -> tuple[int, Hardware]:
    """Return how many jobs run at a time, and the hardware of each; threads=0 gives each its share."""
    workers = workers or max(1, cores() // (hardware.threads or 1))
    return workers, replace(hardware, threads=hardware.threads or max(1, cores() // workers))
