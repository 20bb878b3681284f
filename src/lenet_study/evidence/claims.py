"""The claims of a published study: one data file, strictly checked.

Another study is another file of the same form; ``claims.toml`` is the one of the five LeNet-5 models.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from lenet_study.errors import UserError
from lenet_study.evidence.comparison import MARGIN
from lenet_study.evidence.measures import MEASURES, Stage
from lenet_study.evidence.statements import STATEMENTS
from lenet_study.evidence.verdicts import DELTA
from lenet_study.recipes.variants import STRICT, VARIANTS
from lenet_study.training.model import CLASSES

CLAIMS_FILE = Path(__file__).with_name("claims.toml")
Kind = Literal["figure", "comparison", "about_equal", "structure", "qualitative"]


@dataclass(frozen=True, kw_only=True)
class Against:
    """The other side of a comparison; what is empty is as on the claim's own side."""

    __pydantic_config__: ClassVar = STRICT
    variants: tuple[str, ...] = ()  # every one of them
    stage: Stage | Literal[""] = ""
    metric: str = ""
    like_for_like: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a published study, and how to judge it."""

    __pydantic_config__: ClassVar = STRICT
    id: str
    title: str  # in our words, short
    quotation: str  # in the report's words
    section: str  # the heading that it stands under
    kind: Kind
    variants: tuple[str, ...]  # it must hold for every one of them
    stage: Stage = "train"
    metric: str = ""  # one of ``MEASURES``; empty for a qualitative claim
    like_for_like: str = ""  # the metric that we measure as the report does, where that is another
    against: Against | None = None
    figure: float | None = None  # published; a share, nats, epochs …; of a comparison the difference
    averaged: int = 1  # trainings that the figure is the mean of, such as its folds
    digits: int | None = None  # decimals to which it was published; None for an exact one
    delta: float | None = None  # the difference that matters; None takes the default for shares
    margin: float = 0.0  # that a comparison must exceed, such as for "a big increase"
    statement: str = ""  # of a qualitative claim: one of ``STATEMENTS``
    classes: tuple[str, ...] = ()  # that the statement is about
    caveat: str = ""  # why ours is not measured like for like
    explanation: str = ""  # what of the published code explains a difference
    command: str = ""  # that makes its runs; empty takes the file's

    @property
    def measured(self) -> str:
        """The metric of ours that is judged."""
        return self.like_for_like or self.metric

    @property
    def other_side(self) -> tuple[str, str]:
        """Stage and metric of the other side."""
        against = self.against or Against()
        metric = against.like_for_like or against.metric or self.measured
        return against.stage or self.stage, metric

    @property
    def tolerance(self) -> float:
        """The difference that matters to it."""
        default = MARGIN if self.kind == "comparison" else DELTA
        return default if self.delta is None else self.delta

    @property
    def half_digit(self) -> float:
        """Half of the published figure's last digit; 0 for an exact one."""
        return 0.0 if self.digits is None else 0.5 * 10.0**-self.digits


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The claims of one published study."""

    __pydantic_config__: ClassVar = STRICT
    title: str  # of the study
    source: str  # where it was published
    command: str  # that makes the runs of most claims
    protocol: dict[str, float]  # params of its trainings, by name
    claims: tuple[Claim, ...]


def load_claims(path: Path = CLAIMS_FILE) -> Claims:
    """Read a file of claims.

    Raises:
        UserError: The file cannot be read, or a field of it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"claims={path} cannot be read ({error}): name a file of claims") from error
    return parse_claims(text, f"claims={path}")


