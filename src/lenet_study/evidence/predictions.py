"""Predictions of a trained model: scores, confusion, agreement, embedding."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy

from lenet_study.evidence.export import as_input
from lenet_study.training.dataset import Split
from lenet_study.training.hardware import cores
from lenet_study.training.loop import EVALUATION_BATCH
from lenet_study.training.model import CLASSES


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for N images, on the CPU; a foreign one may lack heads, and tells no features."""

    logits: torch.Tensor  # float32 [N, 10]
    first: torch.Tensor | None  # auxiliary head after the first wave, float32 [N, 10]
    second: torch.Tensor | None  # auxiliary head after the second wave, float32 [N, 10]
    features: torch.Tensor | None  # penultimate layer, float32 [N, hidden units]
    labels: torch.Tensor  # true classes, int64 [N]

    @property
    def predicted(self) -> torch.Tensor:
        """Predicted classes, int64 [N]."""
        return self.logits.argmax(1)

    @property
    def correct(self) -> int:
        """Number of images whose class was predicted."""
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Fraction of images whose class was predicted."""
        return self.correct / len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image, nats."""
        return cross_entropy(self.logits.double(), self.labels).item()

    @property
    def probabilities(self) -> torch.Tensor:
        """Class probabilities of the classifier, float32 [N, 10]."""
        return self.logits.softmax(1)


def predict(model: torch.jit.ScriptModule, split: Split, device: torch.device) -> Predictions:
    """Run an exported model, which is on ``device``, over all images."""

    def answer(images: torch.Tensor) -> Sequence[torch.Tensor]:
        batch = as_input(images)
        return [model(batch), *model.auxiliary(batch), model.features(batch)]

    logits, first, second, features = outputs(answer, split.images, device)
    return Predictions(logits, first, second, features, split.labels)


@torch.no_grad()
def outputs(
    answer: Callable[[torch.Tensor], Sequence[torch.Tensor]], images: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Return what a function of uint8 images [N, 28, 28] on ``device`` makes of all, batch by batch."""
    batches = [answer(batch.to(device)) for batch in images.split(EVALUATION_BATCH)]
    return tuple(torch.cat(parts).cpu() for parts in zip(*batches, strict=True))


def confusion(predictions: Predictions) -> np.ndarray:
    """Return numbers of images [10, 10]: rows are true classes, columns predicted ones."""
    return confusion_matrix(predictions.labels, predictions.predicted, labels=np.arange(len(CLASSES)))


def per_class(predictions: Predictions) -> pd.DataFrame:
    """Return precision, recall, F1 and number of images of each class."""
    scores = precision_recall_fscore_support(
        predictions.labels, predictions.predicted, labels=np.arange(len(CLASSES)), zero_division=0.0
    )
    columns = ("class", "precision", "recall", "f1", "images")
    return pd.DataFrame(dict(zip(columns, (CLASSES, *scores), strict=True)))


@dataclass(frozen=True)
class AuxiliaryScores:
    """Accuracy of both auxiliary heads, and how often they name the same class, 0..1."""

    first_accuracy: float
    second_accuracy: float
    agreement: float


def auxiliary_scores(predictions: Predictions) -> AuxiliaryScores | None:
    """Score the auxiliary heads over all images, if there are any.

    The report averages the agreement over a few batches.
    """
    if predictions.first is None or predictions.second is None:
        return None
    first, second = predictions.first.argmax(1), predictions.second.argmax(1)
    matches = (first == predictions.labels, second == predictions.labels, first == second)
    return AuxiliaryScores(*(match.double().mean().item() for match in matches))


def table(predictions: Predictions) -> pd.DataFrame:
    """Return a row per image, in file order: true and predicted class, probabilities, heads if any."""
    names = np.array(CLASSES)
    true_probability = predictions.probabilities.gather(1, predictions.labels[:, None])
    heads = {"auxiliary_first": predictions.first, "auxiliary_second": predictions.second}
    return pd.DataFrame(
        {
            "image": np.arange(len(predictions.labels)),
            "true": names[predictions.labels],
            "predicted": names[predictions.predicted],
            "probability": predictions.probabilities.amax(1).numpy(),
            "true_probability": true_probability.squeeze(1).numpy(),
            **{name: names[head.argmax(1)] for name, head in heads.items() if head is not None},
        }
    )


def embedding(features: torch.Tensor, seed: int) -> np.ndarray:
    """Return two t-SNE coordinates per image: float32 [N, 2] (van der Maaten and Hinton 2008)."""
    perplexity = min(30.0, (len(features) - 1) / 3)  # sklearn's default, smaller for few images
    start = "pca" if (features != features[0]).any() else "random"  # PCA of equal rows is NaN
    jobs = 1 if multiprocessing.current_process().daemon else cores()  # joblib starts none below a worker
    tsne = TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=jobs)
    # All cores, whatever trainings may take: t-SNE gives the same numbers on any, and takes a minute on one.
    with threadpool_limits(cores(), user_api="openmp"):
        return tsne.fit_transform(features.numpy())


def embedding_table(coordinates: np.ndarray) -> pd.DataFrame:
    """Return a row per image, in file order: its coordinates float [N, 2] to a thousandth."""
    x, y = np.round(coordinates.astype(float), 3).T
    return pd.DataFrame({"image": np.arange(len(coordinates)), "x": x, "y": y})
