"""Scores of predictions: against values worked out by hand."""

import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lenet_study
from lenet_study.evidence import export
from lenet_study.evidence.predictions import (
    Predictions,
    auxiliary_scores,
    confusion,
    embedding,
    per_class,
    predict,
    table,
)
from lenet_study.evidence.statistics import wilson_interval
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.loop import EVALUATION_BATCH
from lenet_study.training.model import CLASSES, LeNet


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def voting(classes, weight=4.0):
    """Logits whose largest is at the given classes."""
    return weight * torch.eye(10)[torch.tensor(classes)]


def predictions(true, predicted, first=None, second=None):
    return Predictions(
        logits=voting(predicted),
        first=voting(first or predicted),
        second=voting(second or predicted),
        features=torch.zeros(len(true), 84),
        labels=torch.tensor(true),
    )


# ---- predict ----


class Fingerprint(nn.Module):
    """Each output depends on its own image alone, in whole numbers; notes the batches it was given."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return self.numbers(images, 1)

    def features(self, images):
        return self.numbers(images, 2)

    def auxiliary(self, images):
        return self.numbers(images, 3), self.numbers(images, 4)

    def numbers(self, images, row):
        return (255 * images[:, 0, row, :10]).round()


def random_split(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, 10, (count,), generator=generator))


@pytest.mark.parametrize("count", [1, EVALUATION_BATCH, 2 * EVALUATION_BATCH + 1])
def test_predict_keeps_every_image_in_order(count):
    split, model = random_split(count), Fingerprint()
    result = predict(model, split, torch.device("cpu"))
    parts = (result.logits, result.features, result.first, result.second)
    for row, part in enumerate(parts, start=1):
        assert torch.equal(part, split.images[:, row, :10].float())
    assert torch.equal(result.labels, split.labels)
    assert max(model.batches) <= EVALUATION_BATCH
    assert sum(model.batches) == count


def test_predict_of_an_exported_model_equals_a_single_pass(tmp_path):
    model, normalise = LeNet(VARIANTS["baseline"], seed=0).eval(), Normalisation(0.3, 0.35)
    export.save_torchscript(export.exportable(model, normalise, {}), tmp_path / "model.pt")
    split = random_split(EVALUATION_BATCH + 10)
    result = predict(export.load_torchscript(tmp_path / "model.pt"), split, torch.device("cpu"))
    images = normalise(split.images)
    with torch.no_grad():
        logits, first, second = model.heads(images)
        features = model.features(images)
    pairs = (
        (result.logits, logits),
        (result.first, first),
        (result.second, second),
        (result.features, features),
    )
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        assert not actual.requires_grad
        assert actual.dtype == torch.float32


def test_loss_and_accuracy_are_means_over_images():
    logits = torch.tensor([[0.0, 1, 2] + [-1] * 7, [3.0, 0, 0] + [0] * 7, [0.5] * 10, [0, 9.0] + [0] * 8])
    labels = [2, 1, 4, 1]
    result = Predictions(logits, logits, logits, logits, torch.tensor(labels))
    rows = logits.tolist()
    losses = [
        log(sum(exp(value) for value in row)) - row[label] for row, label in zip(rows, labels, strict=True)
    ]
    assert result.loss == pytest.approx(sum(losses) / 4, rel=1e-9)
    assert result.predicted.tolist() == [2, 0, 0, 1]  # a tie goes to the first class
    assert result.correct == 2
    assert result.accuracy == 0.5
    for row, probabilities in zip(rows, result.probabilities.tolist(), strict=True):
        total = sum(exp(value) for value in row)
        assert probabilities == pytest.approx([exp(value) / total for value in row], rel=1e-5)


# ---- interval ----


@pytest.mark.parametrize(
    ("correct", "total"), [(0, 10), (10, 10), (1, 1), (5, 10), (9_123, 10_000), (10_000, 10_000)]
)
def test_interval_is_wilsons(correct, total):
    z, share = 1.959964, correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    low, high = wilson_interval(correct, total)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-7)
    assert 0 <= low <= share <= high <= 1
    assert type(low) is type(high) is float


def test_interval_of_all_or_nothing_ends_there():
    assert wilson_interval(0, 10) == pytest.approx((0, 0.277533), abs=1e-6)  # z² / (n + z²)
    assert wilson_interval(10, 10) == pytest.approx((0.722467, 1), abs=1e-6)


# ---- confusion and scores ----

# 3 pullovers (2): one right, two taken for coats (4); 4 coats: all right; 2 shirts (6): one right, one
# taken for a pullover; 1 bag (8) taken for a shirt.
TRUE = [2, 2, 2, 4, 4, 4, 4, 6, 6, 8]
PREDICTED = [2, 4, 4, 4, 4, 4, 4, 6, 2, 6]


def test_confusion_has_true_rows_and_predicted_columns():
    counts = confusion(predictions(TRUE, PREDICTED))
    assert counts.shape == (10, 10)
    assert np.issubdtype(counts.dtype, np.integer)
    present = {(int(row), int(column)): int(counts[row, column]) for row, column in np.argwhere(counts)}
    assert present == {(2, 2): 1, (2, 4): 2, (4, 4): 4, (6, 6): 1, (6, 2): 1, (8, 6): 1}


def test_per_class_scores():
    scores = per_class(predictions(TRUE, PREDICTED))
    assert list(scores.columns) == ["class", "precision", "recall", "f1", "images"]
    assert list(scores["class"]) == list(CLASSES)
    expected = {  # precision, recall, F1, images
        "Pullover": (1 / 2, 1 / 3, 2 / 5, 3),
        "Coat": (4 / 6, 4 / 4, 4 / 5, 4),
        "Shirt": (1 / 2, 1 / 2, 1 / 2, 2),
        "Bag": (0, 0, 0, 1),  # never predicted
    }
    for name, *row in scores.itertuples(index=False):
        assert row == pytest.approx(expected.get(name, (0, 0, 0, 0))), name
    assert not scores.isna().any(axis=None)


def test_auxiliary_scores():
    scores = auxiliary_scores(
        predictions(
            [0, 1, 2, 3, 4],
            [9, 9, 9, 9, 9],  # the classifier has no say in these
            first=[0, 1, 2, 9, 7],  # three right
            second=[0, 1, 5, 9, 8],  # two right; three times the same as the first
        )
    )
    expected = {"first_accuracy": 0.6, "second_accuracy": 0.4, "agreement": 0.6}
    assert asdict(scores) == pytest.approx(expected)


def test_table_has_a_row_per_image():
    result = predictions([2, 4, 9], [2, 6, 9], first=[1, 6, 0], second=[2, 4, 9])
    rows = table(result)
    total = exp(4) + 9
    expected = {
        "image": [0, 1, 2],
        "true": ["Pullover", "Coat", "Ankle boot"],
        "predicted": ["Pullover", "Shirt", "Ankle boot"],
        "probability": [exp(4) / total] * 3,
        "true_probability": [exp(4) / total, 1 / total, exp(4) / total],
        "auxiliary_first": ["Trouser", "Shirt", "T-shirt/top"],
        "auxiliary_second": ["Pullover", "Coat", "Ankle boot"],
    }
    assert list(rows.columns) == list(expected)
    for column, values in expected.items():
        if "probability" in column:
            assert list(rows[column]) == pytest.approx(values), column
        else:
            assert list(rows[column]) == values, column


def test_a_single_image_is_enough():
    result = predictions([3], [5], first=[3], second=[3])
    (row,) = table(result).itertuples(index=False)
    assert (row.true, row.predicted, row.auxiliary_first) == ("Dress", "Sandal", "Dress")
    assert confusion(result)[3, 5] == 1
    assert auxiliary_scores(result).agreement == 1


# ---- embedding ----


def clusters(size, units=20):
    """Three groups far apart, one after the other."""
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.eye(3, units).repeat_interleave(size, 0)
    return centres + torch.randn(3 * size, units, generator=generator)


@pytest.mark.parametrize("size", [4, 40])
def test_embedding_keeps_clusters_apart(size):
    points = embedding(clusters(size), seed=0)
    assert points.shape == (3 * size, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    groups = points.reshape(3, size, 2)
    centres = groups.mean(1)
    distance = np.linalg.norm(points[:, None] - centres, axis=-1)
    assert (distance.argmin(1) == np.repeat(np.arange(3), size)).all()


def test_embedding_depends_on_features_and_seed_alone():
    features = clusters(10)
    before = features.clone()
    first = embedding(features, seed=3)
    np.random.seed(1)  # numpy's global state is not involved
    np.testing.assert_array_equal(first, embedding(features, seed=3))
    assert torch.equal(features, before)


def test_embedding_of_a_collapsed_model():
    """All images share their features; scikit-learn's default start then ends the whole process."""
    code = (
        "import torch, numpy; from lenet_study.evidence.predictions import embedding;"
        "torch.set_num_threads(1);"
        "assert numpy.isfinite(embedding(torch.zeros(12, 84), seed=0)).all()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(lenet_study.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
