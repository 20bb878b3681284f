"""The origin of a run: its commit, its packages and, in a container, its image."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lenet_study.errors import UserError
from lenet_study.tracking.environment import environment
from lenet_study.tracking.schema import File, Tag
from lenet_study.tracking.working_tree import Changes, changes

ROOT = Path(__file__).resolve().parents[3]  # of the project's checkout
_PACKAGE = Path(__file__).parents[1]
_ROOMS = ("recipes", "training")  # rooms whose code decides a training's weights
IMAGE = "LENET_STUDY_IMAGE"  # id of the image, told to a container by what starts it
COMMIT = "LENET_STUDY_COMMIT"  # that an image was built from
_OWN = "lenet-study"  # its version tells less than the commit


@functools.cache
def freeze() -> str:
    """List the installed packages as ``pip freeze`` does, one ``name==version`` a line."""
    installed: dict[str, str] = {}
    for package in importlib.metadata.distributions():  # of two, the first on the path is imported
        installed.setdefault(package.name.lower().replace("_", "-"), package.version)
    return "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()) if name != _OWN)


@functools.cache
def code_digest(package: Path = _PACKAGE) -> str:
    """Return the SHA-256 sum of the code that decides a training's weights."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((package / room).rglob("*.py")):
            digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


code_digest()  # of the code that this process has loaded: files may change while it works


def provenance_tags(root: Path = ROOT) -> dict[str, str]:
    """Return the tags that tell a run's commit and environment; ``root`` is that of the checkout."""
    tags = {**git_tags(root), **environment_tags(root)}
    if left_out := _changes(tags, root).left_out:
        tags[Tag.GIT_CHANGES] = left_out
    return tags


def provenance_files(tags: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """Return the content of the files that tell a run's origin, by their names; ``tags`` are its own."""
    files: dict[str, str] = {
        File.ENVIRONMENT: freeze(),
        File.PROVENANCE: json.dumps(environment(), indent=2) + "\n",
    }
    if patch := _changes(tags, root).patch:
        files[File.CHANGES] = patch
    return files


def _changes(tags: Mapping[str, str], root: Path) -> Changes:
    """Return the uncommitted changes of a run with these tags."""
    if tags.get(Tag.GIT_DIRTY) != "true":
        return Changes()
    return Changes(left_out="they are in its image alone") if COMMIT in os.environ else changes(root)


def environment_tags(root: Path = ROOT) -> dict[str, str]:
    """Return Python's version, sums of packages, code and requirements.txt, and the image's id."""
    tags: dict[str, str] = {
        Tag.PYTHON: platform.python_version(),
        Tag.PACKAGES_SHA256: _sha256(freeze().encode()),
        Tag.CODE_SHA256: code_digest(),
    }
    if (requirements := root / "requirements.txt").is_file():
        tags[Tag.REQUIREMENTS_SHA256] = _sha256(requirements.read_bytes())
    if image := os.environ.get(IMAGE):
        tags[Tag.IMAGE] = image
    return tags


def git_tags(root: Path = ROOT) -> dict[str, str]:
    """Return the commit and whether the tree is dirty; nothing where neither git nor the image knows."""
    if built_from := os.environ.get(COMMIT):
        if built_from == "unknown":
            return {}
        dirty = str(built_from.endswith("-dirty")).lower()
        return {Tag.GIT_COMMIT: built_from.removesuffix("-dirty"), Tag.GIT_DIRTY: dirty}

    try:
        commit, changes = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True).stdout
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {Tag.GIT_COMMIT: commit.strip(), Tag.GIT_DIRTY: str(bool(changes)).lower()}


def check_packages(requirements: Path) -> None:
    """Refuse packages that differ from the pins."""
    for line, present in differing_packages(requirements).items():
        raise UserError(f"{requirements.name} wants {line}, but {present} is installed: install it again")


def differing_packages(requirements: Path) -> dict[str, str]:
    """Return the lines ``name==version`` that the installed packages differ from, and what is installed.

    A build tag (``+cpu``) does not count.
    """
    installed = dict(line.split("==") for line in freeze().splitlines())
    differing = {}
    for line in requirements.read_text(encoding="utf-8").split():
        name, _, version = line.partition("==")
        present = installed.get(name, "nothing").partition("+")[0]
        if present != version:
            differing[line] = present
    return differing


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    check_packages(Path(sys.argv[1]))
