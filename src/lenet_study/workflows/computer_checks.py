"""Checks of `doctor`: the installation, the data, and what the computer has to offer."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from lenet_study.tracking.provenance import ROOT, differing_packages, git_tags
from lenet_study.tracking.schema import Tag
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import cores
from lenet_study.workflows.finding import Finding

PYTHON = (3, 11)  # pyproject.toml's requires-python
INSTALL = "`python -m pip install -r requirements.txt`"
TRAINING_MEMORY = 2**30  # bytes; the peak of a training is 960 MiB (docs/performance.md)
NO_ROOM = 64 * 2**20  # bytes; a training with its checkpoints, pictures and model takes some 10 MiB
LITTLE_ROOM = 2**30  # bytes; a run's spool may grow to that while its store is away


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """Compare Python's version with the one that the packages are pinned for."""
    sentence = f"Python {version[0]}.{version[1]}"
    if version == PYTHON:
        return Finding(name="python", sentence=sentence)
    cure = "`make clean setup PYTHON=python3.11`"
    return Finding(name="python", state="problem", sentence=f"{sentence} instead of 3.11", cure=cure)


def packages(requirements: Path = ROOT / "requirements.txt") -> Finding:
    """Compare the installed packages with the pins."""
    if not requirements.is_file():
        sentence, cure = f"{requirements} is missing", "work in a checkout of the project"
        return Finding(name="packages", state="warning", sentence=sentence, cure=cure)
    differing = differing_packages(requirements)
    if not differing:
        return Finding(name="packages", sentence=f"as {requirements} wants them")
    sentence = "; ".join(f"{pin} is wanted, {present} installed" for pin, present in differing.items())
    cure = INSTALL.replace("requirements.txt", str(requirements))
    return Finding(name="packages", state="problem", sentence=sentence, cure=cure)


def torchvision(
    version: Callable[[str], str] = importlib.metadata.version,
    requires: Callable[[str], list[str] | None] = importlib.metadata.requires,
) -> Finding:
    """Compare torch with the version that torchvision was built for.

    torchvision is not imported: beside a torch for processors alone its default wheel raises "operator
    torchvision::nms does not exist", which harms nothing here.
    """
    name, torch = "torch", version("torch")
    try:
        present, wanted = version("torchvision"), map(Requirement, requires("torchvision") or ())
    except importlib.metadata.PackageNotFoundError:
        sentence = f"torch {torch} without torchvision"
        return Finding(name=name, state="problem", sentence=sentence, cure=INSTALL)
    sentence = f"torch {torch} with torchvision {present}"
    if all(each.specifier.contains(torch, prereleases=True) for each in wanted if each.name == "torch"):
        return Finding(name=name, sentence=sentence)
    return Finding(name=name, state="problem", sentence=f"{sentence}, built for another torch", cure=INSTALL)


def data(files: DataFiles) -> Finding:
    """Check the sums of the data; raise as ``DataFiles.verify``, but fetch nothing."""
    if missing := files.missing():
        sentence = f"{', '.join(missing)} not in {files.folder}"
        return Finding(
            name="data", state="warning", sentence=sentence, cure="`lenet-study data` fetches them"
        )
    return Finding(name="data", sentence=f"{files.verify()}, with the published sums")


def disk(folder: Path, free: int | None = None) -> Finding:
    """Compare the free bytes of a folder's disk with what work writes."""
    folder = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free if free is None else free
    name, sentence = f"disk of {folder}", f"{free / 2**20:,.0f} MiB free"
    if free >= LITTLE_ROOM:
        return Finding(name=name, sentence=sentence)
    state = "problem" if free < NO_ROOM else "warning"
    return Finding(name=name, state=state, sentence=sentence, cure="make room there")  # type: ignore[arg-type]


def memory(available: int | None = None, workers: int | None = None) -> Finding:
    """Compare the available bytes of memory with what a study's trainings take side by side."""
    available = psutil.virtual_memory().available if available is None else available
    workers = workers or cores()
    sentence = f"{available / 2**30:.1f} GiB available, {workers} trainings at once take 1 GiB each"
    if available >= workers * TRAINING_MEMORY:
        return Finding(name="memory", sentence=sentence)
    state = "problem" if available < TRAINING_MEMORY else "warning"
    cure = f"end other programs, or work with workers={max(1, available // TRAINING_MEMORY)}"
    return Finding(name="memory", state=state, sentence=sentence, cure=cure)  # type: ignore[arg-type]


def port(number: int, use: str) -> Finding:
    """Look whether a port of this host is free; one that is taken may be ours, and is no problem."""
    name = f"port {number}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            sentence, cure = f"taken{_owner(number)}", f"end that program, or give {use} another --port"
            return Finding(name=name, state="warning", sentence=sentence, cure=cure)
    return Finding(name=name, sentence=f"free for {use}")


def _owner(number: int) -> str:
    """Return which process listens on a port, in words; empty where the system does not tell."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == "LISTEN" and connection.laddr.port == number and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def git(root: Path = ROOT) -> Finding:
    """Look whether runs can tell their commit."""
    tags = git_tags(root)
    if not tags:
        sentence = f"runs cannot tell their commit: git is missing, or cannot read {root}"
        cure = f"install git and clone the project; `git -C {root} status` says more"
        return Finding(name="git", state="warning", sentence=sentence, cure=cure)
    commit = f"commit {tags[Tag.GIT_COMMIT][:12]}"
    if tags[Tag.GIT_DIRTY] == "false":
        return Finding(name="git", sentence=commit)
    sentence = f"{commit}, with uncommitted changes"
    return Finding(name="git", state="warning", sentence=sentence, cure="commit them before what must repeat")


def docker(command: tuple[str, ...] = ("docker", "version", "--format", "{{.Server.Version}}")) -> Finding:
    """Look whether Docker's daemon answers within 5 s; images alone need it."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError) as error:
        sentence = f"its daemon does not answer ({type(error).__name__}); only images need it"
        return Finding(name="docker", state="warning", sentence=sentence, cure="start the daemon, if need be")
    return Finding(name="docker", sentence=f"version {answer.stdout.strip()}")
