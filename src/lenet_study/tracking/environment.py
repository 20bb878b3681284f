"""What a process computes with: processor, libraries, threads, and variables that decide the last bits."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from os import environ
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info

from lenet_study.tracking.store import redact
from lenet_study.training.hardware import processor

# Of values and of changes; what only looks like a secret is left out, too: a leak costs more.
SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{20,}|\bhf_\w{30,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}"
    r"|://[^/\s@'\"]+@|(?i:bearer) [\w.~+/-]{16,}"
    r"|(?i:(?:passw(?:or)?d|secret|token|api[_-]?key)[\w-]*[\"']?\s*[:=]\s*"
    r"(?:[\"'][^\"']{6,}[\"']|(?=[^\s\"'()]*\d)[^\s\"'()]{6,}(?!\S)))"
    r"|(?i:--[\w-]*(?:password|secret|token|api-key)[\w-]*\s+\S+|\bpassword\s+\S{6,})"
)
_VARIABLES = re.compile(
    r"(?:OMP|GOMP|KMP|MKL|ONEDNN|DNNL|OPENBLAS|TORCH|PYTORCH|CUBLAS|CUDNN)_\w+"
    r"|ATEN_CPU_CAPABILITY|NVIDIA_TF32_OVERRIDE|CUDA_VISIBLE_DEVICES"
)
# They decide where and how soon, not what; libraries set some of them when they are imported.
_NO_BITS = (
    "CUDA_VISIBLE_DEVICES",
    "GOMP_SPINCOUNT",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "OMP_WAIT_POLICY",
    "TORCH_HOME",
)
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")  # that images, splits and weights go through
_INSTRUCTIONS = re.compile(r"sse4_\d|avx\w*|fma\w*|amx\w*|f16c|asimd\w*|sve\w*|i8mm|bf16")
_LEFT_OUT = "left out: it looks like a secret"
_NO_LIBRARY = ("Build settings", "CPU capability")  # beginnings of lines about torch
_CPUINFO = Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """Return what this process computes with, as JSON can hold it; the part ``deciding`` decides bits."""
    return {
        "command": command_line(sys.argv),
        "host": {"kernel": f"{platform.system()} {platform.release()}", "architecture": platform.machine()},
        "libraries": _libraries(),
        "variables": variables(environ),
        "deciding": deciding(),
    }


def deciding() -> dict[str, str]:
    """Return the facts that decide the last bits of a training, but for device and code, by their names."""
    settings = {f"variable {name}": value for name, value in variables(environ).items()}
    for name in _NO_BITS:
        settings.pop(f"variable {name}", None)
    return {
        "processor": processor(torch.device("cpu")),
        **_constants(),
        "threads": str(torch.get_num_threads()),
        **settings,
    }


def command_line(arguments: list[str]) -> str:
    """Return a command as typed, without passwords in addresses and what looks like a secret.

    >>> command_line(["lenet-study", "search", "--storage", "postgresql://me:secret@host/name"])
    'lenet-study search --storage postgresql://host/name'
    """
    redacted = (
        re.sub(r"[A-Za-z][\w+.-]*://\S+", lambda address: redact(address[0]), word) for word in arguments
    )
    return shlex.join(f"({_LEFT_OUT})" if SECRET.search(word) else word for word in redacted)


def variables(values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that matter to libraries of computation, by their names."""
    return {
        name: _LEFT_OUT if SECRET.search(f"{name}={value}") else value
        for name, value in sorted(values.items())
        if _VARIABLES.fullmatch(name)
    }


def variables_to_repeat(recorded: Mapping[str, str]) -> dict[str, str]:
    """Return those of recorded variables that decide bits, for a process that is to compute the same."""
    return {name: value for name, value in recorded.items() if name not in _NO_BITS and value != _LEFT_OUT}


@functools.cache
def _constants() -> dict[str, str]:
    """Return what cannot change while a process lives."""
    build = [line.strip(" -") for line in torch.__config__.show().splitlines()[1:]]
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "libc": " ".join(platform.libc_ver()),
        # MKL, oneDNN, OpenMP, LAPACK and CUDA; the instruction set in use is the processor's.
        "torch's libraries": "; ".join(line for line in build if not line.startswith(_NO_LIBRARY)),
        "instructions": " ".join(sorted(filter(_INSTRUCTIONS.fullmatch, flags))),
    }


def _libraries() -> list[dict[str, Any]]:
    """Return BLAS and OpenMP libraries in memory: their versions, kinds and numbers of threads."""
    return [
        {**library, "filepath": "/".join(Path(library["filepath"]).parts[-2:])}
        for library in threadpool_info()
    ]
