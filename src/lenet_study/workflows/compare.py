"""``compare``: two models over the seeds that both were trained with, and on the test images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TypeAlias

import numpy as np
import pandas as pd

from lenet_study.errors import StudyError, UserError
from lenet_study.evidence import comparison_words
from lenet_study.evidence.comparison import Comparison, OnImages, Pair
from lenet_study.evidence.figures import comparison_chart
from lenet_study.execution.reporter import Reporter
from lenet_study.recipes import recipe_file
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import links, registry
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import connect
from lenet_study.tracking.stored_training import StoredTraining, evaluation_of, trainings_named

STAGES = ("train", "recipe", "confirm", "trial", "fold", "retrain")
_SPLITS = {"validation": "val", "test": "test"}  # as metrics name them
_CURE = (
    "name a variant, a training's run id, a version's number, an alias, or an address models:/NAME/VERSION"
)
Settings: TypeAlias = tuple[tuple[str, object], ...]
Key: TypeAlias = tuple[Settings, int]  # settings of the training, and seed


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    parameter: str  # `a` or `b`, with its value
    label: str
    trainings: Sequence[StoredTraining]  # the latest first
    single: bool  # whether one training was named

    @property
    def variant(self) -> str:
        """Name of the variant or searched model."""
        return self.trainings[0].variant


def compare(a: str, b: str, reporter: Reporter = Reporter()) -> Comparison:
    """Compare two models, print the comparison, and log it as a run.

    Args:
        a: A variant (all its finished trainings), the id of a training's run or of its evaluation, or a
            registered version: its number, an alias, or a ``models:/…`` address.
        b: Another.
        reporter: Receives the comparison, and what was passed over.

    Raises:
        UserError: There is nothing to compare; the message says why, and what to do.
        StoreError: The store failed.
    """
    for parameter, reference in (("a", a), ("b", b)):
        if not reference.strip():
            raise UserError(f"{parameter}={reference} is empty: {_CURE}")
    if a == b:
        raise UserError(f"a={a} and b={b} are the same: name two models")
    connect()
    first, second = (_side(name, value, reporter.message) for name, value in (("a", a), ("b", b)))
    matched = _matched(first, second, reporter.message)
    labels = _labels(first, second)
    comparison = Comparison(names=labels, pairs=tuple(_pairs(matched, reporter.message)))
    _refuse_too_little(comparison, first, second)
    words = comparison_words.text(comparison)
    reporter.message(f"\n{words}\n")
    with open_run(
        f"{labels[0]} and {labels[1]}",
        stage="compare",
        params={"a": a, "b": b},
        description="\n\n".join(comparison_words.conclusions(comparison)),
        message=reporter.message,
    ) as run:
        _log(run, comparison, words, (first.variant, second.variant))
        reporter.on_address(links.how_to_look(), "comparison", links.run_address(run))
    return comparison


# ---- the two sides ----


def _side(name: str, reference: str, tell: Callable[[str], None]) -> Side:
    """Return the trainings that a parameter names."""
    parameter = f"{name}={reference}"
    try:
        run_id = reference if re.fullmatch("[0-9a-f]{32}", reference) else registry.run_of_version(reference)
    except UserError as error:
        raise UserError(f"{parameter}: {error}: {_CURE}") from error
    if run_id:
        training = _training_of(parameter, run_id)
        label = training.name if run_id == reference else f"{training.name} ({_short(reference)})"
        return Side(parameter, label, [training], single=True)
    trainings = trainings_named(reference) if recipe_file.is_name(reference) else []
    if not trainings:
        if reference in VARIANTS:
            raise UserError(f"{parameter} has no finished training: run `train` with variant={reference}")
        raise UserError(f"{parameter} names no model that was trained ({', '.join(VARIANTS)}): {_CURE}")
    return Side(parameter, reference, _readable(trainings, parameter, tell), single=False)


def _short(reference: str) -> str:
    return f"version {reference}" if reference.isdigit() else reference


def _training_of(parameter: str, run_id: str) -> StoredTraining:
    """Return the finished training of a run, or the one that an evaluation's run is about."""
    try:
        training = StoredTraining.load(run_id)
        if training.stage == "evaluate" and (model := training.tag(Tag.MODEL_RUN_ID)):
            training = StoredTraining.load(model)
    except UserError as error:
        raise UserError(f"{parameter}: {error}") from error
    if training.stage not in STAGES:
        raise UserError(f"{parameter} is of stage {training.stage!r}: name a run of {', '.join(STAGES)}")
    if training.status != "FINISHED":
        raise UserError(f"{parameter} is {training.status}: name a training that has FINISHED")
    try:
        _ = training.recipe
    except StudyError as error:
        raise UserError(f"{parameter}: {error}") from error
    return training


