"""Reports of long work while it goes on: on a terminal a bar per training, elsewhere plain lines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NoReturn

from tqdm import tqdm

from lenet_study.training.history import Epoch, EpochProgress

QUIET_SECONDS = 28.0  # without a terminal, after which open work says how far it is: every 30 s at least
_BAR = "{desc}: {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} {unit}{postfix}"


class Reporter:
    """The receiver of a job's reports; it decides nothing, and this one keeps everything from the user."""

    def on_plan(self, name: str, sizes: Mapping[str, float]) -> None:
        """Hear the trainings of a larger work by name, and how long each takes relative to the others."""

    def on_run_start(self, name: str, run_id: str, epochs: int) -> None:
        """Hear that a run is open; ``epochs`` will follow, none for an evaluation."""

    def on_progress(self, name: str, progress: EpochProgress) -> None:
        """Hear how far an epoch of a run is."""

    def on_epoch_end(self, name: str, epoch: Epoch) -> None:
        """Hear the figures of an epoch of a run."""

    def on_run_end(self, name: str) -> None:
        """Hear that a run has ended, be it before its last epoch."""

    def on_address(self, instruction: str, name: str, address: str) -> None:
        """Hear the address of a run's page, and what to do before it opens."""

    def message(self, line: str) -> None:
        """Hear a line for the user."""


