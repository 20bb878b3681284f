"""Claims judged on the results of a study: each with its verdict, and all that the verdict rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lenet_study.evidence import claim_rules as rules
from lenet_study.evidence.claim_rules import ClaimVerdict, Ruling
from lenet_study.evidence.claims import Claim
from lenet_study.evidence.intervals import welch_interval
from lenet_study.evidence.measures import (
    EVALUATE,
    MEASURES,
    OF_VARIANT,
    STAGE_WORDS,
    Sample,
    sample,
    trainings_of,
)
from lenet_study.evidence.published import published_predictions
from lenet_study.evidence.results import StudyResults
from lenet_study.evidence.statements import SHARE, STATEMENTS, support
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.model import CLASSES

ORDER = tuple(ClaimVerdict)  # failed and undecided first


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """A claim with its verdict, and all that the verdict rests on."""

    claim: Claim
    verdict: ClaimVerdict
    published: str  # in words
    ours: str  # in words; empty if there is none
    published_value: float  # NaN if the claim has no figure
    value: float  # ours: a mean, a difference, a share of resamples; NaN if there is none
    low: float  # of the 95 % interval around it; NaN if there is none, infinite if it is unknown
    high: float
    over: str  # what the interval is over
    sentence: str  # why the verdict is what it is
    run_ids: tuple[str, ...] = ()  # of the trainings
    missing: tuple[str, ...] = ()  # runs that are not there
    commands: tuple[str, ...] = ()  # that make them
    seeds_needed: int | None = None

    @property
    def id(self) -> str:
        """The claim's name."""
        return self.claim.id

    @property
    def title(self) -> str:
        """The claim in our words."""
        return self.claim.title

    @property
    def quotation(self) -> str:
        """The claim in the report's words."""
        return self.claim.quotation


def judge_claim(claim: Claim, results: StudyResults, caveats: Sequence[str] = ()) -> JudgedClaim:
    """Judge one claim; ``caveats`` are those of the study's protocol."""
    judge = {
        "figure": _figure,
        "comparison": _comparison,
        "about_equal": _about_equal,
        "structure": _structure,
        "qualitative": _qualitative,
    }[claim.kind]
    judged = judge(claim, results)
    if claim.kind == "structure" or judged.verdict is ClaimVerdict.UNMEASURED:
        return judged
    return _with_caveats(judged, [*([claim.caveat] if claim.caveat else []), *caveats])


def _with_caveats(judged: JudgedClaim, caveats: Sequence[str]) -> JudgedClaim:
    """Return a judged claim whose verdict and sentence name why it is not like for like."""
    sentence, verdict = judged.sentence, judged.verdict
    if caveats:
        sentence += f" Not like for like: {'; '.join(caveats)}."
        verdict = ClaimVerdict.CAVEAT if verdict is ClaimVerdict.REPRODUCED else verdict
    if judged.claim.explanation and verdict in (ClaimVerdict.CAVEAT, ClaimVerdict.FAILED):
        sentence += f" {judged.claim.explanation}"
    return replace(judged, verdict=verdict, sentence=sentence)


# ---- the kinds of claims ----


def _figure(claim: Claim, results: StudyResults) -> JudgedClaim:
    measure, (variant,) = MEASURES[claim.measured], claim.variants
    ours, published = sample(results, variant, claim.stage, claim.measured), _published_figure(claim)
    assert claim.figure is not None, "the file was checked"
    if ours.values.empty:
        return _unmeasured(claim, published, [ours])
    ruling = rules.judge_figure(
        ours.values.tolist(),
        claim.figure,
        half_digit=claim.half_digit,
        delta=claim.tolerance,
        like_for_like=not claim.caveat,
        averaged=claim.averaged,
    )
    value, over = measure.text(ruling.value), _over(ours, claim.stage)
    sentence = f"{value} over {over}"
    if interval := _interval(measure.text, ruling):
        further = f"the mean of {claim.averaged} further ones" if claim.averaged > 1 else "a further one"
        sentence += f"; {further} would lie within {interval}"
    if ruling.side:
        away = measure.difference(claim.figure - ruling.value)
        compared = "less" if ruling.verdict is ClaimVerdict.CAVEAT else "more"
        sentence += f", and the published {published} is {away} away, {compared} than what matters"
    elif interval:
        sentence += f", as does the published {published}"
    return _judged(claim, ruling, published, value, over, sentence, [ours])


