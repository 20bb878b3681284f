"""Command-line options from declarations: annotated fields of dataclasses, and arguments of commands.

A field reads ``name: Annotated[type, constraint, "Its meaning."] = default``. Nothing but the standard
library and click is imported, so that help and refused values answer at once.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

import click

from lenet_study.recipes.constraints import Folder, Matches, OneOf, folder_problem


class PlainNumber(click.ParamType[Any]):
    """Refuses what Python would read as a number, though a run's params would then say something else."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse other scripts' digits, underscores and spaces."""
        if isinstance(value, str) and not re.fullmatch(r"[0-9A-Za-z.+-]+", value):
            self.fail(f"{value!a} is not a valid {self.name}: write it in the digits 0 to 9", param, ctx)
        return super().convert(value, param, ctx)


class WholeNumber(PlainNumber, click.IntRange):
    """A whole number within a range."""

    name = "whole number"


class FiniteNumber(PlainNumber, click.FloatRange):
    """A finite number within a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan and inf, which compare as if they were in range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class Text(click.ParamType[str]):
    """A text that a file's name and a store can hold."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse control characters, and surrogates: Python's form of bytes that are no UTF-8."""
        if re.search("[\x00-\x1f\x7f\ud800-\udfff]", value):
            self.fail(f"{value!a} holds a character that cannot be written: leave it out", param, ctx)
        return str(value)


class FolderPath(Text):
    """A path of a folder, or of one that can be made."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is there and is no folder."""
        path = super().convert(value, param, ctx)
        try:
            path = str(Path(path).expanduser()) if path else ""
        except RuntimeError:
            self.fail(f"{path!r} is in no known home folder: write it in full", param, ctx)
        if path and (problem := folder_problem(path)):
            self.fail(f"{path!r} ({problem}): name a folder", param, ctx)
        return path


class Pattern(click.ParamType[str]):
    """A text that matches a regular expression."""

    name = "text"

    def __init__(self, constraint: Matches) -> None:
        self._constraint = constraint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what does not match."""
        if not re.fullmatch(self._constraint.pattern, value):
            self.fail(f"{value!r}: {self._constraint.cure}", param, ctx)
        return str(value)


def options_of(declaration: Callable[..., Any]) -> dict[str, click.Option]:
    """Return the options of a command or dataclass by parameter: its own, and those of its dataclasses."""
    hints = typing.get_type_hints(declaration, include_extras=True)
    options: dict[str, click.Option] = {}
    for name, parameter in inspect.signature(declaration).parameters.items():
        nested = is_dataclass(hint := hints[name])
        options |= options_of(hint) if nested else {name: _option(name, hint, parameter.default)}
    return options


def call(declaration: Callable[..., Any], /, **values: Any) -> Any:
    """Call a command, or make a dataclass, with the values of its parameters."""
    hints = typing.get_type_hints(declaration, include_extras=True)
    arguments = {}
    for name in inspect.signature(declaration).parameters:
        nested = is_dataclass(hint := hints[name])
        arguments[name] = call(hint, **values) if nested else values[name]
    return declaration(**arguments)


def _option(name: str, hint: Any, default: Any) -> click.Option:
    """Build the option of one parameter; the last text among its annotations is its meaning."""
    annotations = list(getattr(hint, "__metadata__", ()))
    meanings = [annotation for annotation in annotations if isinstance(annotation, str)]
    return click.Option(
        ["--" + name.replace("_", "-"), name],
        type=_click_type(hint.__origin__ if annotations else hint, annotations),
        help=meanings[-1] if meanings else "",
        show_default=default != "",
        **({"required": True} if default is inspect.Parameter.empty else {"default": default}),
    )


def _click_type(kind: Any, annotations: list[Any]) -> click.ParamType[Any]:
    """Return the click type of a Python type with its constraints."""
    if typing.get_origin(kind) is Literal:
        return click.Choice(typing.get_args(kind))
    for annotation in annotations:
        if isinstance(annotation, OneOf):
            return click.Choice(annotation.values)
        if isinstance(annotation, Matches):
            return Pattern(annotation)
        if isinstance(annotation, Folder):
            return FolderPath()
    if kind in (int, float):
        return (WholeNumber if kind is int else FiniteNumber)(**_bounds(annotations))
    return {bool: click.BOOL, str: Text()}[kind]


def _bounds(annotations: list[Any]) -> dict[str, Any]:
    """Return click's names for the bounds that annotated-types declares, several in an Interval."""
    bounds: dict[str, Any] = {}
    for annotation in annotations:
        for name, end in {"ge": "min", "gt": "min", "le": "max", "lt": "max"}.items():
            if (bound := getattr(annotation, name, None)) is not None:
                bounds |= {end: bound, f"{end}_open": name in ("gt", "lt")}
    return bounds
