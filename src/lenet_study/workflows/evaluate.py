"""``evaluate``: any model on the test split, which nothing else reads but the report: it shows images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np
import torch

from lenet_study.errors import UserError
from lenet_study.evidence import foreign, predictions
from lenet_study.evidence.figures import evaluation_charts
from lenet_study.evidence.foreign import ForeignModel, ForeignModule
from lenet_study.evidence.inputs import Inputs
from lenet_study.evidence.predictions import Predictions
from lenet_study.evidence.published_files import images_in_agreement, published_variant
from lenet_study.evidence.statistics import wilson_interval
from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import links, registry
from lenet_study.tracking.registry import LoadedModel
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import runs_with
from lenet_study.training import dataset
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Split
from lenet_study.training.hardware import Hardware, cores
from lenet_study.workflows.page import renew_cards
from lenet_study.workflows.train import TrainingJob, hardware_tags, variant_tags
from lenet_study.workflows.waiting import wait_for_store

TSNE_CORE_SECONDS = 0.008  # per image, as docs/performance.md has it: 34 to 46 s for 10,000 on two cores
GRID_IMAGES = 40  # random test images shown with their predictions


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation."""

    name: str
    model_run_id: str  # of the training; empty for a plain file
    predictions: Predictions
    seconds: float  # wall time


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """One evaluation as data."""

    model: str  # a run id, a ``models:/…`` address, or the path of a TorchScript file
    inputs: Inputs = "auto"  # scale of a foreign file's images; our own files normalise by themselves
    seed: int = 0  # of the embedding, of the choice of images shown, and of the validation split
    hardware: Hardware = Hardware()
    data: DataFiles = field(default_factory=DataFiles.at)
    study: str = ""  # id of the study's run that it belongs to
    parent_work: str = ""  # id of the search's run that it belongs to
    before: EvaluationResult | None = None  # another model's, to set the confusion matrices side by side
    resume: str = ""  # id of the interrupted run to go on with; empty begins one
    embedded: bool = True  # whether to draw the features with t-SNE, which takes most of the time

    @classmethod
    def of(cls, model: str, job: TrainingJob, before: EvaluationResult | None = None) -> EvaluationJob:
        """Return the evaluation of a model as a training was done: same seed, hardware, images and work.

        Of a study's repeats, only the first one's features are drawn.
        """
        return cls(
            model=model,
            seed=job.recipe.config.seed,
            hardware=job.hardware,
            data=job.data,
            study=job.study,
            parent_work=job.parent,
            before=before,
            embedded=not job.repeated,
        )

    def run(self, reporter: Reporter, monitor: Monitor) -> EvaluationResult:
        """Score the model, once the store answers; see ``evaluate_once``."""
        wait_for_store(reporter)
        return evaluate_once(self, reporter)


@dataclass(frozen=True)
class _ReadyModel:
    """A model of the project, or a foreign one that was examined, on its device."""

    loaded: LoadedModel
    device: torch.device
    foreign: ForeignModel | None

    @classmethod
    def of(cls, job: EvaluationJob) -> _ReadyModel:
        """Read the model of an evaluation; refuse one that cannot be scored before there is a run."""
        loaded = registry.load_model(job.model, foreign=True)
        device = job.hardware.prepare()
        module = loaded.module.to(device)
        if loaded.foreign:
            return cls(loaded, device, _examine(job, ForeignModule(module, device, job.model)))
        if job.inputs not in ("auto", "unit"):
            raise UserError(
                f"inputs={job.inputs} does not fit model={job.model}: a model that `train` exported takes "
                "images from 0 to 1, leave inputs at auto"
            )
        return cls(loaded, device, None)

    @property
    def predict(self) -> Callable[[Split], Predictions]:
        """What predicts images."""
        if self.foreign:
            return self.foreign.predict
        return partial(predictions.predict, self.loaded.module, device=self.device)

    def tags(self) -> dict[str, object]:
        """Return what the run tells of the model."""
        tags: dict[str, object] = {Tag.TORCHSCRIPT_SHA256: self.loaded.torchscript_sha256}
        if self.foreign:
            return tags | {Tag.INPUTS: self.foreign.scale, Tag.INPUTS_REASON: self.foreign.reason}
        tags |= {Tag.MODEL_RUN_ID: self.loaded.run_id, Tag.WEIGHTS_SHA256: self.loaded.weights_sha256}
        return tags | variant_tags(self.loaded.variant)