def _readable(
    trainings: Iterable[StoredTraining], parameter: str, tell: Callable[[str], None]
) -> list[StoredTraining]:
    """Return the trainings whose recipe can be read; say which cannot."""
    readable = []
    for training in trainings:
        try:
            _ = training.recipe
            readable.append(training)
        except StudyError as error:
            tell(f"{training.name}: run {training.run_id} is passed over: {error}")
    if not readable:
        raise UserError(f"{parameter} has no training whose recipe can be read: train it again")
    model = readable[0].recipe.variant  # of the latest
    for other in (training for training in readable if training.recipe.variant != model):
        tell(f"{other.name}: run {other.run_id} is passed over: it is another model of this name")
    return [training for training in readable if training.recipe.variant == model]


def _labels(first: Side, second: Side) -> tuple[str, str]:
    """Return the names of both sides; a run's id tells apart what has one name."""
    if first.label != second.label:
        return first.label, second.label
    labels = [
        f"{side.label} ({'run ' + side.trainings[0].run_id[:8] if side.single else 'all seeds'})"
        for side in (first, second)
    ]
    return labels[0], labels[1]


# ---- pairs ----


def _settings(training: StoredTraining) -> Settings:
    """Return all of a training's configuration but its seed."""
    return tuple(sorted((name, v) for name, v in asdict(training.recipe.config).items() if name != "seed"))


def _key(training: StoredTraining) -> Key:
    return _settings(training), training.recipe.config.seed


def _latest(side: Side, tell: Callable[[str], None]) -> dict[Key, StoredTraining]:
    """Return one training per settings and seed: the latest, if there are several."""
    latest: dict[Key, StoredTraining] = {}
    counts: dict[Key, int] = {}
    for training in side.trainings:
        latest.setdefault(_key(training), training)
        counts[_key(training)] = counts.get(_key(training), 0) + 1
    for key, count in counts.items():
        if count > 1:
            run_id = latest[key].run_id
            tell(f"{side.label} seed {key[1]}: trained {count} times; the latest counts, run {run_id}")
    return latest


def _matched(
    first: Side, second: Side, tell: Callable[[str], None]
) -> list[tuple[StoredTraining, StoredTraining]]:
    """Return the pairs to compare: of equal settings and seed, unless two runs were named."""
    both = f"{first.parameter} and {second.parameter}"
    if first.single and second.single:
        (one,), (other,) = first.trainings, second.trainings
        if one.run_id == other.run_id:
            raise UserError(f"{both} are the same training, run {one.run_id}: name two models")
        if differing := _differing(asdict(one.recipe.config), asdict(other.recipe.config)):
            tell(f"{both} were trained otherwise ({differing}): only their predictions are compared")
        return [(one, other)]
    firsts, seconds = _latest(first, tell), _latest(second, tell)
    common = [key for key in firsts if key in seconds]
    if not common:
        raise UserError(f"{both} have no two trainings in common: {_why_none(firsts, seconds)}")
    settings = _most_frequent(common)
    chosen = sorted((key for key in common if key[0] == settings), key=lambda key: key[1])
    for side, keys in ((first, firsts), (second, seconds)):
        _tell_passed_over(side, [key for key in keys if key not in chosen], settings, tell)
    if same := [firsts[key].run_id for key in chosen if firsts[key].run_id == seconds[key].run_id]:
        raise UserError(f"{both} share a training, run {same[0]}: name two models")
    return [(firsts[key], seconds[key]) for key in chosen]


def _most_frequent(keys: Sequence[Key]) -> Settings:
    """Return the settings of most keys; on a tie, those of the latest training."""
    counts: dict[Settings, int] = {}
    for settings, _ in keys:
        counts[settings] = counts.get(settings, 0) + 1
    return max(counts, key=lambda settings: counts[settings])


def _differing(one: dict[str, object], other: dict[str, object]) -> str:
    """Return in words which settings differ, and how."""
    return ", ".join(f"{name}={one[name]} and {other[name]}" for name in one if one[name] != other[name])


def _why_none(firsts: Iterable[Key], seconds: Iterable[Key]) -> str:
    """Return in words why no key of one side is among the other's, and the cure."""
    firsts, seconds = list(firsts), list(seconds)
    one, other = dict(firsts[0][0]), dict(seconds[0][0])
    if firsts[0][0] not in [settings for settings, _ in seconds]:
        return f"they were trained otherwise ({_differing(one, other)}); train both alike"
    return f"seeds {_seeds(firsts)} and {_seeds(seconds)}; train both with the same seeds"


