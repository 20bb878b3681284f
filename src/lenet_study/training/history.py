"""The record of an epoch, and where a training stands within one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Figures of one epoch; losses and accuracies are means over images."""

    epoch: int  # counts from 1
    learning_rate: float
    train_loss: float  # cross-entropy, nats; over the augmented images, as they were trained on
    train_accuracy: float  # 0..1
    val_loss: float | None  # None without a validation split
    val_accuracy: float | None
    seconds: float  # training and validation

    def better_than(self, other: Epoch | None) -> bool:
        """Return whether the validation accuracy is higher; without validation a later epoch is better."""
        if other is None or self.val_accuracy is None or other.val_accuracy is None:
            return True
        return self.val_accuracy > other.val_accuracy


@dataclass(frozen=True)
class EpochProgress:
    """Progress within an epoch."""

    epoch: int  # counts from 1
    images: int  # trained on so far
    images_per_epoch: int
    loss: float  # mean cross-entropy over them, nats
    seconds: float  # since the epoch began