def _comparison(claim: Claim, results: StudyResults) -> JudgedClaim:
    measure, sides = MEASURES[claim.measured], _sides(claim, results)
    samples = [side for _, *both in sides for side in both]
    published = _published_difference(claim, "higher" if measure.better > 0 else "lower")
    differences = {pair: measure.better * _paired(one, other) for pair, one, other in sides}
    if any(values.empty for values in differences.values()):
        return _unmeasured(claim, published, samples)
    rulings = {pair: _compare(claim, results, pair, values) for pair, values in differences.items()}
    pair = min(rulings, key=lambda pair: (ORDER.index(rulings[pair].verdict), -rulings[pair].p_value))
    ruling, values = rulings[pair], differences[pair]
    wins = int((values > claim.margin).sum())
    sentence = (
        f"{_named(claim, pair)}: {measure.difference(ruling.value)} in the mean, as claimed in {wins} of "
        f"{_count(len(values), 'seed')}, Holm's p {ruling.p_value:.2g}, sign-flip p {ruling.flip_p_value:.2g}"
    )
    if interval := _interval(measure.difference, ruling):
        sentence += f", {interval}"
    if claim.margin:
        sentence += f"; more than {measure.difference(claim.margin)} is claimed"
    if len(rulings) > 1:
        sentence += f"; the least certain of {len(rulings)} pairs"
    ours, over = measure.difference(ruling.value), _pairs_over(claim, len(values))
    return _judged(claim, ruling, published, ours, over, sentence, samples)


def _compare(claim: Claim, results: StudyResults, pair: tuple[str, str], differences: pd.Series) -> Ruling:
    """Judge one pair; the ruling's figures are plain differences, negative where the first is lower."""
    family, size = _family(claim, results, pair)
    ruling = rules.judge_comparison(
        (differences - claim.margin).tolist(),
        band=claim.tolerance,
        overlap=_overlap(claim),
        family=family,
        family_size=size,
    )
    sign = MEASURES[claim.measured].better
    low, high = sorted(sign * (end + claim.margin) for end in (ruling.low, ruling.high))
    return replace(ruling, value=sign * (ruling.value + claim.margin), low=low, high=high)


def _about_equal(claim: Claim, results: StudyResults) -> JudgedClaim:
    published = _published_difference(claim, "about equal")
    if claim.against is None:
        return _spread(claim, results, published)
    measure, sides = MEASURES[claim.measured], _sides(claim, results)
    samples = [side for _, *both in sides for side in both]
    rulings = {pair: _equality(claim, one, other) for pair, one, other in sides}
    decided = {pair: ruling for pair, ruling in rulings.items() if ruling}
    if len(decided) < len(rulings):
        return _unmeasured(claim, published, samples)
    pair = min(decided, key=lambda pair: (ORDER.index(decided[pair].verdict), -abs(decided[pair].value)))
    ruling = decided[pair]
    sentence = f"{_named(claim, pair)}: {measure.difference(ruling.value)} in the mean"
    if interval := _interval(measure.difference, ruling):
        sentence += f", {interval}"
    sentence += f"; within ±{measure.difference(claim.tolerance)[1:]} they count as equal"
    if len(rulings) > 1:
        sentence += f"; the farthest apart of {len(rulings)} pairs"
    if _is_unpaired(claim):
        over = f"{_over(samples[0], claim.stage)} and {_over(samples[1], claim.other_side[0])}"
    else:
        over = _pairs_over(claim, len(_paired(*samples[:2])))
    return _judged(claim, ruling, published, measure.difference(ruling.value), over, sentence, samples)


