"""What a run was computed with: its packages and, in a container, its image."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path

from lenet_study.errors import UserError

REQUIREMENTS = Path(__file__).parents[3] / "requirements.txt"
IMAGE = "LENET_STUDY_IMAGE"  # id of the image, told to a container by what starts it
COMMIT = "LENET_STUDY_COMMIT"  # that an image was built from


@functools.cache
def freeze() -> str:
    """The installed packages as ``pip freeze`` lists them, one ``name==version`` a line."""
    installed = {
        each.name.lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()
    }
    own = "lenet-study"  # what it is, the commit tells
    return "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()) if name != own)


def tags() -> dict[str, str]:
    """Python's version, SHA-256 sums of the packages' list and of requirements.txt, the image's id."""
    found = {
        "environment.python": sys.version.split()[0],
        "environment.sha256": _digest(freeze().encode()),
    }
    if REQUIREMENTS.is_file():
        found["environment.requirements.sha256"] = _digest(REQUIREMENTS.read_bytes())
    if image := os.environ.get(IMAGE):
        found["environment.image"] = image
    return found


def check(requirements: Path) -> None:
    """Compare the installed packages with the pinned ones; a build tag such as ``+cpu`` does not count.

    Args:
        requirements: A file of lines ``name==version``.

    Raises:
        UserError: A package is missing or has another version.
    """
    installed = dict(line.split("==") for line in freeze().splitlines())
    for line in requirements.read_text(encoding="utf-8").split():
        name, _, version = line.partition("==")
        found = installed.get(name, "nothing").partition("+")[0]
        if found != version:
            raise UserError(f"{requirements.name} wants {line}, but {found} is installed: install it again")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    check(Path(sys.argv[1]))
