"""The TorchScript files that the study published: known by their sums, and what they predict."""

from __future__ import annotations

from torch import Tensor

from lenet_study.evidence.published import published_predictions

# SHA-256 of the files that the study published, by the column of their predictions.
PUBLISHED_FILES = {
    "baseline": "b8a1b7f265d243d53afc1ea757dd94b6b9a9bbab267ad60c6a43306eb95cf255",
    "v1": "4e38d432594db527629741f2fdbca7f4712aa4fa01a022541235141150b597b6",
    "v2": "bbe655bc55f9339527221063d165b20cc088b7390794cf17ce18824458340c34",
    "v3": "b6470b0b102ae94ab5c261a6cd8eef86f9c8c43634a27a6dd9cee4b1bad7ba3e",
    "v4": "26c1091ed4e765c9921ea3a5b3211d9544d40824b439ba347b7b1ef02c7e52d4",
}


def published_variant(sha256: str) -> str:
    """Return the variant whose published file has this SHA-256 sum; empty if none has."""
    return next((variant for variant, known in PUBLISHED_FILES.items() if known == sha256), "")


def images_in_agreement(variant: str, predicted: Tensor, labels: Tensor) -> int | None:
    """Return for how many images the published weights of a variant predict the same class.

    Args:
        variant: One of ``PUBLISHED_FILES``.
        predicted: Classes int64 [N].
        labels: True classes int64 [N]; other images than the published ones give None.
    """
    published = published_predictions()
    if published["label"].tolist() != labels.tolist():
        return None
    return int((published[variant].to_numpy() == predicted.numpy()).sum())