def _seeds(keys: Iterable[Key]) -> str:
    return ", ".join(map(str, sorted({seed for _, seed in keys})))


def _tell_passed_over(
    side: Side, keys: Sequence[Key], settings: Settings, tell: Callable[[str], None]
) -> None:
    if alone := [key for key in keys if key[0] == settings]:
        tell(f"{side.label}: passed over, because the other model lacks them: seeds {_seeds(alone)}")
    for other in dict.fromkeys(key[0] for key in keys if key[0] != settings):
        seeds = _seeds(key for key in keys if key[0] == other)
        differing = _differing(dict(other), dict(settings))
        tell(f"{side.label}: passed over, because trained otherwise ({differing}): seeds {seeds}")


def _pairs(
    matched: Iterable[tuple[StoredTraining, StoredTraining]], tell: Callable[[str], None]
) -> Iterable[Pair]:
    """Yield the pairs that have something to compare."""
    for one, other in matched:
        pair = Pair(
            seeds=(one.recipe.config.seed, other.recipe.config.seed),
            run_ids=(one.run_id, other.run_id),
            validation=_validation(one, other, tell),
            images=_images(one, other, tell),
        )
        if pair.validation or pair.images:
            yield pair


def _validation(
    one: StoredTraining, other: StoredTraining, tell: Callable[[str], None]
) -> tuple[float, float] | None:
    """Return both validation accuracies, if they are of the same images and trainings alike."""
    accuracies = one.metric(Metric.BEST_VAL_ACCURACY), other.metric(Metric.BEST_VAL_ACCURACY)
    if None in accuracies or _key(one) != _key(other):
        return None
    if one.digest("validation") != other.digest("validation"):
        tell(f"Runs {one.run_id} and {other.run_id} have other validation images: passed over there")
        return None
    return accuracies[0] or 0.0, accuracies[1] or 0.0


def _images(one: StoredTraining, other: StoredTraining, tell: Callable[[str], None]) -> OnImages | None:
    """Count the test images that both models, one or neither have right; None without predictions of both."""
    tables = [_predictions(training, tell) for training in (one, other)]
    if tables[0] is None or tables[1] is None:
        return None
    if not tables[0]["true"].equals(tables[1]["true"]):
        tell(f"Runs {one.run_id} and {other.run_id} were evaluated on other test images: passed over there")
        return None
    rights = [np.asarray(table["predicted"] == table["true"]) for table in tables if table is not None]
    return OnImages.of(rights[0], rights[1])


def _predictions(training: StoredTraining, tell: Callable[[str], None]) -> pd.DataFrame | None:
    """Return the predictions of a training's latest evaluation, if there are any that can be read."""
    if not (evaluation := evaluation_of(training)):
        return None
    try:
        table = pd.read_csv(StringIO(evaluation.text(File.PREDICTIONS)), usecols=["true", "predicted"])
    except (UserError, ValueError) as error:  # damaged, empty or another file
        tell(f"{evaluation.name}: run {evaluation.run_id} is passed over: {error}")
        return None
    return table


def _refuse_too_little(comparison: Comparison, first: Side, second: Side) -> None:
    """Refuse a comparison that could say nothing: one seed, and no predictions of both."""
    if comparison.test or len(comparison.pairs) > 1:
        return
    what, run_ids = "no images in common", [side.trainings[0].run_id for side in (first, second)]
    if comparison.pairs:
        (pair,) = comparison.pairs
        what, run_ids = f"one seed in common ({pair.label})", [*pair.run_ids]
    both = f"{first.parameter} and {second.parameter}"
    runs = " and ".join(f"`evaluate` model={run_id}" for run_id in run_ids)
    raise UserError(f"{both} have {what} and no predictions of both: train more seeds, or {runs}")


def _log(run: Run, comparison: Comparison, words: str, variants: tuple[str, str]) -> None:
    """Log figures, pairs, words and picture."""
    for split, over in comparison.splits().items():
        figures = {
            Metric.COMPARE_FIGURE.format(split=_SPLITS[split], figure=figure): value
            for figure, value in over.figures().items()
            if not np.isnan(value)
        }
        run.log_metrics(figures)
        run.set_tags({Tag.COMPARISON_OUTCOME.format(split=_SPLITS[split]): over.outcome})
    run.log_table(comparison.table(), File.PAIRS)
    run.log_text(words + "\n", File.COMPARISON_TEXT)
    colours = comparison_chart.colours_of(variants)
    run.log_figure(comparison_chart.comparison(comparison, colours), File.PAIRS_PICTURE)
