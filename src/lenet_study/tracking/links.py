"""Addresses in MLflow's UI."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import mlflow

from lenet_study.tracking.saved_views import Mode, views
from lenet_study.tracking.schema import File
from lenet_study.tracking.store import NAME, redact

if TYPE_CHECKING:
    from lenet_study.tracking.run import Run

LOCAL_UI = "http://127.0.0.1:5000"  # where a bare `mlflow ui` listens
_PAGES = {"workflowType": "machine_learning"}  # the UI opens its pages for prompts otherwise


def view_addresses(experiment_id: str) -> dict[str, str]:
    """Return the addresses of an experiment's saved views by their names; the first has a table, too."""
    first, *others = views(study="", seed=0)
    modes: list[tuple[str, str, Mode]] = [
        (first.name, first.id, first.mode),
        (f"{first.name}, in a table", first.id, "TABLE"),
        *((view.name, view.id, view.mode) for view in others),
    ]
    return {name: f"{_ui()}/{view_page(experiment_id, view, mode)}" for name, view, mode in modes}


def comparison_address(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the address of a page that sets runs side by side."""
    runs, experiments = json.dumps([*run_ids], separators=(",", ":")), json.dumps([experiment_id])
    return f"{_ui()}/#/compare-runs?{urlencode({'runs': runs, 'experiments': experiments, **_PAGES})}"


def run_address(run: Run) -> str:
    """Return the address of a run's page."""
    return f"{_ui()}/{run_page(run.experiment_id, run.id)}"


def report_address(run: Run) -> str:
    """Return the address of the page that shows a study's report."""
    return f"{_ui()}/{run_page(run.experiment_id, run.id, File.REPORT)}"


def view_page(experiment_id: str, view: str, mode: Mode) -> str:
    """Return a saved view's page, charts or table, as an address within the UI."""
    # With any condition beside it, MLflow would not load the view's own.
    query = {"viewStateShareKey": view, "compareRunsMode": mode, **_PAGES}
    return f"#/experiments/{experiment_id}/runs?{urlencode(query)}"


def run_page(experiment_id: str, run_id: str, file: str = "") -> str:
    """Return a run's page, or that of one of its files, as an address within the UI."""
    artifact = f"/artifacts/{quote(file)}" if file else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{artifact}?{urlencode(_PAGES)}"


def version_page(number: str | int) -> str:
    """Return the page of a version of the registered model, as an address within the UI."""
    return f"#/models/{quote(NAME)}/versions/{number}?{urlencode(_PAGES)}"


def model_page() -> str:
    """Return the page of the registered model, as an address within the UI."""
    return f"#/models/{quote(NAME)}?{urlencode(_PAGES)}"


def run_addresses(experiment_id: str, run_ids: Iterable[str]) -> dict[str, str]:
    """Return the addresses of the pages of an experiment's runs, by run id."""
    return {run_id: f"{_ui()}/{run_page(experiment_id, run_id)}" for run_id in run_ids}


def how_to_look() -> str:
    """Return what to start before an address of the UI opens."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return "In MLflow's UI:"
    local = uri == f"sqlite:///{Path('mlflow.db').resolve()}"
    command = "mlflow ui" if local else f"mlflow ui --backend-store-uri {redact(uri)}"
    return f"In MLflow's UI (start it with `{command}`):"


def _ui() -> str:
    if address := os.environ.get("LENET_STUDY_UI"):
        return address.rstrip("/")
    uri = redact(mlflow.get_tracking_uri())
    return uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
