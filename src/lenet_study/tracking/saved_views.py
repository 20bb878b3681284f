"""Saved views of MLflow's page: which runs it lists, which columns it shows and which charts it draws.

A view is a tag of the experiment, which the page's menu "Views" lists. MLflow (3.16 and later) reads it as
JSON with a name, two times and the state of the page; fields of the state are those of its
``ExperimentPageSearchFacetsState`` and ``ExperimentPageUIState``. The ids are fixed: a later study updates
the views of an earlier one.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlflow
from mlflow.utils.time import get_current_time_millis

from lenet_study.tracking.schema import Metric, Tag
from lenet_study.tracking.store import store_call

Card = Mapping[str, object]
Mode = Literal["CHART", "TABLE"]
_CREATED = 1_767_225_600_000  # 2026-01-01 in milliseconds; the menu lists the latest view first
_COMPRESSED = "deflate;"  # how MLflow marks a state that zlib has compressed
_MOST_RUNS = 100  # that one chart draws
# The page adds a chart for every metric that has none to the section of its prefix. Where such a section is
# there already, and closed, a view's own charts stand alone; samples of the computer are among the others.
_OF_ALL = ("Model metrics", "System metrics")  # the former hold what has no prefix
_OF_TRAININGS = ("best", "parity", *_OF_ALL)
_OF_EVALUATIONS = ("test", "auxiliary", *_OF_ALL)
# Params, which are the fields of a recipe.
_SEED = "seed"
_CHANNELS, _HIDDEN, _NORM = "variant.channels", "variant.hidden_units", "variant.batch_norm"
_HALVING, _OPTIMIZER, _DROPOUT = "variant.halve_learning_rate_every", "variant.optimizer", "variant.dropout"
_EPOCHS, _RATE = "recipe.epochs", "recipe.learning_rate"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts under a heading."""

    name: str
    cards: Sequence[Card]


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of the experiment's page.

    Attributes:
        id: Names the view in addresses; never changes.
        name: In the page's menu.
        about: One sentence, for notes: what it shows.
        filter: Condition on runs, in MLflow's language.
        order_by: Column that orders the runs.
        ascending: Whether its lowest value comes first.
        columns: Of the table, beside the run's name and its time.
        sections: Of charts, in their order.
        mode: Charts or the table, as addresses open it.
        grouped_by: Tag that groups the runs of the table, which then shows their means; empty for none.
        closed: Names of the sections for all other metrics.
    """

    id: str
    name: str
    about: str
    filter: str
    order_by: str
    ascending: bool = True
    columns: Sequence[str]
    sections: Sequence[Section]
    mode: Mode = "CHART"
    grouped_by: str = ""
    closed: Sequence[str] = _OF_TRAININGS

    def state(self) -> dict[str, object]:
        """Return the state of the page; MLflow fills in its defaults."""
        sections = [
            _section(f"{self.id}-{number}", section.name, is_open=True)
            for number, section in enumerate(self.sections, 1)
        ]
        cards = [
            {**card, "uuid": f"{section['uuid']}-{number}", "metricSectionId": section["uuid"]}
            for section, content in zip(sections, self.sections, strict=True)
            for number, card in enumerate(content.cards, 1)
        ]
        closed = [_section(f"{self.id}-{name}", name, is_open=False) for name in self.closed]
        key = {"mode": "tag", "groupByData": self.grouped_by}
        means = {"aggregateFunction": "average", "groupByKeys": [key]}
        return {
            "searchFilter": self.filter,
            "orderByKey": self.order_by,
            "orderByAsc": self.ascending,
            "selectedColumns": [*self.columns],
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": cards,
            "compareRunSections": [*sections, *closed],
            "isAccordionReordered": True,  # the sections stay in this order
            "groupBy": means if self.grouped_by else None,
            "useGroupedValuesInCharts": False,  # groups would have colours of MLflow's own
        }


def views(study: str, seed: int) -> tuple[View, ...]:
    """Return the views that a study's run with this id writes; ``seed`` is the first one of its trainings."""
    of_study = f"tags.{Tag.STUDY} LIKE '%{study}%' and tags.{Tag.STAGE} = "
    trainings = f"{of_study}'train'"
    return (
        View(
            id="lenet-five",
            name="The five",
            about="Curves of the variants, their best epochs, and what differs.",
            filter=f"{trainings} and params.{_SEED} = '{seed}'",
            order_by=_tag(Tag.VARIANT),
            columns=_FIVE_COLUMNS,
            sections=(
                Section(name="Curves", cards=_CURVES),
                _BEST_EPOCH,
                Section(
                    name="What differs",
                    # An axis leaves out the runs that have no value: no halving of the learning rate here.
                    cards=(
                        parallel(
                            (_CHANNELS, _HIDDEN, _NORM),
                            (Metric.LEARNING_RATE, Metric.BEST_VAL_ACCURACY),
                        ),
                    ),
                ),
            ),
        ),
        View(
            id="lenet-seeds",
            name="Seeds",
            about="The same trainings over all seeds, with means in the table.",
            filter=trainings,
            order_by=_tag(Tag.VARIANT),
            columns=_columns(
                _OF_BEST_EPOCH,
                (_SEED,),
            ),
            sections=(
                _BEST_EPOCH,
                Section(name="Curves", cards=_CURVES),
            ),
            grouped_by=Tag.VARIANT,
        ),
        View(
            id="lenet-folds",
            name="Folds",
            about="The cross-validation, fold by fold.",
            filter=f"{of_study}'fold'",
            order_by=_tag(Tag.FOLD),
            columns=[
                _tag(Tag.FOLD),
                *_columns(
                    _OF_BEST_EPOCH,
                    (_SEED,),
                ),
            ],
            sections=(
                Section(name="Best epoch", cards=(bar(Metric.BEST_VAL_ACCURACY),)),
                Section(name="Curves", cards=_CURVES),
            ),
        ),
        View(
            id="lenet-test",
            name="On test",
            about="Evaluations on the test split, with their 95 % intervals.",
            filter=f"{of_study}'evaluate'",
            order_by="attributes.start_time",
            columns=[
                _tag(Tag.VARIANT),
                _tag(Tag.MODEL_RUN_ID),
                *_columns(
                    (
                        Metric.TEST_ACCURACY,
                        Metric.TEST_ACCURACY_LOW,
                        Metric.TEST_ACCURACY_HIGH,
                        Metric.TEST_LOSS,
                        Metric.AUXILIARY_FIRST,
                        Metric.AUXILIARY_SECOND,
                        Metric.AUXILIARY_AGREEMENT,
                    ),
                    (_SEED,),
                ),
            ],
            sections=(
                Section(
                    name="Test split",
                    cards=(
                        bar(Metric.TEST_ACCURACY),
                        bar(Metric.TEST_LOSS),
                        bar(Metric.AUXILIARY_FIRST),
                        bar(Metric.AUXILIARY_SECOND),
                    ),
                ),
            ),
            closed=_OF_EVALUATIONS,
        ),
        View(
            id="lenet-search",
            name="Search",
            about="The trials of all searches.",
            filter=f"tags.{Tag.STAGE} = 'trial'",
            order_by=_metric(Metric.BEST_VAL_ACCURACY),
            ascending=False,
            columns=[
                _tag(Tag.TRIAL),
                _tag(Tag.PRUNED),
                *_columns(
                    (Metric.BEST_VAL_ACCURACY, Metric.BEST_EPOCH, Metric.PARAMETER_COUNT),
                    (_EPOCHS, _RATE, _OPTIMIZER, _DROPOUT),
                ),
            ],
            sections=(
                Section(
                    name="Trials",
                    cards=(
                        scatter(Metric.PARAMETER_COUNT, Metric.BEST_VAL_ACCURACY),
                        line(Metric.VAL_ACCURACY),
                        parallel(
                            (_RATE, _DROPOUT),
                            (Metric.PARAMETER_COUNT, Metric.BEST_VAL_ACCURACY),
                        ),
                    ),
                ),
            ),
            closed=("train", "val", *_OF_TRAININGS),
        ),
        View(
            id="lenet-versions",
            name="Ladder of versions",
            about="The runs that made versions of the registered model, the earliest first.",
            filter=f"tags.{Tag.VERSION} LIKE '%'",
            order_by="attributes.start_time",
            columns=[
                _tag(Tag.VERSION),
                _tag(Tag.VARIANT),
                _tag(Tag.STAGE),
                _tag(Tag.PARITY),
                _tag(Tag.WEIGHTS_SHA256),
                *_columns(
                    (
                        Metric.BEST_VAL_ACCURACY,
                        Metric.BEST_VAL_ACCURACY_AUGMENTED,
                        Metric.BEST_TRAIN_ACCURACY,
                        Metric.PARAMETER_COUNT,
                    ),
                    (_SEED,),
                ),
            ],
            sections=(
                Section(
                    name="Versions",
                    cards=(
                        bar(Metric.BEST_VAL_ACCURACY),
                        scatter(Metric.PARAMETER_COUNT, Metric.BEST_VAL_ACCURACY),
                    ),
                ),
            ),
            mode="TABLE",
            closed=("train", "val", *_OF_TRAININGS),
        ),
    )


