"""Cards: what MLflow's pages of runs, versions, the registered model and the experiment say.

Each is made of what the store holds, so that it can be made anew at any time. A user's own words stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

import mlflow
import pandas as pd

from lenet_study.evidence.statistics import wilson_interval
from lenet_study.tracking import links, notes
from lenet_study.tracking.champions import CHALLENGER, CHAMPION
from lenet_study.tracking.registry import Version, version_of, version_with_alias
from lenet_study.tracking.saved_views import views
from lenet_study.tracking.schema import File, Metric, Name, Tag
from lenet_study.tracking.store import ABOUT, NAME, StoredRun, missing_ignored, runs_with, set_tag, store_call
from lenet_study.tracking.stored_training import StoredTraining

VERSION_LIMIT = 5000  # characters of a version's description; PostgreSQL refuses more
_PROTOCOL = ("epochs", "batch_size", "learning_rate", "seed", "auxiliary", "precision")  # params
_HEADING = "### {}\n\n"
_DATA = (
    "Fashion-MNIST: 60,000 training and 10,000 test images of ten kinds of clothing, 28 × 28 grey levels. "
    "The 80/20 split into training and validation images is stratified and seeded; the mean and deviation of "
    "the images trained on are inside the model. Augmentation touches training images only."
)
_USE = (
    "Teaching, and comparing models and training methods. Input: float32 images in [0, 1], [N, 1, 28, 28], "
    "bright clothing on black; output: logits of ten classes."
)
_LIMITS = (
    "Photographs of other kinds, sizes or backgrounds are outside of what it has seen. Its probabilities are "
    "not calibrated. One training is one seed: an interval over images says nothing of other seeds."
)


def renew_run(run_id: str) -> None:
    """Renew the links of a run's note: to its study, parent and model, its version and its evaluations.

    Raises:
        StoreError: The store failed.
    """
    client = mlflow.MlflowClient()
    with store_call():
        run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    found = notes.neighbours(experiment_id, run.data.tags, run_id)
    if version := version_of(run_id):
        found.append(notes.link(f"version {version.version}", links.version_page(version.version)))
        if Tag.VERSION not in run.data.tags:
            set_tag(run_id, Tag.VERSION, str(version.version))
    found += [notes.link("on test", _page(evaluation)) for evaluation in _evaluations(run_id)]
    former = run.data.tags.get(Tag.DESCRIPTION, "")
    _set_note(run_id, former, notes.with_links(former, found))


def renew_version(run_id: str) -> None:
    """Renew the card of the version that a run has made, if it has made one.

    Raises:
        StoreError: The store failed.
    """
    if version := version_of(run_id):
        text = version_card(StoredTraining.load(run_id), _evaluations(run_id))
        if text != version.description and _is_card(version.description):
            with store_call():
                mlflow.MlflowClient().update_model_version(NAME, version.version, text)


def _is_card(text: str | None) -> bool:
    """Whether a description is ours to renew: there is none, or it is a card or what came before cards."""
    return not text or _HEADING.format("Intended use") in text or text.startswith(ABOUT)


def without_card() -> set[str]:
    """Return the runs whose versions have no card yet: a search registers some, and so did version 0.2."""
    with store_call():
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{NAME}'", max_results=10_000)
    return {version.run_id for version in versions if version.run_id and not version.description}


def version_card(training: StoredTraining, evaluations: Sequence[StoredRun]) -> str:
    """Return the card of a version: figures, data, protocol, intended use, limits, and proof.

    Args:
        training: The run that made it.
        evaluations: Of the version on the test split, the latest first.
    """
    what = notes.without_links(training.tag(Tag.DESCRIPTION))
    selection = "the last epoch" if training.stage == "retrain" else "the best epoch on validation images"
    params = {**training.params, **_of_recipe(training)}
    protocol = ", ".join(f"{name} {params[name]}" for name in _PROTOCOL if name in params)
    related = [notes.link("its training", links.run_page(training.experiment_id, training.run_id))]
    related += [notes.link("on test", _page(evaluation)) for evaluation in evaluations]
    sections = {
        "Figures": notes.table([("figure", "value", "95 % interval"), *_figures(training, evaluations)]),
        "Protocol": f"{protocol}. Kept: {selection}.",
        "Data": f"{_DATA} {_sums(training, _DATASETS)}",
        "Intended use": _USE,
        "Limits": _LIMITS,
        "Proof": (
            f"Parity: {training.tag(Tag.PARITY) or 'not tested'}, largest difference of a logit of an "
            f"exported file {training.metric(Metric.PARITY_DIFFERENCE) or 0:.2g}. {_sums(training, _PROOF)}"
        ),
    }
    body = "\n\n".join(_HEADING.format(title) + text for title, text in sections.items())
    return f"{what}\n\n{body}\n\n{' · '.join(related)}"[:VERSION_LIMIT]


def _of_recipe(training: StoredTraining) -> dict[str, str]:
    """Return the params of a recipe file by their short names: the entry point's namesakes do not count."""
    prefix = "recipe."
    named = {name: value for name, value in training.params.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in named.items()}


_DATASETS = tuple(Name(Tag.DATASET_SHA256.format(context=split), "") for split in ("train", "validation"))
_PROOF = (Tag.WEIGHTS_SHA256, Tag.TORCHSCRIPT_SHA256, Tag.MODEL_SHA256, Tag.GIT_COMMIT)


