"""Claims judged on the results of a study: each with its verdict, and all that the verdict rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lenet_study.evidence import claim_rules as rules
from lenet_study.evidence._pending_statistics import welch_interval
from lenet_study.evidence.claim_rules import ClaimVerdict, Ruling
from lenet_study.evidence.claims import Claim
from lenet_study.evidence.measures import (
    EVALUATE,
    MEASURES,
    OF_VARIANT,
    Sample,
    heads_untrained,
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
    if judged.claim.explanation and verdict is not ClaimVerdict.REPRODUCED:
        sentence += f" {judged.claim.explanation}"
    return replace(judged, verdict=verdict, sentence=sentence)


# ---- the kinds of claims ----


def _figure(claim: Claim, results: StudyResults) -> JudgedClaim:
    measure, (variant,) = MEASURES[claim.measured], claim.variants
    ours = sample(results, variant, claim.stage, claim.measured)
    assert claim.figure is not None, "the file was checked"
    published = _published_figure(claim)
    if ours.values.empty:
        return _unmeasured(claim, published, claim.figure, [ours])
    ruling = rules.judge_figure(
        ours.values.tolist(),
        claim.figure,
        half_digit=claim.half_digit,
        delta=claim.tolerance,
        like_for_like=True,
        averaged=len(ours.values) if claim.stage == "fold" else 1,
    )
    over = _over(ours, claim.stage)
    interval = _interval(measure.text, ruling)
    sentence = f"{measure.text(ruling.value)} over {over}"
    sentence += f", a further one within {interval}" if interval else ", which show no spread"
    if ruling.side:
        away = measure.difference(claim.figure - ruling.value)
        near = ruling.verdict is ClaimVerdict.CAVEAT
        sentence += f": the published {published} is {away} away, {'less' if near else 'more'} than matters"
    elif interval:
        sentence += f", which holds the published {published}"
    return _judged(claim, ruling, published, measure.text(ruling.value), over, sentence, [ours])


def _comparison(claim: Claim, results: StudyResults) -> JudgedClaim:
    assert claim.against is not None, "the file was checked"
    measure = MEASURES[claim.measured]
    published = "higher" if measure.better > 0 else "lower"
    if claim.figure is not None:
        published = measure.difference(claim.figure)
    parts, samples = [], []
    for pair in itertools.product(claim.variants, claim.against.variants or [""]):
        one, other = _sides(claim, results, *pair)
        samples += [one, other]
        differences = measure.better * _paired(one, other)
        if differences.empty:
            continue
        family, size = _family(claim, results, pair)
        shifted = (differences - claim.margin).tolist()
        overlap = _overlap(claim)
        ruling = rules.judge_comparison(
            shifted, band=claim.tolerance, overlap=overlap, family=family, family_size=size
        )
        parts.append((pair, _moved(ruling, claim.margin, measure.better), differences))
    if not parts or len(parts) < len(samples) // 2:
        return _unmeasured(claim, published, _or_nan(claim.figure), samples)
    pair, ruling, differences = min(parts, key=lambda part: (ORDER.index(part[1].verdict), -part[1].p_value))
    wins = int((differences > claim.margin).sum())
    words = " over " + pair[1] if pair[1] else ""
    sentence = (
        f"{pair[0]}{words}: {measure.difference(ruling.value)} in the mean, better in {wins} of "
        f"{len(differences)} seeds, Holm's p {ruling.p_value:.2g} (sign-flip p {ruling.flip_p_value:.2g})"
    )
    if interval := _interval(measure.difference, ruling):
        sentence += f", interval {interval}"
    if claim.margin:
        sentence += f"; it must exceed {measure.difference(claim.margin)}"
    if len(parts) > 1:
        sentence += f"; the least sure of {len(parts)} pairs"
    over = _pairs_over(claim, len(differences))
    return _judged(claim, ruling, published, measure.difference(ruling.value), over, sentence, samples)


def _about_equal(claim: Claim, results: StudyResults) -> JudgedClaim:
    published = "about equal"
    if claim.figure is not None:
        published = MEASURES[claim.measured].difference(claim.figure)
    if claim.against is None:
        return _spread(claim, results, published)
    measure = MEASURES[claim.measured]
    parts, samples = [], []
    for pair in itertools.product(claim.variants, claim.against.variants or [""]):
        one, other = _sides(claim, results, *pair)
        samples += [one, other]
        if ruling := _equality(claim, one, other):
            parts.append((pair, ruling))
    if len(parts) < len(samples) // 2:
        return _unmeasured(claim, published, _or_nan(claim.figure), samples)
    pair, ruling = min(parts, key=lambda part: (ORDER.index(part[1].verdict), -abs(part[1].value)))
    beside = f" and {pair[1]}" if pair[1] else ""
    sentence = f"{pair[0]}{beside}: {measure.difference(ruling.value)} apart in the mean"
    if interval := _interval(measure.difference, ruling):
        sentence += f", interval {interval}"
    sentence += f"; within ±{measure.difference(claim.tolerance)[1:]} they count as equal"
    if len(parts) > 1:
        sentence += f"; the farthest of {len(parts)}"
    if "fold" in (claim.stage, claim.other_side[0]):
        over = f"{_over(samples[0], claim.stage)} and {_over(samples[1], claim.other_side[0])}, unpaired"
    else:
        over = _pairs_over(claim, len(_paired(*samples[:2])))
    return _judged(claim, ruling, published, measure.difference(ruling.value), over, sentence, samples)


def _equality(claim: Claim, one: Sample, other: Sample) -> Ruling | None:
    """Judge two sides: by seeds in pairs, or unpaired where one of them is the folds of one seed."""
    if "fold" in (claim.stage, claim.other_side[0]):
        if one.values.empty or other.values.empty:
            return None
        low, high = welch_interval(one.values.tolist(), other.values.tolist())
        value = float(one.values.mean() - other.values.mean())
        return rules.judge_equality(low, high, value, claim.tolerance)
    differences = _paired(one, other)
    if differences.empty:
        return None
    return rules.judge_paired_equality(differences.tolist(), delta=claim.tolerance, overlap=_overlap(claim))


def _spread(claim: Claim, results: StudyResults, published: str) -> JudgedClaim:
    """Judge whether folds are about equal among themselves."""
    measure, (variant,) = MEASURES[claim.measured], claim.variants
    ours = sample(results, variant, claim.stage, claim.measured)
    if len(ours.values) < 2:
        return _unmeasured(claim, published, _or_nan(claim.figure), [ours])
    ruling = rules.judge_spread(ours.values.tolist(), delta=claim.tolerance)
    text = f"± {measure.difference(ruling.value)[1:]}"
    sentence = (
        f"a standard deviation of {measure.difference(ruling.value)[1:]}, interval "
        f"{_interval(lambda value: measure.difference(value)[1:], ruling)}; up to "
        f"{measure.difference(claim.tolerance)[1:]} they count as equal"
    )
    return _judged(claim, ruling, published, text, _over(ours, claim.stage), sentence, [ours])


def _structure(claim: Claim, results: StudyResults) -> JudgedClaim:
    """Judge a claim about models themselves, which needs no run; runs that were measured must agree, too."""
    assert claim.figure is not None, "the file was checked"
    measure = MEASURES[claim.metric]
    values = {variant: OF_VARIANT[claim.metric](VARIANTS[variant]) for variant in claim.variants}
    run_ids: tuple[str, ...] = ()
    if claim.metric in results.trainings:
        for variant in claim.variants:
            logged = trainings_of(results, variant, "train")[claim.metric].dropna()
            run_ids += tuple(logged.index)
            values |= {f"run {run_id}": float(value) for run_id, value in logged.items()}
    farthest = max(values, key=lambda name: abs(values[name] - float(claim.figure or 0)))
    ruling = rules.judge_structure(values[farthest], claim.figure, claim.half_digit)
    equal = ruling.verdict is ClaimVerdict.REPRODUCED
    ours, published = measure.text(ruling.value), _published_figure(claim)
    sentence = f"{ours}, as published" if equal else f"{farthest} has {ours}, published {published}"
    judged = _judged(claim, ruling, published, ours, "the model itself", sentence, [])
    return replace(judged, run_ids=run_ids)


def _qualitative(claim: Claim, results: StudyResults) -> JudgedClaim:
    statement, (variant,) = STATEMENTS[claim.statement], claim.variants
    stages = [claim.stage, *([claim.other_side[0]] if statement.compares else [])]
    sides = [_predictions(claim, results, variant, stage) for stage in stages]
    tables = [tables for tables, _ in sides]
    common = sorted(set.intersection(*(set(side) for side in tables)))
    samples = [side for _, side in sides]
    published = _published_statement(claim)
    if not common:
        return _unmeasured(claim, published, math.nan, samples)
    shown = [[side[seed] for seed in common] for side in tables]
    others = shown[1] if statement.compares else ()
    bootstrap = support(statement, shown[0], claim.classes, others)
    ruling = rules.judge_share(bootstrap.share, SHARE)
    over = f"{_count(len(common), 'seed')} × {len(shown[0][0]):,} images"
    sentence = f"{bootstrap.words}; {bootstrap.share:.1%} of the resamples of {over} bear it out"
    if len(common) == 1 and ruling.verdict is ClaimVerdict.REPRODUCED:
        ruling = replace(ruling, verdict=ClaimVerdict.CAVEAT)
        sentence += "; it is about one training alone"
    return _judged(claim, ruling, published, bootstrap.words, over, sentence, samples)


def _predictions(
    claim: Claim, results: StudyResults, variant: str, stage: str
) -> tuple[dict[int, pd.DataFrame], Sample]:
    """Return the predictions of a variant by seed, and what of them there is and is missing."""
    ours = sample(results, variant, stage, "test_accuracy")
    if claim.statement == "heads_disagree" and heads_untrained(results):
        return {}, replace(ours, values=ours.values.iloc[:0], run_ids=())
    tables = {
        int(seed): results.predictions[run_id]
        for seed, run_id in zip(ours.values.index, ours.run_ids, strict=True)
        if run_id in results.predictions
    }
    lacking = [run_id for run_id in ours.run_ids if run_id not in results.predictions]
    missing = (*ours.missing, *(f"the predictions of run {run_id}" for run_id in lacking))
    commands = (*ours.commands, *(EVALUATE.format(run_id=run_id) for run_id in lacking))
    kept = ours.values[ours.values.index.isin(list(tables))]
    run_ids = tuple(run_id for run_id in ours.run_ids if run_id not in lacking)
    return tables, Sample(kept, run_ids, missing, commands)


def _published_statement(claim: Claim) -> str:
    """Return the figure behind a statement, of the published weights; "stated" where there are none."""
    statement, (variant,) = STATEMENTS[claim.statement], claim.variants
    table = published_predictions()
    if statement.compares or claim.statement == "heads_disagree" or variant not in table:
        return "stated"
    names = np.array(CLASSES)
    predicted = pd.DataFrame({"true": names[table["label"]], "predicted": names[table[variant]]})
    return support(statement, [predicted], claim.classes, resamples=1).words


# ---- what they share ----


def _sides(claim: Claim, results: StudyResults, variant: str, other: str) -> tuple[Sample, Sample]:
    """Return the values of a claim's own side and of the other; an empty ``other`` is the same variant."""
    stage, metric = claim.other_side
    own = sample(results, variant, claim.stage, claim.measured)
    return own, sample(results, other or variant, stage, metric)


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


