"""Addresses of MLflow's pages, and what to start before they open."""

from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from lenet_study.tracking import links


@pytest.mark.parametrize(
    ("store_address", "base"),
    [("sqlite:////x/mlflow.db", "http://127.0.0.1:5000"), ("https://host/ml/", "https://host/ml")],
)
def test_addresses_of_the_ui(monkeypatch, store_address, base):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_address)
    run = SimpleNamespace(id="r1", experiment_id="7")
    assert links.run_address(run) == f"{base}/#/experiments/7/runs/r1?workflowType=machine_learning"

    addresses = links.view_addresses("7")
    for name, mode in (("The five", "CHART"), ("The five, in a table", "TABLE")):
        path, _, query = urlsplit(addresses[name]).fragment.partition("?")
        assert addresses[name].startswith(f"{base}/#/")
        assert path == "/experiments/7/runs"
        # MLflow does not load a view beside any condition of the address.
        assert parse_qs(query) == {
            "viewStateShareKey": ["lenet-five"],
            "compareRunsMode": [mode],
            "workflowType": ["machine_learning"],
        }
    comparison = links.comparison_address("7", ["r1", "r2"])
    path, _, query = urlsplit(comparison).fragment.partition("?")
    assert comparison.startswith(f"{base}/#/")
    assert path == "/compare-runs"
    assert parse_qs(query) == {
        "runs": ['["r1","r2"]'],
        "experiments": ['["7"]'],
        "workflowType": ["machine_learning"],
    }
    assert not [address for address in (comparison, *addresses.values()) if " " in address]


def test_pages_within_the_ui():
    """Notes link to them, wherever the UI is served."""
    kind = "workflowType=machine_learning"
    assert links.run_page("7", "r1") == f"#/experiments/7/runs/r1?{kind}"
    assert links.run_page("7", "r1", "a b.html") == f"#/experiments/7/runs/r1/artifacts/a%20b.html?{kind}"
    assert links.model_page() == f"#/models/fashion-mnist-lenet?{kind}"
    assert links.version_page(3) == f"#/models/fashion-mnist-lenet/versions/3?{kind}"
    assert links.view_page("7", "lenet-folds", "CHART").startswith("#/experiments/7/runs?viewState")


def test_addresses_may_be_others_than_the_run_s_own_way_to_the_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    monkeypatch.setenv("LENET_STUDY_UI", "http://127.0.0.1:7000")
    run = SimpleNamespace(id="r1", experiment_id="7")
    assert links.run_address(run).startswith("http://127.0.0.1:7000/#/experiments/7/runs/r1")


def test_how_to_look(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "`mlflow ui`" in links.how_to_look()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/x.db")
    assert "`mlflow ui --backend-store-uri sqlite:////elsewhere/x.db`" in links.how_to_look()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    assert "start" not in links.how_to_look()


def test_a_bare_mlflow_ui_shows_the_default_store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    assert "`mlflow ui`" in links.how_to_look()
