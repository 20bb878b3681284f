"""A progress bar with metrics and time left on a terminal; plain lines elsewhere."""

from __future__ import annotations

import sys

from tqdm import tqdm

from lenet_study.training import Epoch


class Progress:
    """Call it with every epoch of one training.

    Args:
        name: The training's name.
        epochs: How many epochs there will be.
    """

    def __init__(self, name: str, epochs: int) -> None:
        self._name = name
        self._epochs = epochs
        self._seconds = 0.0
        self._bar = tqdm(total=epochs, desc=name, unit="epoch", disable=not sys.stderr.isatty())

    def __call__(self, epoch: Epoch) -> None:
        """Show what the epoch gave; close after the last."""
        self._seconds += epoch.seconds
        metrics = f"train loss {epoch.train_loss:.3f} accuracy {epoch.train_accuracy:.2%}"
        if epoch.val_accuracy is not None:  # first: what does not fit a narrow terminal is cut
            metrics = f"val loss {epoch.val_loss:.3f} accuracy {epoch.val_accuracy:.2%}, {metrics}"
        if self._bar.disable:
            left = self._seconds / epoch.epoch * (self._epochs - epoch.epoch)
            print(
                f"{self._name}  epoch {epoch.epoch}/{self._epochs}  {metrics}  "
                f"{epoch.seconds:.1f} s, {left:.0f} s left",
                flush=True,
            )
            return
        self._bar.set_postfix_str(metrics, refresh=False)
        self._bar.update()
        if epoch.epoch == self._epochs:
            self._bar.close()