def parse_claims(text: str, where: str) -> Claims:
    """Return the claims that a file's text describes, or refuse it; ``where`` names the file."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is no TOML ({error}): mend the file") from error
    content["claims"] = content.pop("claim", [])
    claims = _validate(content, where)
    for problem in _problems(claims):
        raise UserError(f"{where}: {problem}")
    filled = tuple(replace(claim, command=claim.command or claims.command) for claim in claims.claims)
    return replace(claims, claims=filled)


def _validate(content: dict[str, Any], where: str) -> Claims:
    import pydantic  # noqa: PLC0415 -- 0.1 s, which help and refused values do not need

    try:
        # As JSON: pydantic takes a list for a tuple from JSON, and refuses it from Python.
        return pydantic.TypeAdapter(Claims).validate_json(json.dumps(content, default=str))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        value = "" if first["type"] == "missing" else f"={first['input']!r:.80}"
        field = _in_words(first["loc"], content["claims"])
        raise UserError(f"{where}: {field}{value} is refused ({first['msg']}): mend the file") from error


def _in_words(location: Sequence[int | str], claims: Any) -> str:
    """Return where a field stands, a claim by its id if it has one."""
    parts = ["claim" if part == "claims" else str(part) for part in location]
    if len(location) > 1 and isinstance(number := location[1], int) and isinstance(claims[number], dict):
        parts[1] = str(claims[number].get("id", number))
    return ".".join(parts)


def _problems(claims: Claims) -> Iterator[str]:
    """Yield what is wrong, in sentences without their full stop."""
    if not claims.claims:
        yield "it holds no [[claim]]: add one"
    for name, count in Counter(claim.id for claim in claims.claims).items():
        if count > 1:
            yield f"id={name} stands {count} times: rename all but one"
    for claim in claims.claims:
        yield from (f"claim.{claim.id}.{problem}" for problem in _problems_of(claim))


def _problems_of(claim: Claim) -> Iterator[str]:
    for name in ("id", "title", "quotation", "section", "variants"):
        if not getattr(claim, name):
            yield f"{name} is empty: fill it in"
    yield from _unknown("variants", [*claim.variants, *(claim.against or Against()).variants], VARIANTS)
    yield from _unknown("classes", claim.classes, CLASSES)
    qualitative = claim.kind == "qualitative"
    if qualitative:
        yield from _unknown("statement", [claim.statement], STATEMENTS)
        yield from _problems_of_statement(claim)
    else:
        metrics = [claim.metric, claim.measured, claim.other_side[1]]
        yield from _unknown("metric", metrics, MEASURES)
        yield from _problems_of_metric(claim)
    for name, wanted in _NEEDED[claim.kind].items():
        value = getattr(claim, name)
        if wanted and value in (None, (), ""):
            yield f"{name} is missing: a claim of kind {claim.kind} needs it"
        if not wanted and value not in (None, (), "", 0.0):
            yield f"{name}={value!r:.80} is of no use to a claim of kind {claim.kind}: remove it"
    if claim.digits is not None and not 0 <= claim.digits <= 9:
        yield f"digits={claim.digits} is not between 0 and 9: count the decimals of the published figure"
    if len(claim.variants) > 1 and (claim.kind in ("figure", "qualitative") or _is_spread(claim)):
        yield f"variants={', '.join(claim.variants)}: such a claim is about one; write one for each"
    if claim.delta is not None and claim.delta <= 0:
        yield f"delta={claim.delta} is not above 0: write the difference that matters"


# Fields that a kind needs (True) or does not know (False).
_NEEDED: dict[str, dict[str, bool]] = {
    "figure": {"figure": True, "against": False, "margin": False, "statement": False, "classes": False},
    "comparison": {"against": True, "statement": False, "classes": False},
    "about_equal": {"margin": False, "statement": False, "classes": False},
    "structure": {"figure": True, "against": False, "delta": False, "margin": False, "statement": False},
    "qualitative": {"metric": False, "figure": False, "delta": False, "margin": False, "statement": True},
}


def _problems_of_metric(claim: Claim) -> Iterator[str]:
    measure, (stage, metric) = MEASURES[claim.measured], claim.other_side
    if (measure.source == "variant") != (claim.kind == "structure"):
        yield f"metric={claim.measured} does not fit kind={claim.kind}: structural claims are about variants"
    if MEASURES[metric].unit != measure.unit:
        yield f"against.metric={metric} is not measured in {measure.unit}: compare like with like"
    if claim.kind != "structure" and measure.unit != "share" and claim.delta is None:
        yield f"delta is missing: write the difference that matters, in {measure.unit}"
    same_variants = claim.against and {*claim.variants} & {*(claim.against.variants or claim.variants)}
    if same_variants and (stage, metric) == (claim.stage, claim.measured):
        yield "against is the claim's own side: name other variants, or another stage or metric"
    if claim.kind == "comparison" and "fold" in (claim.stage, stage):
        yield "stage=fold has no partners among the seeds: compare train or retrain, or write about_equal"
    if _is_spread(claim) and claim.stage != "fold":
        yield f"against is missing: only folds (stage={claim.stage}) are equal among themselves"


def _problems_of_statement(claim: Claim) -> Iterator[str]:
    statement = STATEMENTS[claim.statement]
    if len(claim.classes) != statement.classes:
        yield f"classes has {len(claim.classes)} names: {claim.statement} takes {statement.classes}"
    if statement.compares != bool(claim.against):
        verb = "needs" if statement.compares else "knows no"
        yield f"against: statement={claim.statement} {verb} other side"


def _is_spread(claim: Claim) -> bool:
    """Whether it claims that values are about equal among themselves."""
    return claim.kind == "about_equal" and claim.against is None


def _unknown(field: str, values: Any, known: Any) -> Iterator[str]:
    for value in values:
        if value not in known:
            yield f"{field}={value!r:.80} is unknown: write one of {', '.join(known)}"