def _examine(job: EvaluationJob, module: ForeignModule) -> ForeignModel:
    """Find out which images a foreign module expects; the test split has no say."""
    train = job.data.train()
    rows = dataset.split(train.labels, job.seed)[1][: foreign.GUESS_IMAGES]
    return foreign.examine(module, job.inputs, train.images, train.subset(rows))


def predict_untracked(job: EvaluationJob) -> EvaluationResult:
    """Predict the test images without a run: to compare another model with."""
    start = perf_counter()
    model = _ReadyModel.of(job)
    predicted = model.predict(job.data.test())
    return EvaluationResult(
        f"{model.loaded.name} on test", model.loaded.run_id, predicted, perf_counter() - start
    )


def evaluate_once(job: EvaluationJob, reporter: Reporter) -> EvaluationResult:
    """Evaluate a model of a study; what the study has evaluated before it was interrupted is predicted again.

    Its run is neither made twice nor changed.
    """
    conditions: dict[str, str] = {Tag.STUDY: job.study, Tag.STAGE: "evaluate", Tag.MODEL_RUN_ID: job.model}
    for run in runs_with(conditions) if job.study else []:
        if run.info.status == "FINISHED":
            reporter.message(f"{run.info.run_name}: used again from run {run.info.run_id}")
            return predict_untracked(job)
        if run.info.status != "RUNNING":
            return evaluate(replace(job, resume=run.info.run_id), reporter)
    return evaluate(job, reporter)


def evaluate(job: EvaluationJob, reporter: Reporter = Reporter()) -> EvaluationResult:
    """Score a model on the 10,000 test images, in a run of its own.

    Raises:
        UserError: There is no such model, it cannot be scored, or ``inputs`` does not fit it.
    """
    start = perf_counter()
    model = _ReadyModel.of(job)
    test = job.data.test()
    name = f"{model.loaded.name} on test"
    with _open_evaluation_run(job, name, model, reporter) as run:
        reporter.on_run_start(name, run.id, 0)
        try:
            run.log_dataset(test, "test")
            if model.foreign:
                reporter.message(f"{name}: takes {model.foreign.scale} images ({model.foreign.reason})")
            predicted = model.predict(test)
            reporter.message(f"{name}: {_log_scores(run, predicted)}")
            _log_published(run, name, model.loaded.torchscript_sha256, predicted, reporter)
            _log_confusion(run, name, predicted, job.before)
            _log_examples(run, name, test, predicted, job.seed)
            if job.embedded:
                _log_embedding(run, name, predicted, job.seed, reporter)
        finally:
            reporter.on_run_end(name)
        if not (job.study or job.parent_work):
            reporter.on_address(links.how_to_look(), name, links.run_address(run))
    if model.loaded.run_id and not job.study:  # a study renews all its cards at its end
        renew_cards(model.loaded.run_id, reporter)
    return EvaluationResult(name, model.loaded.run_id, predicted, perf_counter() - start)


def _open_evaluation_run(
    job: EvaluationJob, name: str, model: _ReadyModel, reporter: Reporter
) -> AbstractContextManager[Run]:
    reference = model.loaded.reference
    return open_run(
        name,
        stage="evaluate",
        params={
            "model": reference,
            "inputs": job.inputs,
            "seed": job.seed,
            **asdict(job.hardware),
            "data_dir": str(job.data.folder),
        },
        tags={
            **model.tags(),
            **hardware_tags(model.device),
            **({Tag.COMPARED_RUN_ID: job.before.model_run_id} if job.before else {}),
            **({Tag.PARENT_WORK: job.parent_work} if job.parent_work else {}),
        },
        description=f"{model.loaded.name} on the 10,000 test images; {reference}",
        study=job.study,
        resume=job.resume,
        message=reporter.message,
    )


