"""Constraints of a field that annotated-types has no name for; they stand in its ``Annotated[...]``.

A declaration reads ``name: Annotated[type, constraint, "Its meaning."] = default``: the command line, both
MLproject files, the checks of recipe files and a run's params follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OneOf:
    """The value is one of these; for choices that a ``Literal`` cannot list, such as the variants."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Matches:
    """The whole value matches a regular expression; ``cure`` tells the user what it allows."""

    pattern: str
    cure: str