def _moved(ruling: Ruling, margin: float, sign: int) -> Ruling:
    """Return a comparison's ruling as plain differences: with its margin, and lower where lower is better."""
    ends = sorted(sign * (end + margin) for end in (ruling.low, ruling.high))
    return replace(ruling, value=sign * (ruling.value + margin), low=ends[0], high=ends[1])


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
        sentence=f"{sentence[0].upper()}{sentence[1:]}.",
        run_ids=_unique(run_id for one in samples for run_id in one.run_ids),
        missing=missing,
        commands=_commands(claim, samples, missing),
        seeds_needed=ruling.seeds_needed,
    )


def _unmeasured(
    claim: Claim, published: str, published_value: float, samples: Sequence[Sample]
) -> JudgedClaim:
    missing = _unique(missing for one in samples for missing in one.missing)
    missing = missing or ("runs of equal seeds on both sides",)
    return JudgedClaim(
        claim=claim,
        verdict=ClaimVerdict.UNMEASURED,
        published=published,
        ours="",
        published_value=published_value,
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
        return "more folds, or cross-validations of more seeds, would decide it"
    return "the spread is so wide that no number of seeds would decide it"


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
    """Return the published figure with the digits that it was published with."""
    measure, figure = MEASURES[claim.metric], claim.figure or 0.0
    if claim.digits is None or measure.unit in ("count", "millions"):
        return measure.text(figure)
    if measure.unit == "share":
        return f"{100 * figure:.{max(0, claim.digits - 2)}f} %"
    return f"{figure:.{claim.digits}f}"


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