def _log_scores(run: Run, predicted: Predictions) -> str:
    """Log all scores of the classifier and the auxiliary heads; return them in words."""
    low, high = wilson_interval(predicted.correct, len(predicted.labels))
    run.log_metrics(
        {
            Metric.TEST_LOSS: predicted.loss,
            Metric.TEST_ACCURACY: predicted.accuracy,
            Metric.TEST_ACCURACY_LOW: low,
            Metric.TEST_ACCURACY_HIGH: high,
        }
    )
    run.log_table(predictions.per_class(predicted), File.PER_CLASS)
    run.log_table(predictions.table(predicted), File.PREDICTIONS)
    words = (
        f"accuracy {predicted.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), loss "
        f"{predicted.loss:.4f}; "
    )
    heads = predictions.auxiliary_scores(predicted)
    if heads is None:
        return words + "no auxiliary heads"
    run.log_metrics(
        {
            Metric.AUXILIARY_FIRST: heads.first_accuracy,
            Metric.AUXILIARY_SECOND: heads.second_accuracy,
            Metric.AUXILIARY_AGREEMENT: heads.agreement,
        }
    )
    return words + (
        f"auxiliary heads {heads.first_accuracy:.2%} and {heads.second_accuracy:.2%}, "
        f"in agreement on {heads.agreement:.2%}"
    )


def _log_published(run: Run, name: str, sha256: str, predicted: Predictions, reporter: Reporter) -> None:
    """If a published file was evaluated, log on how many images it does what it was found to do before."""
    variant = published_variant(sha256)
    if not variant:
        return
    run.set_tags({Tag.PUBLISHED: variant})
    count = images_in_agreement(variant, predicted.predicted, predicted.labels)
    if count is not None:
        images = len(predicted.labels)
        run.log_metrics({Metric.PUBLISHED_AGREEMENT: count / images})
        reporter.message(
            f"{name}: the published {variant}, with its recorded class on {count:,} of {images:,} images"
        )


def _log_confusion(run: Run, name: str, predicted: Predictions, before: EvaluationResult | None) -> None:
    confusion = predictions.confusion(predicted)
    run.log_figure(evaluation_charts.confusion_matrix(confusion, title=name), File.CONFUSION_MATRIX)
    if before:
        former, names = predictions.confusion(before.predictions), (before.name, name)
        run.log_figure(
            evaluation_charts.confusion_comparison(former, confusion, names=names), File.CONFUSION_COMPARISON
        )


def _log_examples(run: Run, name: str, test: Split, predicted: Predictions, seed: int) -> None:
    """Log a grid of random test images, and all three heads on one that divides the auxiliary heads."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(test), GRID_IMAGES, replace=False)
    grid = evaluation_charts.predictions(
        test.images[rows].numpy(),
        test.labels[rows].numpy(),
        predicted.predicted[rows].numpy(),
        predicted.probabilities[rows].amax(1).numpy(),
        title=name,
    )
    run.log_figure(grid, File.PREDICTIONS_PICTURE)
    if predicted.first is None or predicted.second is None:
        return
    divided = (predicted.first.argmax(1) != predicted.second.argmax(1)).nonzero().squeeze(1)
    row = int(random.choice(divided.numpy() if len(divided) else rows))
    heads = {
        "after the first wave": predicted.first[row],
        "after the second wave": predicted.second[row],
        "classifier": predicted.logits[row],
    }
    bars = {head: logits.softmax(0).numpy() for head, logits in heads.items()}
    image, label = test.images[row].numpy(), int(test.labels[row])
    title = f"{name}: image {row} as each head sees it"
    run.log_figure(evaluation_charts.auxiliary(image, label, bars, title=title), File.AUXILIARY)


def _log_embedding(run: Run, name: str, predicted: Predictions, seed: int, reporter: Reporter) -> None:
    """Draw the features, or a foreign model's logits, and log the coordinates; not of a diverged model."""
    values = predicted.logits if predicted.features is None else predicted.features
    embedded = "logits" if predicted.features is None else "features"
    if not values.isfinite().all():
        reporter.message(f"{name}: no t-SNE picture: the model has diverged (its {embedded} are not finite)")
        return
    count = len(predicted.labels)
    seconds = max(1, round(TSNE_CORE_SECONDS * count / cores()))
    reporter.message(
        f"{name}: embedding {count:,} images with t-SNE: {seconds} s on idle cores, more on busy ones"
    )
    embedding = predictions.embedding(values, seed)
    labels, classes = predicted.labels.numpy(), predicted.predicted.numpy()
    title = f"{name}: t-SNE of the {embedded}"
    run.log_figure(evaluation_charts.tsne(embedding, labels, classes, title=title), File.TSNE)
    run.log_table(predictions.embedding_table(embedding), File.EMBEDDING)
