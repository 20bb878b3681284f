"""``evaluate``: any model on the test split; the only reader of that split."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from lenet_study.evidence import predictions as evaluation
from lenet_study.evidence.figures import charts as figures
from lenet_study.evidence.predictions import Predictions
from lenet_study.execution.reporter import Reporter, Terminal
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking
from lenet_study.training import fashion_mnist as data
from lenet_study.training.hardware import Machine, tags
from lenet_study.workflows.train import variant_tags

GRID_IMAGES = 40  # random test images shown with their predictions


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    name: str
    model_run_id: str  # of the training; empty for a plain file
    predictions: Predictions
    seconds: float  # wall time


def main(*, model: str, seed: int, device: str, threads: int, data_dir: str) -> None:
    """Evaluate one model and say what came out."""
    machine = Machine(device=device, threads=threads)
    evaluate(model, seed, machine, data_dir, reporter=Terminal())


def peek(reference: str, machine: Machine, data_dir: str) -> Evaluated:
    """A model's predictions on the test images, without a run: to compare another model with."""
    start = perf_counter()
    model = registry.fetch(reference)
    device = machine.prepare()
    test = data.load_test(data.folder_of(data_dir))
    predictions = evaluation.predict(model.module.to(device), test, device)
    return Evaluated(f"{model.name} on test", model.run_id, predictions, perf_counter() - start)


def evaluate(
    reference: str,
    seed: int,
    machine: Machine,
    data_dir: str,
    study: str = "",
    before: Evaluated | None = None,
    *,
    reporter: Reporter,
) -> Evaluated:
    """Score a model on the 10,000 test images, in a run of its own.

    Args:
        reference: The model: a run id, a ``models:/…`` address, or the path of a TorchScript file.
        seed: Of the embedding and of the choice of images shown.
        machine: Where to compute.
        data_dir: Where the data is.
        study: The study it belongs to.
        before: Another model's evaluation, to set the confusion matrices side by side.
        reporter: Hears what came out.
    """
    start = perf_counter()
    model = registry.fetch(reference)
    device = machine.prepare()
    test = data.load_test(data.folder_of(data_dir))
    name = f"{model.name} on test"
    variant = str(model.description.get("variant", ""))
    with tracking.run(
        name,
        stage="evaluate",
        params={
            "model": model.reference,
            "seed": seed,
            "device": machine.device,
            "threads": machine.threads,
            "data_dir": data_dir,
        },
        tags={
            **variant_tags(variant),
            "model.run_id": model.run_id,
            "torchscript.sha256": model.file_sha256,
            "weights.sha256": model.weights_sha256,
            **tags(device),
            **({"compared.run_id": before.model_run_id} if before else {}),
        },
        description=f"{model.name} on the 10,000 test images; {model.reference}",
        study=study,
    ) as run:
        reporter.started(name, run.id, epochs=0)
        run.log_dataset(test, "test")
        predictions = evaluation.predict(model.module.to(device), test, device)
        low, high = evaluation.interval(predictions.correct, len(test))
        auxiliary = evaluation.auxiliary_scores(predictions)
        run.log_metrics(
            {
                "test/loss": predictions.loss,
                "test/accuracy": predictions.accuracy,
                "test/accuracy_low": low,
                "test/accuracy_high": high,
                **{f"auxiliary/{score}": value for score, value in auxiliary.items()},
            }
        )
        run.log_table(evaluation.per_class(predictions), "per_class.csv")
        run.log_table(evaluation.table(predictions), "predictions.csv")
        confusion = evaluation.confusion(predictions)
        run.log_figure(figures.confusion_matrix(confusion, title=name), "confusion_matrix.png")
        if before:
            matrices = evaluation.confusion(before.predictions), confusion
            comparison = figures.confusion_comparison(*matrices, names=(before.name, name))
            run.log_figure(comparison, "confusion_comparison.png")
        _log_examples(run, test, predictions, seed)
        reporter.say(
            f"{name}: accuracy {predictions.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
            f"loss {predictions.loss:.4f}; auxiliary heads {auxiliary['first_accuracy']:.2%} and "
            f"{auxiliary['second_accuracy']:.2%}, in agreement on {auxiliary['agreement']:.2%}"
        )
        if predictions.features.isfinite().all():
            reporter.say(f"{name}: embedding {len(test):,} images with t-SNE")
            embedding = evaluation.embedding(predictions.features, seed)
            labels, predicted = predictions.labels.numpy(), predictions.predicted.numpy()
            run.log_figure(figures.tsne(embedding, labels, predicted, title=name), "tsne.png")
        else:
            reporter.say(f"{name}: no t-SNE picture: the model has diverged (its features are not finite)")
        reporter.say(f"{name} {tracking.how_to_look()} {tracking.run_address(run)}")
        return Evaluated(name, model.run_id, predictions, perf_counter() - start)


def _log_examples(run: tracking.Run, test: data.Split, predictions: Predictions, seed: int) -> None:
    """A grid of random test images, and all three heads on one image that divides the auxiliary heads."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(test), GRID_IMAGES, replace=False)
    grid = figures.predictions(
        test.images[rows].numpy(),
        test.labels[rows].numpy(),
        predictions.predicted[rows].numpy(),
        predictions.probabilities[rows].amax(1).numpy(),
    )
    run.log_figure(grid, "predictions.png")

    divided = (predictions.first.argmax(1) != predictions.second.argmax(1)).nonzero().squeeze(1)
    row = int(random.choice(divided.numpy() if len(divided) else rows))
    heads = {
        "after the first wave": predictions.first[row],
        "after the second wave": predictions.second[row],
        "classifier": predictions.logits[row],
    }
    bars = {head: logits.softmax(0).numpy() for head, logits in heads.items()}
    image, label = test.images[row].numpy(), int(test.labels[row])
    run.log_figure(figures.auxiliary(image, label, bars), "auxiliary.png")
