"""``evaluate``: any model on the test split; the only reader of that split."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter

import numpy as np
import torch

from lenet_study.evidence import predictions
from lenet_study.evidence.figures import evaluation_charts
from lenet_study.evidence.predictions import Predictions
from lenet_study.evidence.statistics import wilson_interval
from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import links, registry
from lenet_study.tracking.registry import LoadedModel
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import runs_with
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
    seed: int = 0  # of the embedding and of the choice of images shown
    hardware: Hardware = Hardware()
    data: DataFiles = field(default_factory=DataFiles.at)
    study: str = ""  # id of the study's run that it belongs to
    parent_work: str = ""  # id of the search's run that it belongs to
    before: EvaluationResult | None = None  # another model's, to set the confusion matrices side by side
    resume: str = ""  # id of the interrupted run to go on with; empty begins one

    @classmethod
    def of(cls, model: str, job: TrainingJob, before: EvaluationResult | None = None) -> EvaluationJob:
        """Return the evaluation of a model as a training was done: same seed, hardware, images and work."""
        return cls(
            model=model,
            seed=job.recipe.config.seed,
            hardware=job.hardware,
            data=job.data,
            study=job.study,
            parent_work=job.parent,
            before=before,
        )

    def run(self, reporter: Reporter, monitor: Monitor) -> EvaluationResult:
        """Score the model, once the store answers; see ``evaluate_once``."""
        wait_for_store(reporter)
        return evaluate_once(self, reporter)


def predict_untracked(job: EvaluationJob) -> EvaluationResult:
    """Predict the test images without a run: to compare another model with."""
    start = perf_counter()
    model = registry.load_model(job.model)
    device = job.hardware.prepare()
    predicted = predictions.predict(model.module.to(device), job.data.test(), device)
    return EvaluationResult(f"{model.name} on test", model.run_id, predicted, perf_counter() - start)


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
    """Score a model on the 10,000 test images, in a run of its own."""
    start = perf_counter()
    model = registry.load_model(job.model)
    device = job.hardware.prepare()
    test = job.data.test()
    name = f"{model.name} on test"
    with _open_evaluation_run(job, name, model, device, reporter) as run:
        reporter.on_run_start(name, run.id, 0)
        try:
            run.log_dataset(test, "test")
            predicted = predictions.predict(model.module.to(device), test, device)
            reporter.message(f"{name}: {_log_scores(run, predicted)}")
            _log_confusion(run, name, predicted, job.before)
            _log_examples(run, test, predicted, job.seed)
            _log_embedding(run, name, predicted, job.seed, reporter)
        finally:
            reporter.on_run_end(name)
        if not (job.study or job.parent_work):
            reporter.on_address(links.how_to_look(), name, links.run_address(run))
    if model.run_id and not job.study:  # a study renews all its cards at its end
        renew_cards(model.run_id, reporter)
    return EvaluationResult(name, model.run_id, predicted, perf_counter() - start)


def _open_evaluation_run(
    job: EvaluationJob, name: str, model: LoadedModel, device: torch.device, reporter: Reporter
) -> AbstractContextManager[Run]:
    return open_run(
        name,
        stage="evaluate",
        params={
            "model": model.reference,
            "seed": job.seed,
            **asdict(job.hardware),
            "data_dir": str(job.data.folder),
        },
        tags={
            **variant_tags(model.variant),
            Tag.MODEL_RUN_ID: model.run_id,
            Tag.TORCHSCRIPT_SHA256: model.torchscript_sha256,
            Tag.WEIGHTS_SHA256: model.weights_sha256,
            **hardware_tags(device),
            **({Tag.COMPARED_RUN_ID: job.before.model_run_id} if job.before else {}),
            **({Tag.PARENT_WORK: job.parent_work} if job.parent_work else {}),
        },
        description=f"{model.name} on the 10,000 test images; {model.reference}",
        study=job.study,
        resume=job.resume,
        message=reporter.message,
    )


def _log_scores(run: Run, predicted: Predictions) -> str:
    """Log all scores of the classifier and the auxiliary heads; return them in words."""
    low, high = wilson_interval(predicted.correct, len(predicted.labels))
    heads = predictions.auxiliary_scores(predicted)
    run.log_metrics(
        {
            Metric.TEST_LOSS: predicted.loss,
            Metric.TEST_ACCURACY: predicted.accuracy,
            Metric.TEST_ACCURACY_LOW: low,
            Metric.TEST_ACCURACY_HIGH: high,
            Metric.AUXILIARY_FIRST: heads.first_accuracy,
            Metric.AUXILIARY_SECOND: heads.second_accuracy,
            Metric.AUXILIARY_AGREEMENT: heads.agreement,
        }
    )
    run.log_table(predictions.per_class(predicted), File.PER_CLASS)
    run.log_table(predictions.table(predicted), File.PREDICTIONS)
    return (
        f"accuracy {predicted.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), loss "
        f"{predicted.loss:.4f}; auxiliary heads {heads.first_accuracy:.2%} and {heads.second_accuracy:.2%}, "
        f"in agreement on {heads.agreement:.2%}"
    )


def _log_confusion(run: Run, name: str, predicted: Predictions, before: EvaluationResult | None) -> None:
    confusion = predictions.confusion(predicted)
    run.log_figure(evaluation_charts.confusion_matrix(confusion, title=name), File.CONFUSION_MATRIX)
    if before:
        former, names = predictions.confusion(before.predictions), (before.name, name)
        run.log_figure(
            evaluation_charts.confusion_comparison(former, confusion, names=names), File.CONFUSION_COMPARISON
        )


def _log_examples(run: Run, test: Split, predicted: Predictions, seed: int) -> None:
    """Log a grid of random test images, and all three heads on one that divides the auxiliary heads."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(test), GRID_IMAGES, replace=False)
    grid = evaluation_charts.predictions(
        test.images[rows].numpy(),
        test.labels[rows].numpy(),
        predicted.predicted[rows].numpy(),
        predicted.probabilities[rows].amax(1).numpy(),
    )
    run.log_figure(grid, File.PREDICTIONS_PICTURE)

    divided = (predicted.first.argmax(1) != predicted.second.argmax(1)).nonzero().squeeze(1)
    row = int(random.choice(divided.numpy() if len(divided) else rows))
    heads = {
        "after the first wave": predicted.first[row],
        "after the second wave": predicted.second[row],
        "classifier": predicted.logits[row],
    }
    bars = {head: logits.softmax(0).numpy() for head, logits in heads.items()}
    run.log_figure(
        evaluation_charts.auxiliary(test.images[row].numpy(), int(test.labels[row]), bars), File.AUXILIARY
    )


def _log_embedding(run: Run, name: str, predicted: Predictions, seed: int, reporter: Reporter) -> None:
    """Log a picture of the features, unless the model has diverged."""
    if not predicted.features.isfinite().all():
        reporter.message(f"{name}: no t-SNE picture: the model has diverged (its features are not finite)")
        return
    count = len(predicted.labels)
    seconds = max(1, round(TSNE_CORE_SECONDS * count / cores()))
    reporter.message(
        f"{name}: embedding {count:,} images with t-SNE: {seconds} s on idle cores, more on busy ones"
    )
    embedding = predictions.embedding(predicted.features, seed)
    labels, classes = predicted.labels.numpy(), predicted.predicted.numpy()
    run.log_figure(evaluation_charts.tsne(embedding, labels, classes, title=name), File.TSNE)
