"""`mlflow models serve` and the serving image: what they answer, refuse, and refuse to start with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
import torch
from conftest import open_store
from servers import free_port, serving
from toys import toy_split

from lenet_study.evidence.export import as_input
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import registry
from lenet_study.tracking.champions import Champions
from lenet_study.tracking.run import open_run
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import CLASSES, LeNet

ROOT = Path(__file__).parents[2]
IMAGES = toy_split(3, seed=5).images
INPUTS = as_input(IMAGES).tolist()
DATA = os.environ.get("LENET_STUDY_DATA", str(ROOT / "data"))


def log_toy(store_folder, database):
    """The champion of a store of its own: a model of toy images; returns its files' folder."""
    with open_store(database, store_folder):
        with open_run("v4", stage="train", params={}) as run:
            images = (Normalisation.of(IMAGES), IMAGES, {"name": "v4"})
            logged = registry.log_model(run, LeNet(VARIANTS["v4"], seed=0), *images, register=True)
        return Path(shutil.copytree(mlflow.artifacts.download_artifacts(logged.uri), store_folder / "model"))


def command_of(server, folder, port):
    if server == "mlflow":
        command = ["mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local", "--port", port]
    else:
        command = ["uvicorn", "--app-dir", str(ROOT / "docker"), "serving_app:app", "--port", port]
    return command, {"SERVED_MODEL": str(folder)}


@pytest.fixture(scope="module")
def model(initialised_database, tmp_path_factory):
    return log_toy(tmp_path_factory.mktemp("served"), initialised_database)


@pytest.fixture(scope="module", params=["mlflow", "image"])
def server(request, model, tmp_path_factory):
    """Sends a body to one of both servers; ``kind`` tells which."""
    address = f"http://127.0.0.1:{(port := str(free_port()))}"
    command, environment = command_of(request.param, model, port)

    def post(body):
        headers = {"Content-Type": "application/json"}
        return requests.post(f"{address}/invocations", data=body, headers=headers, timeout=120)

    post.kind = request.param
    with serving(command, f"{address}/ping", tmp_path_factory.mktemp("log"), **environment):
        yield post


def changed(value: str) -> str:
    """A request whose last value is something else."""
    return f"{json.dumps({'inputs': INPUTS})[:-6].rpartition(', ')[0]}, {value}]]]]}}"


NOT_FINITE = "not finite (null, NaN, inf)"
WRONG = {  # body, what the sentence names; the image's server has one for all of them
    "NaN": (changed("NaN"), NOT_FINITE),
    "inf": (changed("Infinity"), NOT_FINITE),
    "null": (changed("null"), NOT_FINITE),
    "1e400": (changed("1e400"), NOT_FINITE),
    "grey levels": (json.dumps({"inputs": IMAGES[:, None].tolist()}), "divide grey levels by 255"),
    "negative": (changed("-0.01"), "divide grey levels by 255"),
    "unknown answer": (json.dumps({"inputs": INPUTS, "params": {"answer": "x"}}), "answer='x' is unknown"),
}
WRONG_FOR_MLFLOW = {  # which refuses these itself, with an excerpt of the images
    "shape": (json.dumps({"inputs": np.zeros((2, 28, 28)).tolist()}), "[2, 28, 28]"),
    "text": (json.dumps({"inputs": [[[["a"]]]]}), "no array of numbers"),
    "no image": (json.dumps({"inputs": []}), "at least one"),
}


@pytest.mark.server
@pytest.mark.parametrize("name", [*WRONG, *WRONG_FOR_MLFLOW])
def test_a_bad_request_is_answered_with_400_and_one_sentence(name, server):
    body, named = (WRONG | WRONG_FOR_MLFLOW)[name]
    answer = server(body)
    assert answer.status_code == 400
    message = answer.json()["message"]
    if server.kind == "image" or name in WRONG:
        assert named in message
        assert "\n" not in message
        assert len(message) < 200


@pytest.mark.server
@pytest.mark.parametrize("body", ["[" * 100_000, f'{{"inputs": {"[" * 100_000}{"]" * 100_000}}}'])
def test_deep_nesting_is_refused_by_the_image_s_server_and_ends_neither(body, server):
    answer = server(body)
    assert answer.status_code == (400 if server.kind == "image" else 500)  # MLflow's parser dies of it
    assert server(json.dumps({"inputs": INPUTS})).status_code == 200


@pytest.mark.server
def test_logits_are_answered_and_class_names_on_request(server, model):
    logits = server(json.dumps({"inputs": INPUTS})).json()["predictions"]
    assert np.shape(logits) == (3, 10)
    answers = server(json.dumps({"inputs": INPUTS, "params": {"answer": "classes"}})).json()["predictions"]
    assert [answer["class"] for answer in answers] == [CLASSES[np.argmax(row)] for row in logits]
    for answer in answers:
        assert list(answer["probabilities"]) == list(CLASSES)
        assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.server
def test_ten_thousand_images_are_answered(server):
    image = json.dumps(np.zeros((1, 28, 28), int).tolist())
    answer = server(f'{{"inputs": [{",".join([image] * 10_000)}]}}')
    assert answer.status_code == 200
    assert np.shape(answer.json()["predictions"]) == (10_000, 10)


@pytest.mark.server
@pytest.mark.parametrize("kind", ["mlflow", "image"])
def test_a_server_does_not_start_with_a_damaged_model(kind, model, tmp_path):
    damaged = Path(shutil.copytree(model, tmp_path / "model"))
    content = bytearray((damaged / "data" / "model.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "data" / "model.pth").write_bytes(content)
    command, environment = command_of(kind, damaged, str(free_port()))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": programs, **environment}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert f"{damaged}/data/model.pth was damaged since the model was logged" in ended.stderr


@pytest.mark.server
@pytest.mark.realdata
def test_the_champion_is_served_with_the_eager_models_logits(store, tmp_path):
    images = DataFiles.at(DATA).test().images[:16]
    model, normalise = LeNet(VARIANTS["v4"], seed=0), Normalisation.of(images)
    with open_run("v4", stage="train", params={}) as run:
        registry.log_model(run, model, normalise, images, {"name": "v4"}, register=True)
    version = registry.version_of(run.id)
    Champions().change(Champions().history(), "promoted", str(version.version), "for the test", run)

    address = f"http://127.0.0.1:{(port := free_port())}"
    command = ["mlflow", "models", "serve", "-m", "models:/fashion-mnist-lenet@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    with serving(command, f"{address}/ping", tmp_path):
        pixels = (images.float() / 255).unsqueeze(1)
        answer = requests.post(f"{address}/invocations", json={"inputs": pixels.tolist()}, timeout=60)
        assert answer.status_code == 200, answer.text
    with torch.no_grad():
        expected = model.eval()(normalise(images)).numpy()
    np.testing.assert_allclose(answer.json()["predictions"], expected, atol=1e-5)