class Terminal(Reporter):
    """Reports to the user, from several threads."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._lock = threading.RLock()
        self._open: dict[str, Progress] = {}  # by the names of the runs
        self._plan = Plan("", {})
        self._addresses: dict[str, list[str]] = {}  # by instruction
        self._watched = sys.stderr.isatty()  # by whom sees the bars move
        self._closed = threading.Event()

    def on_plan(self, name: str, sizes: Mapping[str, float]) -> None:
        """Say from now on how long all of it will take."""
        with self._lock:
            if name == self._plan.name:
                self._plan.sizes = dict(sizes)  # how far it is stays known
            else:
                self._plan.close()
                self._plan = Plan(name, sizes)

    def on_run_start(self, name: str, run_id: str, epochs: int) -> None:
        """Open a bar for a training."""
        with self._lock:
            self._open[name] = Progress(name, epochs)
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, daemon=True).start()

    def on_progress(self, name: str, progress: EpochProgress) -> None:
        """Move the bar."""
        with self._lock:
            if bar := self._open.get(name):
                bar.show_within(progress)
                self._plan.advance(name, bar.share)

    def on_epoch_end(self, name: str, epoch: Epoch) -> None:
        """Move the bar, or print a line."""
        with self._lock:
            if bar := self._open.get(name):
                self._plan.advance(name, epoch.epoch / bar.epochs)
                bar.show(epoch, self._plan.text)

    def on_run_end(self, name: str) -> None:
        """Remove the bar."""
        with self._lock:
            if name in self._open:
                self._open.pop(name).close()
            self._plan.finish(name)

    def on_address(self, instruction: str, name: str, address: str) -> None:
        """Keep an address for the end of the command."""
        self._addresses.setdefault(instruction, []).append(f"  {name}: {address}")

    def message(self, line: str) -> None:
        """Print a line above the bars."""
        with self._lock:
            tqdm.write(line)  # print() would tear the bars apart
            sys.stdout.flush()  # a log file is read while the work goes on

    def close(self) -> None:
        """Print all addresses: the command has ended."""
        self._closed.set()
        self._plan.close()
        for instruction, lines in self._addresses.items():
            self.message("\n".join([instruction, *lines]))

    def _watch(self) -> None:
        """Let no open work be silent for long, whatever it does: a t-SNE reports nothing for a minute."""
        while not self._closed.wait(self._quiet_seconds / QUIET_SECONDS):
            with self._lock:
                for progress in self._open.values():
                    progress.break_silence(self._quiet_seconds, self._plan.text)


class Plan:
    """The progress of a larger work, and its bar.

    Attributes:
        sizes: How long each training takes, relative to the others, by its name.
    """

    def __init__(self, name: str, sizes: Mapping[str, float]) -> None:
        self.name = name
        self.sizes = dict(sizes)
        self._shares: dict[str, float] = {}  # done of each training, 0..1
        self._start = perf_counter()
        self._bar = _bar(name, 100 if sizes else 0, "%")

    def advance(self, name: str, share: float) -> None:
        """Take note that a share of a training is done."""
        if name in self.sizes:
            self._shares[name] = share
            done, total = self._done(), sum(self.sizes.values())
            self._bar.set_postfix_str(self.text.removeprefix(", "), refresh=False)
            self._bar.update(round(100 * done / total) - self._bar.n)

    def finish(self, name: str) -> None:
        """Take note that a training has ended; one that never began was done before, in no time."""
        if name in self._shares:
            self.advance(name, 1.0)
        else:
            self.sizes.pop(name, None)

    @property
    def text(self) -> str:
        """The time left for all of it, as the end of a line; empty before anything is done."""
        done = self._done()
        if not done:
            return ""
        left = (perf_counter() - self._start) * (sum(self.sizes.values()) / done - 1)
        return f", about {duration(left)} left for the {self.name}"

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _done(self) -> float:
        return sum(self.sizes.get(name, 0.0) * share for name, share in self._shares.items())


class Progress:
    """The progress of one run: so many epochs of a training, or none of another work."""

    def __init__(self, name: str, epochs: int) -> None:
        self.epochs = epochs
        self.share = 0.0  # of all epochs, 0..1
        self._name = name
        self._seconds = 0.0  # of the epochs that are done
        self._figures = ""  # of the last one
        self._within = ""  # how far the present one is
        self._start = self._last_line = perf_counter()
        self._bar = _bar(name, epochs, "epochs")

    def show_within(self, progress: EpochProgress) -> None:
        """Show how far an epoch is."""
        before, fraction = progress.epoch - 1, progress.images / progress.images_per_epoch
        self.share = (before + fraction) / self.epochs
        # Until an epoch has ended, its beginning tells how long one takes.
        seconds = self._seconds / before if before else progress.seconds / fraction
        self._within = (
            f"epoch {progress.epoch}/{self.epochs}, {progress.images:,} of "
            f"{progress.images_per_epoch:,} images, loss {progress.loss:.3f}, "
            f"{duration(seconds * (self.epochs - before - fraction))} left"
        )
        self._draw(
            round(before + fraction, 2),
            self._within + (f"; before: {self._figures}" if self._figures else ""),
        )

    def show(self, epoch: Epoch, rest: str = "") -> None:
        """Show an epoch's figures; ``rest`` ends the line."""
        self._seconds += epoch.seconds
        self.share = epoch.epoch / self.epochs
        self._figures = f"train loss {epoch.train_loss:.3f} accuracy {epoch.train_accuracy:.2%}"
        if epoch.val_accuracy is not None:  # first: a narrow terminal cuts the end of the line
            self._figures = (
                f"val loss {epoch.val_loss:.3f} accuracy {epoch.val_accuracy:.2%}, {self._figures}"
            )
        left = duration(self._seconds / epoch.epoch * (self.epochs - epoch.epoch))
        # Without a terminal, as in a log file, a bar would fill it with its copies: a line an epoch.
        self._print(
            f"epoch {epoch.epoch}/{self.epochs}  {self._figures}  {epoch.seconds:.1f} s, {left} left{rest}"
        )
        self._within = ""
        self._draw(epoch.epoch, f"{self._figures}, {left} left")
        if epoch.epoch == self.epochs:
            self.close()

    def break_silence(self, seconds: float, rest: str) -> None:
        """Print how far the work is, if it has been silent for so long; ``rest`` ends the line."""
        if perf_counter() - self._last_line >= seconds:
            self._print((self._within or f"at work for {duration(perf_counter() - self._start)}") + rest)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _print(self, line: str) -> None:
        if not sys.stderr.isatty():
            print(f"{self._name}  {line}", flush=True)
            self._last_line = perf_counter()

    def _draw(self, done: float, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)  # update() draws it, once
        self._bar.update(done - self._bar.n)


def _bar(name: str, total: int, unit: str) -> tqdm[NoReturn]:
    """Return a bar that is drawn at each update; without a terminal, or a total, one that is never drawn."""
    off = not total or not sys.stderr.isatty()
    options: dict[str, Any] = {"mininterval": 0, "miniters": 0, "bar_format": _BAR}
    # Remove a finished bar (leave=False): tqdm would redraw it among the running ones.
    return tqdm(total=total, desc=name, unit=unit, disable=off, leave=False, **options)


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(99.4), duration(100), duration(7200)
    ('99 s', '2 min', '2.0 h')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5990 else f"{seconds / 3600:.1f} h"
