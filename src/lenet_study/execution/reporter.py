"""What long work says while it goes on: on a terminal a bar per training, elsewhere plain lines."""

from __future__ import annotations

import sys
from typing import Protocol

from tqdm import tqdm

from lenet_study.training.loop import Epoch


class Reporter(Protocol):
    """Where a job reports to."""

    def started(self, name: str, run_id: str, epochs: int) -> None:
        """A run is open; ``epochs`` will follow, none for an evaluation."""

    def epoch(self, name: str, epoch: Epoch) -> None:
        """What an epoch of that run gave."""

    def ended(self, name: str) -> None:
        """That run ended before its last epoch."""

    def say(self, line: str) -> None:
        """A line for the user."""


class Terminal:
    """Reports to the user."""

    def __init__(self) -> None:
        self._trainings: dict[str, Progress] = {}

    def started(self, name: str, run_id: str, epochs: int) -> None:
        """Open a bar for a training."""
        if epochs:
            self._trainings[name] = Progress(name, epochs)

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Move the bar on, or print a line."""
        self._trainings[name](epoch)

    def ended(self, name: str) -> None:
        """Close the bar of a training that ends early."""
        if name in self._trainings:
            self._trainings[name].close()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        tqdm.write(line)
        sys.stdout.flush()


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
        off = not sys.stderr.isatty()
        # A bar that is done goes: left to stand, it would be torn apart by those beside it.
        self._bar = tqdm(total=epochs, desc=name, unit="epoch", disable=off, leave=False, mininterval=0)

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

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()
