"""The model behind HTTP: what it refuses at its start and in a request, and what it answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import open_store
from mlflow.exceptions import MlflowException
from mlflow.models import validate_serving_input
from toys import toy_split

from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.recipes.variants import Variant
from lenet_study.tracking import registry, served_model
from lenet_study.tracking.run import open_run
from lenet_study.tracking.served_model import MANIFEST, RefusedRequest, ServedModel
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import CLASSES, LeNet

TOY = Variant(
    change="small", channels=(2, 3), hidden_units=(8, 6), batch_norm=True, halve_learning_rate_every=None
)
IMAGES = toy_split(20, seed=5).images
INPUTS = export.as_input(IMAGES).numpy()


@pytest.fixture(scope="module")
def logged(initialised_database, tmp_path_factory):
    """The folder of a model in a store, which stays open for the module."""
    with open_store(initialised_database, tmp_path_factory.mktemp("served")):
        with open_run("toy", stage="train", params={}) as run:
            images = (Normalisation.of(IMAGES), IMAGES, {"name": "toy"})
            model = registry.log_model(run, LeNet(TOY, seed=3), *images, register=True)
        yield Path(mlflow.artifacts.download_artifacts(model.uri))


@pytest.fixture
def folder(logged, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(logged, tmp_path / "model"))


class Module:
    """Gives the first pixel of each image as the logit of the first class; knows how much it was given."""

    def __init__(self, nothing=0.0):
        self.sizes, self._nothing = [], nothing

    def __call__(self, images):
        self.sizes.append(len(images))
        logits = torch.full((len(images), 10), self._nothing)
        logits[:, 0] = images[:, 0, 0, 0]
        return logits


def test_the_served_logits_are_those_of_the_torchscript_module_to_the_bit(logged):
    served = mlflow.pyfunc.load_model(str(logged)).predict(INPUTS)
    with torch.no_grad():
        expected = export.load_torchscript(logged / "data" / "model.pth")(torch.tensor(INPUTS))
    assert served.dtype == np.float32
    assert np.array_equal(served, expected.numpy())


def test_class_names_come_on_request(logged):
    model = mlflow.pyfunc.load_model(str(logged))
    answers = model.predict(INPUTS, params={"answer": "classes"})
    probabilities = torch.tensor(model.predict(INPUTS, params={"answer": "logits"})).softmax(1)
    assert json.loads(json.dumps(answers)) == answers
    for answer, expected in zip(answers, probabilities, strict=True):
        assert list(answer["probabilities"]) == list(CLASSES)
        assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist())
        assert answer["class"] == CLASSES[expected.argmax()]
        assert answer["probability"] == pytest.approx(expected.max().item())
    assert model.metadata.metadata == {"classes": list(CLASSES)}


def test_the_plain_flavour_and_mlflow_s_own_check_of_the_example_go_on_working(logged):
    raw = mlflow.pytorch.load_model(str(logged))
    assert torch.equal(
        raw(torch.tensor(INPUTS)), export.load_torchscript(logged / "data/model.pth")(torch.tensor(INPUTS))
    )
    example = (logged / "serving_input_example.json").read_text()
    assert np.asarray(validate_serving_input(str(logged), example)).shape == (2, 10)


def test_serving_writes_nothing_into_the_store(logged):
    before = export.folder_digest(logged)
    code = f"import mlflow; mlflow.pyfunc.load_model({str(logged)!r})"
    subprocess_environment = {name: value for name, value in os.environ.items() if "BYTECODE" not in name}
    subprocess.run([sys.executable, "-c", code], env=subprocess_environment, check=True)
    assert export.folder_digest(logged) == before


def test_the_manifest_has_every_file(logged):
    sums = json.loads((logged / MANIFEST).read_text())
    files = {path.relative_to(logged).as_posix() for path in logged.rglob("*") if path.is_file()}
    assert sums.keys() == files - {MANIFEST, "registered_model_meta"}
    assert sums["data/model.pth"] == export.file_digest(logged / "data" / "model.pth")


def test_a_change_of_any_file_is_refused_by_its_name(folder):
    names = [*json.loads((folder / MANIFEST).read_text()), MANIFEST]
    for path in (folder / name for name in names):
        whole = path.read_bytes()
        for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(MlflowException, match=rf"^{path} was damaged .*: fetch the model again"):
                served_model.check_files(folder)
            path.write_bytes(whole)
    served_model.check_files(folder)


@pytest.mark.parametrize("name", ["data/model.pth", "requirements.txt", MANIFEST])
def test_mlflow_does_not_load_a_damaged_model(name, folder):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(MlflowException, match=f"{name} was damaged since the model was logged"):
        mlflow.pyfunc.load_model(str(folder))


def test_a_damaged_model_is_refused_by_its_path_too(folder):
    path = folder / "data" / "model.pth"
    assert registry.load_model(str(path)).name == "toy"
    (folder / "code.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"code.zip was damaged since .*: bring it back from a backup"):
        registry.load_model(str(path))


def changed(value):
    inputs = INPUTS.copy()
    inputs[3, 0, 5, 5] = value
    return inputs


NOT_FINITE = r"^Image 3 holds a value that is not finite \(null, NaN, inf\); send numbers \[N, 1, 28, 28\]"


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (changed(np.nan), NOT_FINITE),
        (changed(np.inf), NOT_FINITE),
        (changed(None), NOT_FINITE),
        (changed(-0.5), r"^Image 3 holds values from -0.5 to .*: divide grey levels by 255"),
        (changed(np.nextafter(np.float32(1), np.float32(2))), r"to 1.0000001: divide grey levels by 255"),
        (IMAGES[:, None].numpy(), r"^Image 0 holds values from 0 to 169: divide grey levels by 255"),
        (INPUTS[:0], r"^The batch holds no image: send at least one"),
        ([], r"^The batch holds no image: send at least one"),
        (INPUTS[0], r"^The input's shape is \[1, 28, 28\]: send numbers \[N, 1, 28, 28\]"),
        (INPUTS[:, 0], r"^The input's shape is \[20, 28, 28\]: send"),
        (INPUTS[..., :27], r"^The input's shape is \[20, 1, 28, 27\]: send"),
        (np.float32(1), r"^The input's shape is \[\]: send"),
        (np.array([["a"]]), "^The input is no array of numbers: send"),
        ([[10**400]], "^The input is no array of numbers: send"),
        ({"a": 1}, "^The input is no array of numbers: send"),
    ],
)
def test_a_bad_batch_is_refused_in_one_sentence(inputs, sentence):
    with pytest.raises(RefusedRequest, match=sentence) as caught:
        ServedModel(Module(), list(CLASSES)).predict(inputs)
    assert caught.value.get_http_status_code() == 400
    caught.value.message = (
        f"Failed to predict data '{inputs}'. \nError: {caught.value.message}"  # as MLflow does
    )
    answer = json.loads(caught.value.serialize_as_json())
    assert answer == {"error_code": "INVALID_PARAMETER_VALUE", "message": caught.value.sentence}


@pytest.mark.parametrize("value", ["", "Classes", "probabilities", None])
def test_an_unknown_answer_is_refused(value):
    with pytest.raises(RefusedRequest, match=r"^answer=.* is unknown: ask for 'logits' or 'classes'"):
        ServedModel(Module(), list(CLASSES)).predict(INPUTS, {"answer": value})


def test_numbers_at_both_ends_are_fine():
    black_and_white = np.zeros((2, 1, 28, 28), np.float32)
    black_and_white[1] = 1
    assert ServedModel(Module(), list(CLASSES)).predict(black_and_white)[:, 0].tolist() == [0, 1]


def test_a_large_batch_is_computed_in_blocks():
    module, inputs = Module(), np.zeros((201, 1, 28, 28), np.float32)
    inputs[:, 0, 0, 0] = np.linspace(0, 1, 201)
    logits = ServedModel(module, list(CLASSES)).predict(inputs)
    assert module.sizes == [100, 100, 1]
    assert np.array_equal(logits[:, 0], inputs[:, 0, 0, 0])


def test_a_diverged_model_says_so_instead_of_nan():
    model = ServedModel(Module(nothing=float("nan")), list(CLASSES))
    for answer in ("logits", "classes"):
        with pytest.raises(MlflowException, match="The model has diverged") as caught:
            model.predict(INPUTS, {"answer": answer})
        assert caught.value.get_http_status_code() == 500
