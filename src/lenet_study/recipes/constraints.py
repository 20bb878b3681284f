"""Constraints of a field that annotated-types has no name for; they stand in its ``Annotated[...]``.

A declaration reads ``name: Annotated[type, constraint, "Its meaning."] = default``: the command line, both
MLproject files, the checks of recipe files and a run's params follow from it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OneOf:
    """The value is one of these; for choices that a ``Literal`` cannot list, such as the variants."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Matches:
    """The whole value matches a regular expression; ``cure`` tells the user what it allows."""

    pattern: str
    cure: str


@dataclass(frozen=True)
class Folder:
    """The value is the path of a folder, or of one that can be made; empty for a default."""


def folder_problem(path: str) -> str:
    """Return why a path is neither that of a folder nor of one that can be made; empty if it is.

    >>> folder_problem("/dev/null/x")
    'Not a directory'
    """
    try:
        problem = "" if stat.S_ISDIR(Path(path).stat().st_mode) else "Not a directory"
    except FileNotFoundError:
        problem = "a link to nothing" if os.path.lexists(path) else ""
    except OSError as error:
        problem = str(error.strerror)
    return problem