def save(experiment_id: str, study: str, seed: int) -> None:
    """Write the views of a study into its experiment, in place of those of the study before.

    Raises:
        StoreError: The store failed.
    """
    now, client = get_current_time_millis(), mlflow.MlflowClient()
    with store_call():
        for place, view in enumerate(views(study, seed)):
            content = {
                "name": view.name,
                "createdAt": _CREATED - place,
                "updatedAt": now,
                "state": packed(view.state()),
            }
            tag = Tag.SAVED_VIEW.format(view=view.id)
            client.set_experiment_tag(experiment_id, tag, json.dumps(content))


def packed(state: Mapping[str, object]) -> str:
    """Return a state as MLflow stores it."""
    text = json.dumps(state, separators=(",", ":"))
    return _COMPRESSED + base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str) -> dict[str, Any]:
    """Return the state that ``packed`` has packed.

    >>> unpacked(packed({"searchFilter": ""}))
    {'searchFilter': ''}
    """
    return dict(json.loads(zlib.decompress(base64.b64decode(text.removeprefix(_COMPRESSED)))))


def line(metric: str) -> Card:
    """Return a chart of a metric over the epochs."""
    return {
        **_card("LINE"),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "lineSmoothness": 0,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }


def bar(metric: str) -> Card:
    """Return a chart with one bar for each run."""
    return {**_card("BAR"), "metricKey": metric}


