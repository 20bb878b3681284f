"""Addresses in MLflow's UI."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlencode

import mlflow

from lenet_study.tracking.run import Run
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import redact

LOCAL_UI = "http://127.0.0.1:5000"  # where a bare `mlflow ui` listens
_PAGES = {"workflowType": "machine_learning"}  # the UI opens its pages for prompts otherwise


def study_addresses(experiment_id: str, study: str, run_ids: list[str]) -> dict[str, str]:
    """Return the addresses of the ``curves`` (overlaid) and the ``comparison`` of a study's trainings."""
    curves = {
        "searchFilter": f"tags.{Tag.STUDY} LIKE '%{study}%' and tags.{Tag.STAGE} = 'train'",
        "orderByKey": f"tags.`{Tag.VARIANT}`",
        "orderByAsc": "true",
        "compareRunsMode": "CHART",
        **_PAGES,
    }
    runs, experiments = json.dumps(run_ids, separators=(",", ":")), json.dumps([experiment_id])
    compared = urlencode({"runs": runs, "experiments": experiments, **_PAGES})
    return {
        "curves": f"{_ui()}/#/experiments/{experiment_id}/runs?{urlencode(curves, quote_via=quote)}",
        "comparison": f"{_ui()}/#/compare-runs?{compared}",
    }


def run_address(run: Run) -> str:
    """Return the address of a run's page."""
    return f"{_ui()}/#/experiments/{run.experiment_id}/runs/{run.id}?{urlencode(_PAGES)}"


def run_addresses(experiment_id: str, run_ids: Iterable[str]) -> dict[str, str]:
    """Return the addresses of the pages of an experiment's runs, by run id."""
    return {
        run_id: f"{_ui()}/#/experiments/{experiment_id}/runs/{run_id}?{urlencode(_PAGES)}"
        for run_id in run_ids
    }


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
