"""Reports of long work while it goes on: on a terminal a bar per training, elsewhere plain lines."""

from __future__ import annotations

import sys

from tqdm import tqdm

from lenet_study.training.history import Epoch


class Reporter:
    """The receiver of a job's reports; it decides nothing, and this one keeps everything from the user."""

    def on_run_start(self, name: str, run_id: str, epochs: int) -> None:
        """Hear that a run is open; ``epochs`` will follow, none for an evaluation."""

    def on_epoch_end(self, name: str, epoch: Epoch) -> None:
        """Hear the figures of an epoch of a run."""

    def on_run_end(self, name: str) -> None:
        """Hear that a run has ended, be it before its last epoch."""

    def message(self, line: str) -> None:
        """Hear a line for the user."""


class Terminal(Reporter):
    """Reports to the user."""

    def __init__(self) -> None:
        self._progress: dict[str, Progress] = {}  # of each training, by its name

    def on_run_start(self, name: str, run_id: str, epochs: int) -> None:
        """Open a bar for a training."""
        if epochs:
            self._progress[name] = Progress(name, epochs)

    def on_epoch_end(self, name: str, epoch: Epoch) -> None:
        """Advance the bar, or print a line."""
        self._progress[name].show(epoch)

    def on_run_end(self, name: str) -> None:
        """Remove the bar."""
        if name in self._progress:
            self._progress.pop(name).close()

    def message(self, line: str) -> None:
        """Print a line above the bars."""
        tqdm.write(line)  # print() would tear the bars apart
        sys.stdout.flush()  # a log file is read while the work goes on


class Progress:
    """The progress of one training, which has so many epochs."""

    def __init__(self, name: str, epochs: int) -> None:
        self._name = name
        self._epochs = epochs
        self._seconds = 0.0
        off = not sys.stderr.isatty()
        # Remove a finished bar (leave=False): tqdm would redraw it among the running ones.
        self._bar = tqdm(total=epochs, desc=name, unit="epoch", disable=off, leave=False, mininterval=0)

    def show(self, epoch: Epoch) -> None:
        """Show an epoch's figures."""
        self._seconds += epoch.seconds
        metrics = f"train loss {epoch.train_loss:.3f} accuracy {epoch.train_accuracy:.2%}"
        if epoch.val_accuracy is not None:  # first: a narrow terminal cuts the end of the line
            metrics = f"val loss {epoch.val_loss:.3f} accuracy {epoch.val_accuracy:.2%}, {metrics}"
        if self._bar.disable:
            # Without a terminal, as in a log file, a bar would fill it with its copies: a line an epoch.
            left = self._seconds / epoch.epoch * (self._epochs - epoch.epoch)
            print(
                f"{self._name}  epoch {epoch.epoch}/{self._epochs}  {metrics}  "
                f"{epoch.seconds:.1f} s, {left:.0f} s left",
                flush=True,
            )
            return
        self._bar.set_postfix_str(metrics, refresh=False)  # update() draws it, once
        self._bar.update()
        if epoch.epoch == self._epochs:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
