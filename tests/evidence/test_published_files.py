"""The published files are known by their sums, and their predictions by the package."""

import pytest
import torch

from lenet_study.evidence import published_files
from lenet_study.evidence.published import published_predictions

ACCURACIES = {"baseline": 0.8965, "v1": 0.9066, "v2": 0.9205, "v3": 0.9190, "v4": 0.9254}


def test_predictions_have_the_published_accuracies():
    table = published_predictions()
    assert list(table.columns) == ["image", "label", *ACCURACIES]
    assert list(table["image"]) == list(range(10_000))
    for variant, accuracy in ACCURACIES.items():
        assert (table[variant] == table["label"]).mean() == pytest.approx(accuracy, abs=1e-9)


def test_a_published_file_is_known_by_its_sum():
    assert set(published_files.PUBLISHED_FILES) == set(ACCURACIES)
    for variant, sha256 in published_files.PUBLISHED_FILES.items():
        assert published_files.published_variant(sha256) == variant
    assert published_files.published_variant("0" * 64) == published_files.published_variant("") == ""


def test_agreement_counts_images():
    table = published_predictions()
    labels, predicted = (torch.tensor(table[column].to_numpy()) for column in ("label", "v4"))
    assert published_files.images_in_agreement("v4", predicted, labels) == 10_000
    assert published_files.images_in_agreement("v4", labels, labels) == 9254
    predicted[:3] = (predicted[:3] + 1) % 10
    assert published_files.images_in_agreement("v4", predicted, labels) == 9997


def test_other_images_cannot_be_compared():
    labels = torch.tensor([1, 2, 3])
    assert published_files.images_in_agreement("v4", labels, labels) is None