def _figures(training: StoredTraining, evaluations: Sequence[StoredRun]) -> list[tuple[str, str, str]]:
    """Return rows of a table: figure, value, and its interval over the images it was taken on."""
    rows = []
    images = training.image_count("validation")
    for name, label in (
        (Metric.BEST_VAL_ACCURACY, "validation accuracy"),
        (Metric.BEST_VAL_ACCURACY_AUGMENTED, "validation accuracy, augmented images"),
    ):
        if (accuracy := training.metric(name)) is not None:
            interval = _interval(*wilson_interval(round(accuracy * images), images)) if images else ""
            rows.append((label, f"{accuracy:.2%}", interval))
    for evaluation in evaluations[:1]:
        low, accuracy, high = (
            name.read(evaluation.data.metrics)
            for name in (Metric.TEST_ACCURACY_LOW, Metric.TEST_ACCURACY, Metric.TEST_ACCURACY_HIGH)
        )
        if low is not None and accuracy is not None and high is not None:
            rows.append(("test accuracy", f"{accuracy:.2%}", _interval(low, high)))
    if count := training.metric(Metric.PARAMETER_COUNT):
        rows.append(("trainable parameters", f"{count:,.0f}", ""))
    return rows


def _interval(low: float, high: float) -> str:
    return f"{low:.2%} to {high:.2%}"


def _sums(training: StoredTraining, names: Sequence[Name]) -> str:
    """Return the tags of these names that a training has, in words."""
    logged = ((name, training.tag(name)) for name in names)
    return "; ".join(f"{name} `{value}`" for name, value in logged if value)


def renew_model() -> None:
    """Renew the card of the registered model, which there may not be yet.

    Raises:
        StoreError: The store failed.
    """
    with store_call(), missing_ignored():
        client = mlflow.MlflowClient()
        former = client.get_registered_model(NAME).description or ""
        aliases = {alias: version_with_alias(alias) for alias in (CHAMPION, CHALLENGER)}
        text = model_card({alias: version for alias, version in aliases.items() if version})
        if text != former and _is_card(former):
            client.update_registered_model(NAME, text)


def model_card(aliases: dict[str, Version]) -> str:
    """Return the card of the registered model; ``aliases`` holds the versions that have one."""
    standing = [
        f"- **{alias}**: {notes.link(f'version {version.version}', links.version_page(version.version))}. "
        f"{version.tags.get(Tag.PROMOTED_REASON, '')}".rstrip()
        for alias, version in aliases.items()
    ]
    sections = {"Standing": "\n".join(standing), "Data": _DATA, "Intended use": _USE, "Limits": _LIMITS}
    body = "\n\n".join(_HEADING.format(title) + text for title, text in sections.items() if text)
    return f"{ABOUT} Each version's card has its figures, protocol and proof.\n\n{body}"[:VERSION_LIMIT]


def renew_study(study: StoredRun) -> None:
    """Renew the note of a study's run, and that of its experiment, which leads to it.

    Raises:
        StoreError: The store failed.
    """
    client, experiment_id = mlflow.MlflowClient(), study.info.experiment_id
    stored = StoredTraining.load(study.info.run_id)
    with store_call():
        files = {file.path for file in client.list_artifacts(stored.run_id)}
        experiment = client.get_experiment(experiment_id)
    found = [notes.link("study", _page(study))]
    if File.REPORT in files:
        page = links.run_page(experiment_id, stored.run_id, File.REPORT)
        found.append(notes.link("report", page))
    found += [
        notes.link(view.name, links.view_page(experiment_id, view.id, view.mode)) for view in views("", 0)
    ]
    found.append(notes.link("registered model", links.model_page()))
    former = stored.tag(Tag.DESCRIPTION)
    _set_note(stored.run_id, former, notes.with_links(study_note(stored), found[1:]))
    about = notes.without_links(experiment.tags.get(Tag.DESCRIPTION, "")) or ABOUT
    with store_call():
        client.set_experiment_tag(experiment_id, Tag.DESCRIPTION, notes.with_links(about, found))


def study_note(study: StoredTraining) -> str:
    """Return the result of a study in words and as a table."""
    what = notes.without_links(study.tag(Tag.DESCRIPTION)).partition("\n")[0]
    text = study.text(File.COMPARISON)
    figures = pd.read_csv(StringIO(text)) if text else pd.DataFrame()
    if figures.empty:
        return what
    rows = [tuple(name.replace("_", " ") for name in figures.columns)]
    rows += [tuple(_cell(str(name), value) for name, value in row.items()) for _, row in figures.iterrows()]
    summary = [
        f"{label} {value:.2%}" for label, name in _RESULT.items() if (value := study.metric(name)) is not None
    ]
    return "\n\n".join(part for part in (what, ", ".join(summary), notes.table(rows)) if part)


_RESULT = {
    "Best validation accuracy": Metric.BEST_VAL_ACCURACY,
    "test": Metric.TEST_ACCURACY,
    "test after retraining": Metric.TEST_ACCURACY_RETRAINED,
    "mean of the folds": Name(Metric.KFOLD_MEAN.format(metric="val_accuracy"), ""),
}


def _cell(column: str, value: object) -> str:
    """Return a figure of a table: empty if there is none, a percentage of an accuracy."""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return f"{value:.2%}" if "accuracy" in column else f"{value:.4g}"
    return str(value)


def _evaluations(run_id: str) -> list[StoredRun]:
    """Return the finished evaluations of a run's model, the latest first."""
    found = runs_with({Tag.MODEL_RUN_ID: run_id, Tag.STAGE: "evaluate"})
    return [run for run in found if run.info.status == "FINISHED"]


def _page(run: StoredRun) -> str:
    return links.run_page(run.info.experiment_id, run.info.run_id)


def _set_note(run_id: str, former: str, text: str) -> None:
    if text != former:
        set_tag(run_id, Tag.DESCRIPTION, text)