def _equality(claim: Claim, one: Sample, other: Sample) -> Ruling | None:
    """Judge two sides, by seeds in pairs where that can be; None if there is nothing to judge."""
    if _is_unpaired(claim):
        if one.values.empty or other.values.empty:
            return None
        low, high = welch_interval(one.values.tolist(), other.values.tolist())
        value = float(one.values.mean() - other.values.mean())
        return rules.judge_equality(low, high, value, claim.tolerance)
    differences = _paired(one, other)
    if differences.empty:
        return None
    return rules.judge_paired_equality(differences.tolist(), delta=claim.tolerance, overlap=_overlap(claim))


def _is_unpaired(claim: Claim) -> bool:
    """Whether one side are the folds of one seed, which have no partners among the seeds."""
    return "fold" in (claim.stage, claim.other_side[0])


def _spread(claim: Claim, results: StudyResults, published: str) -> JudgedClaim:
    """Judge whether folds are about equal among themselves."""
    measure, (variant,) = MEASURES[claim.measured], claim.variants
    ours = sample(results, variant, claim.stage, claim.measured)
    if len(ours.values) < 2:
        return _unmeasured(claim, published, [ours])
    ruling = rules.judge_spread(ours.values.tolist(), delta=claim.tolerance)

    def text(value: float) -> str:
        return measure.difference(value)[1:]  # a deviation has no sign

    sentence = (
        f"The standard deviation is {text(ruling.value)}, {_interval(text, ruling)}; up to "
        f"{text(claim.tolerance)} they count as equal"
    )
    over = _over(ours, claim.stage)
    return _judged(claim, ruling, published, f"± {text(ruling.value)}", over, sentence, [ours])


def _structure(claim: Claim, results: StudyResults) -> JudgedClaim:
    """Judge a claim about models themselves, which needs no run; runs that were measured must agree, too."""
    assert claim.figure is not None, "the file was checked"
    values = {variant: OF_VARIANT[claim.metric](VARIANTS[variant]) for variant in claim.variants}
    run_ids: list[str] = []
    for variant in claim.variants:
        trainings = trainings_of(results, variant, "train")
        run_ids.extend(trainings.index)
        if claim.metric in trainings:
            logged = trainings[claim.metric].dropna()
            values |= {f"run {run_id}": float(value) for run_id, value in logged.items()}
    farthest = max(values, key=lambda name: abs(values[name] - float(claim.figure or 0)))
    ruling = rules.judge_structure(values[farthest], claim.figure, claim.half_digit)
    equal = ruling.verdict is ClaimVerdict.REPRODUCED
    ours, published = _with_digits(claim, ruling.value), _published_figure(claim)
    sentence = f"{ours}, as published" if equal else f"{farthest} has {ours}, published {published}"
    judged = _judged(claim, ruling, published, ours, "the model itself", sentence, [])
    return replace(judged, run_ids=tuple(run_ids))


def _qualitative(claim: Claim, results: StudyResults) -> JudgedClaim:
    statement, (variant,) = STATEMENTS[claim.statement], claim.variants
    stages = [claim.stage, *([claim.other_side[0]] if statement.compares else [])]
    sides = [_predictions(claim, results, variant, stage) for stage in stages]
    tables = [tables for tables, _ in sides]
    common = sorted(set.intersection(*(set(side) for side in tables)))
    samples = [side for _, side in sides]
    published = _published_statement(claim)
    if not common:
        return _unmeasured(claim, published, samples)
    shown = [[side[seed] for seed in common] for side in tables]
    others = shown[1] if statement.compares else ()
    bootstrap = support(statement, shown[0], claim.classes, others)
    ruling = rules.judge_share(bootstrap.share, SHARE)
    over = f"{_count(len(common), 'seed')} × {len(shown[0][0]):,} images"
    sentence = f"{bootstrap.words}; {100 * bootstrap.share:.1f} % of the resamples of {over} bear it out"
    if len(common) == 1:
        sentence += "; one training is no sample of seeds"
        if ruling.verdict is ClaimVerdict.REPRODUCED:
            ruling = replace(ruling, verdict=ClaimVerdict.CAVEAT)
    return _judged(claim, ruling, published, bootstrap.words, over, sentence, samples)