def scatter(across: str, up: str) -> Card:
    """Return a chart with one point for each run, at the values of two metrics."""
    axes = {"xaxis": across, "yaxis": up}
    return {**_card("SCATTER"), **{axis: {"key": key, "type": "METRIC"} for axis, key in axes.items()}}


def parallel(params: Sequence[str], metrics: Sequence[str]) -> Card:
    """Return a chart of parallel coordinates; runs without a value on one of the axes are left out."""
    return {
        **_card("PARALLEL"),
        "selectedParams": [*params],
        "selectedMetrics": [*metrics],
        "showAllRuns": False,
    }


def _card(kind: str) -> dict[str, object]:
    return {"type": kind, "runsCountToCompare": _MOST_RUNS, "deleted": False, "isGenerated": False}


def _section(uuid: str, name: str, *, is_open: bool) -> dict[str, object]:
    facts = {"isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, "display": is_open, **facts}


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _tag(name: str) -> str:
    return f"tags.`{name}`"


def _columns(metrics: Iterable[str], params: Iterable[str] = ()) -> list[str]:
    """Return the columns of metrics and params, as MLflow's page names them."""
    return [_metric(name) for name in metrics] + [f"params.`{name}`" for name in params]


_CURVES = (
    line(Metric.VAL_ACCURACY),
    line(Metric.VAL_LOSS),
    line(Metric.TRAIN_ACCURACY),
    line(Metric.TRAIN_LOSS),
)
_BEST_EPOCH = Section(
    name="Best epoch", cards=(bar(Metric.BEST_VAL_ACCURACY), bar(Metric.BEST_VAL_ACCURACY_AUGMENTED))
)
_OF_BEST_EPOCH = (
    Metric.BEST_VAL_ACCURACY,
    Metric.BEST_VAL_ACCURACY_AUGMENTED,
    Metric.BEST_VAL_LOSS,
    Metric.BEST_TRAIN_ACCURACY,
    Metric.BEST_EPOCH,
)
_FIVE_COLUMNS = _columns(
    (*_OF_BEST_EPOCH, Metric.PARAMETER_COUNT),
    (_CHANNELS, _HIDDEN, _NORM, _HALVING),
)
