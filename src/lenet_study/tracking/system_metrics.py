"""Samples of processor, memory and disk, as MLflow takes them, but written as all else that a run writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

if TYPE_CHECKING:
    from lenet_study.tracking.run import Run


class _Monitor(SystemMetricsMonitor):  # type: ignore[misc]
    """MLflow's monitor; its own loop asks the store for every sample, and ends when that is away."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.id, resume_logging=run.resumed)
        self._run = run

    def monitor(self) -> None:
        while True:
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            if (
                not self._run.has_metrics
            ):  # the first metrics of a run are the default axes of MLflow's charts
                continue
            with suppress(Exception):  # a refusal, or a full disk: the work itself finds out and says so
                self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        named = {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}
        self._run.log_metrics(named, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()

    def stop(self) -> None:
        self._shutdown_event.set()
        self._process.join()


@contextmanager
def sampled(run: Run) -> Iterator[None]:
    """Log samples of processor, memory and disk while a run is open."""
    monitor = _Monitor(run)
    monitor.start()
    try:
        yield
    finally:
        monitor.stop()