def _predictions(
    claim: Claim, results: StudyResults, variant: str, stage: str
) -> tuple[dict[int, pd.DataFrame], Sample]:
    """Return the predictions of a variant by seed, and what of them there is and is missing."""
    ours = sample(results, variant, stage, STATEMENTS[claim.statement].metric)
    tables = {
        int(seed): results.predictions[run_id]
        for seed, run_id in zip(ours.values.index, ours.run_ids, strict=True)
        if run_id in results.predictions
    }
    lacking = [run_id for run_id in ours.run_ids if run_id not in results.predictions]
    missing = (*ours.missing, *(f"predictions of run {run_id}" for run_id in lacking))
    commands = (*ours.commands, *(EVALUATE.format(run_id=run_id) for run_id in lacking))
    kept = ours.values[ours.values.index.isin(list(tables))]
    run_ids = tuple(run_id for run_id in ours.run_ids if run_id not in lacking)
    return tables, Sample(kept, run_ids, missing, commands)


def _published_statement(claim: Claim) -> str:
    """Return the figure behind a statement, of the published weights; "stated" where there are none."""
    statement, (variant,) = STATEMENTS[claim.statement], claim.variants
    table = published_predictions()
    if statement.compares or statement.metric != "test_accuracy" or variant not in table:
        return "stated"
    names = np.array(CLASSES)
    predicted = pd.DataFrame({"true": names[table["label"]], "predicted": names[table[variant]]})
    return support(statement, [predicted], claim.classes, resamples=1).words


# ---- what they share ----


def _sides(claim: Claim, results: StudyResults) -> list[tuple[tuple[str, str], Sample, Sample]]:
    """Return each pair of variants with the values of both; the second is empty if both are the same one."""
    (stage, metric), others = claim.other_side, (claim.against.variants if claim.against else ()) or ("",)
    return [
        (
            (variant, other),
            sample(results, variant, claim.stage, claim.measured),
            sample(results, other or variant, stage, metric),
        )
        for variant, other in itertools.product(claim.variants, others)
    ]


def _named(claim: Claim, pair: tuple[str, str]) -> str:
    """Return in words which difference it is: of two variants, or of two kinds of figures of one."""
    if pair[1]:
        return f"Difference of {pair[0]} and {pair[1]}"
    stage, metric = claim.other_side
    if metric != claim.measured:
        return f"Difference of {MEASURES[claim.measured].meaning} and {MEASURES[metric].meaning}, {pair[0]}"
    return f"Difference of {pair[0]} {STAGE_WORDS[claim.stage]} and {STAGE_WORDS[stage]}"


def _paired(one: Sample, other: Sample) -> pd.Series:
    """Return the differences of two sides, by the seeds that both have."""
    return (one.values - other.values).dropna().sort_index()


def _overlap(claim: Claim) -> float:
    """Return the ratio for the variance of differences: plain where both sides share the test images."""
    return max(MEASURES[metric].overlap for metric in (claim.measured, claim.other_side[1]))


def _family(claim: Claim, results: StudyResults, pair: tuple[str, str]) -> tuple[list[float], int]:
    """Return the p-values of the other comparisons in a pair's family, and the family's size.

    The planned family are the steps from parent to child; any other pair of variants belongs to that of all
    pairs, which is exploratory. A comparison within one variant is alone.
    """
    if not pair[1]:
        return [], 1
    steps = [(name, variant.parent) for name, variant in VARIANTS.items() if variant.parent]
    pairs = [frozenset(step) for step in steps]
    if frozenset(pair) not in pairs:
        pairs = [frozenset(two) for two in itertools.combinations(VARIANTS, 2)]
    p_values = []
    for two in pairs:
        if two != frozenset(pair):
            sides = (sample(results, variant, claim.stage, claim.measured) for variant in sorted(two))
            differences = _paired(*sides)
            if not differences.empty:
                p_values.append(rules.comparison_p_value(differences.tolist(), _overlap(claim)))
    return p_values, len(pairs)


