"""Fashion-MNIST as uint8 tensors: splits, folds, normalisation and digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from lenet_study.errors import UserError

VALIDATION_FRACTION = 0.2  # the report's


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 28, 28] with their classes int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: np.ndarray) -> Split:
        """Return the images at the given rows, in that order."""
        return Split(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> Split:
        """Return the same images in the memory of ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def digest(self) -> str:
        """Return the SHA-256 sum over the bytes of all images, then of all labels."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of grey levels scaled to [0, 1]."""

    mean: float
    std: float

    @classmethod
    def of(cls, images: Tensor) -> Normalisation:
        """Compute both over all pixels of uint8 images, from exact integer sums."""
        counts = torch.bincount(images.flatten(), minlength=256).tolist()
        total = sum(counts)
        mean = sum(level * count for level, count in enumerate(counts)) / total
        square = sum(level * level * count for level, count in enumerate(counts)) / total
        return cls(mean=mean / 255, std=(square - mean * mean) ** 0.5 / 255)

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 [N, 28, 28] into the model's input: float32 [N, 1, 28, 28]."""
        return images.unsqueeze(1).float().div_(255).sub_(self.mean).div_(self.std)


def split(labels: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on (80 %) and to validate on (20 %), stratified by class, shuffled by seed."""
    rows = np.arange(len(labels))
    train, validation = train_test_split(
        rows, test_size=VALIDATION_FRACTION, stratify=labels.numpy(), random_state=seed
    )
    return train, validation


def folds(labels: Tensor, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to train on and rows to validate on of each stratified fold; refuse folds too many."""
    rarest = int(torch.bincount(labels).min())
    if not 2 <= count <= rarest:
        raise UserError(
            f"folds={count} does not fit the {rarest} images of the rarest class: "
            f"choose folds between 2 and {rarest}"
        )
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels.numpy()))
