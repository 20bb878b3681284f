"""The scorecard of a study: every claim of the published one, judged, as a table and in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lenet_study.evidence import claim_rules as rules
from lenet_study.evidence.claim_rules import ClaimVerdict
from lenet_study.evidence.claims import Claims, load_claims
from lenet_study.evidence.judgement import ORDER, JudgedClaim, judge_claim
from lenet_study.evidence.results import StudyResults

SIGNS = {
    ClaimVerdict.REPRODUCED: "✓",
    ClaimVerdict.CAVEAT: "(✓)",
    ClaimVerdict.UNDECIDED: "?",
    ClaimVerdict.FAILED: "✗",
    ClaimVerdict.UNMEASURED: "–",
}
NOTE_LIMIT = 8000  # characters of a run's note in MLflow, which cuts the rest off silently


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """All claims of a published study, judged on the results of one of ours."""

    claims: Claims
    judged: tuple[JudgedClaim, ...]  # failed and undecided first
    seeds: int
    caveats: tuple[str, ...]  # in which the study's protocol differs from the published one

    @property
    def counts(self) -> Mapping[ClaimVerdict, int]:
        """Number of claims by verdict."""
        counted = Counter(judged.verdict for judged in self.judged)
        return {verdict: counted[verdict] for verdict in ORDER}

    @property
    def false_alarms(self) -> float:
        """Number of figures to expect outside their 95 % intervals if all were true.

        Fewer of them count as not reproduced: only those that are also farther than delta.
        """
        figures = [one for one in self.judged if one.claim.kind == "figure" and math.isfinite(one.low)]
        return (1 - rules.CONFIDENCE) * len(figures)

    @property
    def summary(self) -> str:
        """The counts in one sentence."""
        counts = self.counts
        text = f"{counts[ClaimVerdict.REPRODUCED]} of {len(self.judged)} claims reproduced"
        words = {
            ClaimVerdict.CAVEAT: "with a caveat",
            ClaimVerdict.UNDECIDED: "not distinguishable",
            ClaimVerdict.FAILED: "not reproduced",
            ClaimVerdict.UNMEASURED: "not measured",
        }
        text += "".join(f", {counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict])
        return f"{text}; {self.seeds} seed{'' if self.seeds == 1 else 's'}"

    @property
    def alarm_sentence(self) -> str:
        """What chance alone does, in words."""
        return (
            f"Were all figures true, {self.false_alarms:.1f} would by chance lie outside their intervals; "
            "a family of comparisons holds a false one with a probability of at most 5 %."
        )

    def table(self) -> pd.DataFrame:
        """Return a row for each claim; run ids and missing runs are divided by spaces and semicolons."""
        return pd.DataFrame(
            {
                "id": one.id,
                "title": one.title,
                "kind": one.claim.kind,
                "verdict": one.verdict.value,
                "published": one.published,
                "ours": one.ours,
                "published_value": one.published_value,
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "over": one.over,
                "sentence": one.sentence,
                "run_ids": " ".join(one.run_ids),
                "missing": "; ".join(one.missing),
                "commands": "; ".join(one.commands),
            }
            for one in self.judged
        )

    def markdown(self) -> str:
        """Return the whole scorecard in Markdown."""
        lines = [*self._head(), "| | claim | published | ours | verdict | why |", "|---|---|---|---|---|---|"]
        for one in self.judged:
            cells = (one.title, one.published, one.ours, one.verdict.value, one.sentence)
            lines.append(f"| {SIGNS[one.verdict]} | {' | '.join(map(_cell, cells))} |")
        return "\n".join([*lines, "", *self._missing()]) + "\n"

    def brief(self, limit: int = NOTE_LIMIT) -> str:
        """Return the scorecard in Markdown of less than so many characters: what did not come out first."""
        lines = [*self._head(), "| | claim | published | ours |", "|---|---|---|---|"]
        rows = [
            f"| {SIGNS[one.verdict]} | {_cell(one.title)} | {_cell(one.published)} | {_cell(one.ours)} |"
            for one in self.judged
        ]
        legend = ", ".join(f"{SIGNS[verdict]} {verdict.value}" for verdict in reversed(ORDER))
        while True:
            more = len(self.judged) - len(rows)
            tail = [f"\n… and {more} more." if more else "", f"\n{legend}."]
            text = "\n".join([*lines, *rows, *tail]) + "\n"
            if len(text) < limit or not rows:
                return text[: limit - 1]
            rows.pop()

    def _head(self) -> list[str]:
        head = [f"**{self.summary}.**", "", self.alarm_sentence, ""]
        if self.caveats:
            head += [f"The protocol differs from the published one: {'; '.join(self.caveats)}.", ""]
        return head

    def _missing(self) -> list[str]:
        commands = dict.fromkeys(command for one in self.judged for command in one.commands)
        if not commands:
            return []
        return ["What is missing is made by", "", "```bash", *commands, "```"]


def scorecard(results: StudyResults, claims: Claims | None = None) -> Scorecard:
    """Judge all claims, by default those of the published study of the five models."""
    claims = claims or load_claims()
    caveats = _protocol_caveats(claims, results)
    judged = [judge_claim(claim, results, caveats) for claim in claims.claims]
    judged.sort(key=lambda one: ORDER.index(one.verdict))  # stable: else as in the file
    trained = results.trainings[results.trainings["stage"] == "train"]
    return Scorecard(
        claims=claims, judged=tuple(judged), seeds=int(trained["seed"].nunique()), caveats=caveats
    )


def _protocol_caveats(claims: Claims, results: StudyResults) -> tuple[str, ...]:
    """Return in words which of the study's params differ from the published ones."""
    return tuple(
        f"{name} is {results.facts[name]}, published {published:g}"
        for name, published in claims.protocol.items()
        if name in results.facts and not _equals(results.facts[name], published)
    )


def _equals(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def _cell(text: str) -> str:
    """Return text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
