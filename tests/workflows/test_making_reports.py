"""The report of a toy study, from training to the file."""

import json
import re

import mlflow
import pytest
from conftest import Recorder, open_store

from lenet_study.errors import UserError
from lenet_study.recipes.recipe import TrainingConfig
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.report import make_report, report
from lenet_study.workflows.study import study


@pytest.fixture(scope="module")
def toy_study(initialised_database, tmp_path_factory, toy_files):
    """A store with a study of two variants, and the id of its run."""
    with open_store(initialised_database, tmp_path_factory.mktemp("study")) as client:
        config = TrainingConfig(epochs=2, batch_size=50, learning_rate=0.002)
        names = ("baseline", "v1")
        study(config, folds=2, hardware=Hardware(device="cpu"), workers=1, data=toy_files, variants=names)
        (run,) = client.search_runs(["1"], "tags.stage = 'study'")
        yield client, run.info.run_id


def test_the_report_is_a_file_and_a_run_of_its_own(toy_study, toy_files):
    client, study_id = toy_study
    recorder = Recorder()
    path = report(data=toy_files, reporter=recorder)
    html = path.read_text(encoding="utf-8")
    assert str(path) == "report.html"
    (run,) = client.search_runs(["1"], "tags.stage = 'report'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["study"] == study_id
    assert run.data.params["run_id"] == study_id
    logged = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html")
    assert logged == html
    scorecard = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/scorecard.md")
    assert "claims reproduced" in scorecard
    assert "claims reproduced" in recorder.text
    assert f"runs/{run.info.run_id}" in recorder.text


def test_every_run_of_the_study_is_on_the_page_with_its_address(toy_study, toy_files):
    client, study_id = toy_study
    html = make_report(study_id, toy_files).html
    runs = client.search_runs(["1"], f"tags.study LIKE '%{study_id}%'")
    shown = [
        run.info.run_id for run in runs if run.data.tags["stage"] in ("train", "retrain", "fold", "evaluate")
    ]
    assert len(shown) == 2 + 1 + 2 + 2
    for run_id in shown:
        assert f'id="r-{run_id}"' in html
        assert f"/#/experiments/1/runs/{run_id}" in html


def test_the_same_store_gives_the_same_bytes(toy_study, toy_files):
    _, study_id = toy_study
    assert make_report(study_id, toy_files) == make_report(study_id, toy_files)


def test_the_map_has_the_coordinates_that_an_evaluation_has_logged(toy_study, toy_files):
    _, study_id = toy_study
    html = make_report(study_id, toy_files).html
    payload = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1])
    assert len(payload["map"]["predicted"]) == len(payload["labels"]) == 60
    assert "There is no map" not in html


def test_without_the_images_the_rest_is_shown(toy_study, tmp_path):
    _, study_id = toy_study
    recorder = Recorder()
    nowhere = DataFiles(tmp_path / "none", debian_folder=tmp_path, sources={})
    html = make_report(study_id, nowhere, recorder).html
    assert "Images are not shown: " in recorder.text
    assert "Images are not shown: " in html
    assert "data:image/webp" not in html
    assert 'class="matrix"' in html


def test_other_images_than_were_predicted_are_not_shown(toy_study, toy_files, tmp_path):
    from toys import toy_split, write_data_files

    _, study_id = toy_study
    others = write_data_files(tmp_path / "others", toy_split(50, seed=1), toy_split(70, seed=2))
    recorder = Recorder()
    assert "data:image/webp" not in make_report(study_id, others, recorder).html
    assert "holds others than were predicted" in recorder.text


def test_a_file_that_cannot_be_written_is_refused_before_any_work(toy_study, toy_files, tmp_path):
    client, _ = toy_study
    before = len(client.search_runs(["1"]))
    for place in (tmp_path, tmp_path / "no" / "x.html", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=re.escape(f"to={place}")):
            report(to=str(place), data=toy_files)
    assert len(client.search_runs(["1"])) == before


def test_a_run_that_is_no_study_is_refused(toy_study, toy_files):
    client, _ = toy_study
    (run, *_) = client.search_runs(["1"], "tags.stage = 'train'")
    with pytest.raises(UserError, match="no study"):
        report(run.info.run_id, data=toy_files)


def test_a_store_without_a_study_is_refused(store, toy_files):
    with pytest.raises(UserError, match="run `study` first"):
        report(data=toy_files)
