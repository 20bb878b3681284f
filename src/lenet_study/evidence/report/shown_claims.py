"""Claims as the report reads them, and the order and signs of verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class ShownClaim(Protocol):
    """What the report reads of a judged claim; numbers are NaN where there are none."""

    @property
    def id(self) -> str:
        """Name of the claim, fit for an address."""

    @property
    def title(self) -> str:
        """A few words."""

    @property
    def quotation(self) -> str:
        """The published words."""

    @property
    def published(self) -> str:
        """The published figure in words."""

    @property
    def ours(self) -> str:
        """Our figure in words."""

    @property
    def value(self) -> float:
        """Our figure."""

    @property
    def low(self) -> float:
        """Lower end of our interval; infinite if it is unknown."""

    @property
    def high(self) -> float:
        """Upper end of it."""

    @property
    def published_value(self) -> float:
        """The published figure."""

    @property
    def verdict(self) -> str:
        """One of ``VERDICTS``; another word is shown as it is."""

    @property
    def sentence(self) -> str:
        """Why, in one sentence."""

    @property
    def run_ids(self) -> Sequence[str]:
        """Runs that our figure was computed from."""

    @property
    def missing(self) -> Sequence[str]:
        """Runs that are not there, in words."""

    @property
    def commands(self) -> Sequence[str]:
        """Commands that make them."""

    @property
    def over(self) -> str:
        """What the interval is over, such as seeds."""


@dataclass(frozen=True)
class Verdict:
    """How a verdict is shown."""

    sign: str  # a second cue beside the colour
    kind: str  # class of the stylesheet
    phrase: str  # after a number of claims, in the report's first sentence


NO_BREAK = "\u00a0"  # a number stays with what it counts
VERDICTS: Mapping[str, Verdict] = {  # as they are listed: what needs attention first
    "not reproduced": Verdict("✗", "failed", "not reproduced"),
    "not distinguishable": Verdict("?", "undecided", "undecided"),
    "not measured": Verdict("…", "open", "not measured"),
    "reproduced with a caveat": Verdict("≈", "caveat", "with a caveat"),
    "reproduced": Verdict("✓", "reproduced", "reproduced"),
}


def shown_as(verdict: str) -> Verdict:
    """Return how a verdict is shown; a word that is not in the table counts as not measured."""
    return VERDICTS.get(verdict, VERDICTS["not measured"])


def in_order(claims: Sequence[ShownClaim]) -> list[ShownClaim]:
    """Return claims as they are listed: failed and undecided first, then in the order of the claims."""
    ranks = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
    return sorted(claims, key=lambda claim: ranks.get(claim.verdict, 0))


def counts(claims: Sequence[ShownClaim]) -> dict[Verdict, int]:
    """Return the numbers of claims by verdict, the best first, without those that no claim has."""
    numbers = Counter(shown_as(claim.verdict) for claim in claims)
    return {verdict: numbers[verdict] for verdict in [*VERDICTS.values()][::-1] if numbers[verdict]}


def headline(claims: Sequence[ShownClaim]) -> str:
    """Return the result in one sentence."""
    if not claims:
        return "No claim has been judged yet."
    numbers = counts(claims)
    reproduced = numbers.pop(VERDICTS["reproduced"], 0)
    others = "".join(f", {number}{NO_BREAK}{verdict.phrase}" for verdict, number in numbers.items())
    verb = "was" if reproduced == 1 else "were"
    return f"{reproduced} of {len(claims)} published claims {verb} reproduced{others}."
