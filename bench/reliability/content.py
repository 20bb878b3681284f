"""What a store holds of a piece of work, and in what it differs from that of an uninterrupted one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import mlflow

from lenet_study.tracking.schema import Metric, Tag

_TIMES = (Metric.EPOCH_SECONDS, Metric.STUDY_SECONDS)  # differ from run to run, as do those of the system
Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class StoredRun:
    """A run: status, sum of its weights, and of each metric the steps and values as they were logged."""

    name: str
    status: str
    weights: str
    history: Mapping[str, Points]
    begun: bool = True  # it has its params: there is something to go on with


@dataclass(frozen=True)
class Steps:
    """How many steps of metrics are missing, and how many are there more than once."""

    lost: int = 0
    doubled: int = 0


@dataclass(frozen=True)
class Content:
    """What a store holds: runs by their names, which tell one piece of work from another, and versions."""

    runs: Mapping[str, list[StoredRun]]
    versions: int

    def has_begun(self) -> bool:
        """Return whether there is a run with its params."""
        return any(run.begun for runs in self.runs.values() for run in runs)

    def statuses(self) -> list[str]:
        """Return the statuses of all runs."""
        return sorted(run.status for runs in self.runs.values() for run in runs)

    def deviations(self, whole: Content) -> list[str]:
        """Return in what this differs from what an uninterrupted command left: one phrase each."""
        found = ["a run is still RUNNING"] if "RUNNING" in self.statuses() else []
        for name, (expected,) in whole.runs.items():
            finished = self._finished(name)
            if len(finished) != 1:
                found.append(
                    f"{len(finished)} runs of one unit FINISHED" if finished else "a unit is missing"
                )
            elif finished[0].weights != expected.weights:
                found.append("other weights")
            elif finished[0].history != expected.history:
                found.append("another history")
        if self.versions != whole.versions:
            found.append(f"{self.versions} versions instead of {whole.versions}")
        return found

    def steps(self, whole: Content) -> Steps:
        """Count the steps of finished runs' metrics that are missing and those that are there twice."""
        lost = doubled = 0
        for name, (expected,) in whole.runs.items():
            histories = [run.history for run in self._finished(name)] or [{}]
            for metric, points in expected.history.items():
                for history in histories:
                    there = [step for step, _ in history.get(metric, ())]
                    lost += len({step for step, _ in points} - set(there))
                    doubled += len(there) - len(set(there))
        return Steps(lost, doubled)

    def _finished(self, name: str) -> list[StoredRun]:
        return [run for run in self.runs.get(name, []) if run.status == "FINISHED"]


def read(uri: str) -> Content:
    """Read a store of any address."""
    client = mlflow.MlflowClient(uri)
    runs = defaultdict(list)
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]):
        history = {
            metric: tuple(
                (point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)
            )
            for metric in run.data.metrics
            if metric not in _TIMES and not metric.startswith("system/")
        }
        weights = run.data.tags.get(Tag.WEIGHTS_SHA256, "")
        stored = StoredRun(run.info.run_name, run.info.status, weights, history, bool(run.data.params))
        runs[stored.name].append(stored)
    return Content(runs, len(client.search_model_versions()))
