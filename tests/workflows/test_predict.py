"""Image files from the command line: a table, JSON, a request, and the run of a project."""

import json
import os
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import Recorder, open_store
from PIL import Image
from toys import toy_split

from lenet_study.__main__ import main
from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.evidence.export import as_input
from lenet_study.recipes.variants import Variant
from lenet_study.tracking import registry
from lenet_study.tracking.run import open_run
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import CLASSES, LeNet
from lenet_study.workflows.predict import predict

TOY = Variant(
    change="small", channels=(2, 3), hidden_units=(8, 6), batch_norm=True, halve_learning_rate_every=None
)
IMAGES = toy_split(20, seed=5).images


@pytest.fixture(scope="module")
def run_id(initialised_database, tmp_path_factory):
    """The run of a model, in a store that stays open for the module; beside it image files."""
    folder = tmp_path_factory.mktemp("predict")
    with open_store(initialised_database, folder):
        with open_run("toy", stage="train", params={}) as run:
            images = (Normalisation.of(IMAGES), IMAGES, {"name": "toy"})
            registry.log_model(run, LeNet(TOY, seed=3), *images, register=True)
        for number, name in enumerate(("a.png", "my b.png")):
            Image.fromarray(IMAGES[number].numpy()).save(name)
        yield run.id


def test_the_answers_are_those_of_the_served_model(run_id, capsys):
    answers = predict(run_id, "a.png 'my b.png'", "json", reporter := Recorder())
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    expected = served.predict(as_input(IMAGES[:2]).numpy(), params={"answer": "classes"})
    assert [
        {name: answer[name] for name in row} for answer, row in zip(answers, expected, strict=True)
    ] == expected
    assert [answer["file"] for answer in answers] == ["a.png", "my b.png"]
    assert json.loads(reporter.text) == answers
    assumption = "28 x 28 L, taken for light on dark"
    assert capsys.readouterr().err == f"a.png: {assumption}\nmy b.png: {assumption}\n"


def test_the_table_names_class_probability_and_runner_up(run_id):
    ((answer), *_) = predict(run_id, "my b.png", "table", reporter := Recorder())
    assumption, head, row = reporter.text.splitlines()
    assert assumption == "my b.png: 28 x 28 L, taken for light on dark"
    assert head.split() == ["file", "class", "probability", "runner-up"]
    best, second = sorted(answer["probabilities"], key=answer["probabilities"].get, reverse=True)[:2]
    assert row.startswith("my b.png  ")
    assert best in row
    assert second in row
    assert f"{answer['probability']:.1%}" in row


def test_a_request_needs_no_model_and_asks_for_class_names(run_id, capsys):
    assert main(["predict", "--image", "a.png", "--output", "request", "--model", "nosuch"]) == 0
    request = json.loads(capsys.readouterr().out)
    assert request["params"] == {"answer": "classes"}
    assert np.array_equal(np.asarray(request["inputs"], np.float32), as_input(IMAGES[:1]).numpy())
    (answer,) = mlflow.pyfunc.load_model(f"runs:/{run_id}/model").predict(
        np.asarray(request["inputs"], np.float32), params=request["params"]
    )
    assert answer["class"] in CLASSES


def test_the_run_of_a_project_holds_the_answer_and_a_plain_command_makes_none(run_id, monkeypatch, capsys):
    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    before = len(client.search_runs([experiment]))
    assert main(["predict", "--image", "a.png", "--model", run_id]) == 0
    assert len(client.search_runs([experiment])) == before
    project_run = client.create_run(experiment, run_name="of MLflow").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", project_run)
    assert main(["predict", "--image", "a.png", "--model", run_id, "--output", "json"]) == 0
    assert "MLFLOW_RUN_ID" not in os.environ
    run = client.get_run(project_run)
    assert (run.info.run_name, run.info.status) == ("predict", "FINISHED")
    assert run.data.tags["stage"] == "predict"
    assert run.data.tags["model.run_id"] == run_id
    logged = json.loads(mlflow.artifacts.load_text(f"runs:/{project_run}/answers.json"))
    assert logged[0]["file"] == "a.png"
    assert capsys.readouterr().out.count('"class"') == 1


def test_one_bad_image_among_good_ones_is_named_before_the_model_is_read(run_id):
    with pytest.raises(UserError, match=r"image=nosuch\.png cannot be read \(there is no such file\)"):
        predict("no model", "a.png nosuch.png", "table")


def test_a_diverged_model_is_named(run_id):
    model = LeNet(TOY, seed=3)
    torch.nn.init.constant_(model.classifier[-1].bias, float("nan"))
    normalisation = Normalisation.of(IMAGES)
    export.save_torchscript(export.exportable(model, normalisation, {"name": "diverged"}), Path("nan.pth"))
    with pytest.raises(UserError, match=r"model=nan.pth: The model has diverged"):
        predict("nan.pth", "a.png", "table")