def _judged(
    claim: Claim,
    ruling: Ruling,
    published: str,
    ours: str,
    over: str,
    sentence: str,
    samples: Sequence[Sample],
) -> JudgedClaim:
    if ruling.verdict is ClaimVerdict.UNDECIDED and claim.kind != "qualitative":
        sentence += f"; {_what_decides(claim, ruling)}"
    missing = _unique(missing for one in samples for missing in one.missing)
    return JudgedClaim(
        claim=claim,
        verdict=ruling.verdict,
        published=published,
        ours=ours,
        published_value=_or_nan(claim.figure),
        value=ruling.value,
        low=ruling.low,
        high=ruling.high,
        over=over,
        sentence=f"{sentence}.",
        run_ids=_unique(run_id for one in samples for run_id in one.run_ids),
        missing=missing,
        commands=_commands(claim, samples, missing),
        seeds_needed=ruling.seeds_needed,
    )


def _unmeasured(claim: Claim, published: str, samples: Sequence[Sample]) -> JudgedClaim:
    missing = _unique(missing for one in samples for missing in one.missing)
    missing = missing or ("runs of equal seeds on both sides",)
    return JudgedClaim(
        claim=claim,
        verdict=ClaimVerdict.UNMEASURED,
        published=published,
        ours="",
        published_value=_or_nan(claim.figure),
        value=math.nan,
        low=math.nan,
        high=math.nan,
        over="",
        sentence=f"There is no run of it yet: {'; '.join(missing)}.",
        run_ids=_unique(run_id for one in samples for run_id in one.run_ids),
        missing=missing,
        commands=_commands(claim, samples, missing),
    )


def _commands(claim: Claim, samples: Sequence[Sample], missing: Sequence[str]) -> tuple[str, ...]:
    """Return what makes the missing runs: evaluations of trainings that there are, or the claim's command."""
    evaluations = _unique(command for one in samples for command in one.commands)
    others = len(missing) > len(evaluations)
    return (*evaluations, *([claim.command] if others else []))


def _what_decides(claim: Claim, ruling: Ruling) -> str:
    if not math.isfinite(ruling.high):
        return f"a single seed shows no spread, and {rules.PLANNED_SEEDS} are planned"
    if ruling.seeds_needed:
        return f"about {ruling.seeds_needed} seeds would decide it"
    if claim.stage == "fold":
        return "more folds would decide it"
    return "no number of seeds would decide it: the trainings vary too much, or share too many images"


def _interval(text: Callable[[float], str], ruling: Ruling) -> str:
    """Return a 95 % interval in words; empty if it is unknown."""
    if not math.isfinite(ruling.low) or not math.isfinite(ruling.high):
        return ""
    return f"{text(ruling.low)} to {text(ruling.high)} (95 %)"


def _over(ours: Sample, stage: str) -> str:
    """Return what values are over, in words."""
    return _count(len(ours.values), "fold" if stage == "fold" else "seed")


def _pairs_over(claim: Claim, count: int) -> str:
    """Return what paired differences are over, in words."""
    fixed = ", on the same test images" if _overlap(claim) == 0 else ""
    return f"{_count(count, 'seed')} in pairs{fixed}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _published_figure(claim: Claim) -> str:
    return _with_digits(claim, _or_nan(claim.figure))


def _with_digits(claim: Claim, value: float) -> str:
    """Return a value with the digits to which the claim's figure was published."""
    measure = MEASURES[claim.metric]
    if claim.digits is None or measure.unit in ("count", "millions"):
        return measure.text(value)
    if measure.unit == "share":
        return f"{100 * value:.{max(0, claim.digits - 2)}f} %"
    return f"{value:.{claim.digits}f}"


def _published_difference(claim: Claim, words: str) -> str:
    """Return the published difference; where the report gives no figure, what it says of it."""
    return words if claim.figure is None else MEASURES[claim.measured].difference(claim.figure)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
