"""Declarations as options: types, ranges, choices and meanings become click's."""

from dataclasses import dataclass
from typing import Annotated, Literal

import click
import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt

from lenet_study.cli.parameters import call, options_of
from lenet_study.recipes.constraints import Matches, OneOf

Meaning = Annotated[int, Ge(1), "General meaning."]


@dataclass(frozen=True, kw_only=True)
class Choices:
    size: Annotated[int, Interval(ge=1, lt=10), "Size of it."] = 3
    rate: Annotated[float, Gt(0), "Rate of it."] = 0.5


def command(
    choices: Choices,
    word: Annotated[str, Matches(r"[a-z]{1,3}", "use up to 3 letters"), "A word."] = "abc",
    kind: Annotated[str, OneOf(("one", "two")), "Which kind."] = "one",
    mode: Annotated[Literal["x", "y"], "Which mode."] = "x",
    switch: Annotated[bool, "Whether."] = False,
    count: Annotated[Meaning, "Meaning here."] = 2,
    plain: str = "",
) -> None:
    """Do it."""
    RECEIVED.append((choices, word, kind, mode, switch, count, plain))


RECEIVED = []
OPTIONS = options_of(command)


def parse(*arguments, function=command):
    """Values that click makes of a command line."""
    options = options_of(function).values()
    return click.Command("command", params=[*options]).make_context("command", list(arguments)).params


def test_fields_of_dataclasses_and_arguments_are_parameters_in_their_order():
    names = ["size", "rate", "word", "kind", "mode", "switch", "count", "plain"]
    assert list(OPTIONS) == names
    defaults = [3, 0.5, "abc", "one", "x", False, 2, ""]
    assert [option.default for option in OPTIONS.values()] == defaults
    assert parse() == dict(zip(names, defaults, strict=True))


def test_the_last_text_is_the_meaning():
    meanings = {name: option.help for name, option in OPTIONS.items()}
    assert meanings["size"] == "Size of it."
    assert meanings["count"] == "Meaning here."
    assert meanings["plain"] == ""


def test_a_flag_has_dashes_and_the_parameter_keeps_its_name():
    def trains(learning_rate: float = 0.1) -> None:
        """Train."""

    option = options_of(trains)["learning_rate"]
    assert (option.opts, option.name) == (["--learning-rate"], "learning_rate")


@pytest.mark.parametrize(
    ("option", "accepted", "refused"),
    [
        ("--size", {"1": 1, "9": 9, "05": 5}, ["0", "10", "2.5", "true", "", "x"]),
        ("--rate", {"1e-9": 1e-9, "7": 7.0}, ["0", "-1", "nan", "inf", "-inf", "x", ""]),
        ("--word", {"a": "a", "xyz": "xyz"}, ["", "abcd", "a b", "A", "abc\n"]),
        ("--kind", {"two": "two"}, ["three", "", "One"]),
        ("--mode", {"y": "y"}, ["z", "", "X"]),
        ("--switch", {"true": True, "True": True, "1": True, "false": False}, ["maybe", "2"]),
        ("--count", {"1": 1, "1000000000": 10**9}, ["0"]),
        ("--plain", {"": "", "any thing": "any thing"}, []),
    ],
)
def test_values_in_range_are_converted_and_others_refused(option, accepted, refused):
    name = option.removeprefix("--")
    for text, value in accepted.items():
        parsed = parse(option, text)[name]
        assert parsed == value
        assert type(parsed) is type(value)
    for text in refused:
        with pytest.raises(click.BadParameter) as error:
            parse(option, text)
        assert name in error.value.format_message()


@pytest.mark.parametrize(
    ("constraints", "bounds"),
    [
        ([Ge(1)], (1, False, None, False)),
        ([Gt(1)], (1, True, None, False)),
        ([Le(5)], (None, False, 5, False)),
        ([Lt(5)], (None, False, 5, True)),
        ([Ge(1), Lt(5)], (1, False, 5, True)),
        ([Interval(ge=0, le=14)], (0, False, 14, False)),
        ([Interval(gt=0, lt=1)], (0, True, 1, True)),
        ([], (None, False, None, False)),
    ],
)
@pytest.mark.parametrize("kind", [int, float])
def test_bounds_become_clicks(kind, constraints, bounds):
    def bounded(value=1):
        pass

    bounded.__annotations__["value"] = Annotated.__class_getitem__((kind, *constraints, "It."))
    click_type = options_of(bounded)["value"].type
    assert isinstance(click_type, click.IntRange if kind is int else click.FloatRange)
    assert (click_type.min, click_type.min_open, click_type.max, click_type.max_open) == bounds


def test_a_refused_word_tells_the_cure():
    with pytest.raises(click.BadParameter, match="use up to 3 letters"):
        parse("--word", "abcd")


def test_a_call_passes_dataclasses_and_arguments():
    call(command, **parse("--size", "7", "--word", "xy", "--switch", "true"))
    assert RECEIVED.pop() == (Choices(size=7), "xy", "one", "x", True, 2, "")


def test_a_parameter_without_default_has_to_be_given():
    def needs(folder: Annotated[str, "Where."]) -> None:
        """Do it."""

    assert options_of(needs)["folder"].required
    assert parse("--folder", "x", function=needs) == {"folder": "x"}
    with pytest.raises(click.MissingParameter) as error:
        parse(function=needs)
    assert "--folder" in error.value.format_message()
