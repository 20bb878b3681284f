import importlib.metadata
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import add_training, open_store
from toys import toy_split

from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.recipes.variants import Variant
from lenet_study.tracking import registry
from lenet_study.tracking.run import open_run
from lenet_study.tracking.store import NAME
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import LeNet

TOY = Variant(
    change="small", channels=(2, 3), hidden_units=(8, 6), batch_norm=True, halve_learning_rate_every=None
)
DESCRIPTION = {"name": "toy", "variant": "baseline", "seed": 3, "val_accuracy": 0.875}
NORMALISATION = Normalisation(mean=0.25, std=0.3)
IMAGES = toy_split(20, seed=5).images


class Logged:
    """A run that logged one model and registered another of the same weights."""

    def __init__(self):
        self.model = LeNet(TOY, seed=3)
        with torch.no_grad():
            self.model.second_wave[1].running_mean += 0.5  # batch norm must use these, not its batch
        self.model.train()  # as a training may leave it
        common = (self.model, NORMALISATION, IMAGES, DESCRIPTION)
        with open_run("toy", stage="train", params={}) as run:
            self.logged = registry.log_model(run, *common, register=True)
        self.run_id = run.id
        self.folder = Path(mlflow.artifacts.download_artifacts(self.logged.uri))
        with open_run("private", stage="fold", params={}) as run:
            self.private = registry.log_model(run, *common, register=False)
        self.private_run = run.id

    def logits(self, images):
        with torch.no_grad():
            return self.model.eval()(NORMALISATION(images))


@pytest.fixture(scope="module")
def toy(initialised_database, tmp_path_factory):
    """Lives in a store of its own, which stays open for the module."""
    with open_store(initialised_database, tmp_path_factory.mktemp("registry")):
        yield Logged()


def test_a_logged_model_has_all_its_parts(toy):
    files = {str(path.relative_to(toy.folder)) for path in toy.folder.rglob("*") if path.is_file()}
    assert {
        "data/model.pth",
        "extra_files/model.pt2",
        "extra_files/parity.json",
        "input_example.json",
        "requirements.txt",
        "code.zip",
        "manifest.json",
        "MLmodel",
    } <= files
    pins = set((toy.folder / "requirements.txt").read_text().split())
    versions = {name: importlib.metadata.version(name) for name in ("torch", "mlflow", "numpy")}
    assert pins == {f"{name}=={version.partition('+')[0]}" for name, version in versions.items()}


def test_the_signature_says_what_the_model_takes_and_gives(toy):
    info = mlflow.models.get_model_info(toy.logged.uri)
    (images,), (logits,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (images.shape, images.type) == ((-1, 1, 28, 28), np.dtype("float32"))
    assert (logits.shape, logits.type) == ((-1, 10), np.dtype("float32"))
    assert info.run_id == toy.run_id


def test_the_proof_covers_both_files(toy):
    proof = json.loads((toy.folder / "extra_files" / "parity.json").read_text())
    assert proof.keys() == {"torchscript", "pt2"}
    for parity in proof.values():
        assert parity["class_agreement"] == 1
        assert parity["max_abs_difference"] <= export.PARITY_TOLERANCE
        assert parity["images"] == len(IMAGES)
    run = mlflow.get_run(toy.run_id).data
    assert run.tags["parity"] == "passed"
    assert run.metrics["parity/class_agreement"] == 1
    assert run.metrics["parity/max_abs_difference"] <= export.PARITY_TOLERANCE


def test_pyfunc_and_the_twin_predict_the_eager_model_s_logits(toy):
    images = toy_split(30, seed=6).images[:7]
    expected = toy.logits(images)
    served = mlflow.pyfunc.load_model(toy.logged.uri).predict(export.as_input(images).numpy())
    torch.testing.assert_close(torch.as_tensor(served), expected, rtol=0, atol=1e-5)
    twin = export.load_program(toy.folder / "extra_files" / "model.pt2")
    torch.testing.assert_close(twin(export.as_input(images)), expected, rtol=0, atol=1e-5)


def test_the_input_example_is_real_images(toy):
    example = mlflow.models.get_model_info(toy.logged.uri)
    given = mlflow.pyfunc.load_model(example.model_uri).input_example
    assert np.array_equal(np.asarray(given, np.float32), export.as_input(IMAGES[:2]).numpy())


def test_a_registered_version_tells_what_it_is(toy):
    version = registry.version_of(toy.run_id)
    assert int(version.version) == toy.logged.version == 1
    assert version.name == "fashion-mnist-lenet"
    digest = export.weights_digest(toy.model)
    assert version.tags == {
        "name": "toy",
        "variant": "baseline",
        "seed": "3",
        "val_accuracy": "0.875",
        "weights.sha256": digest,
        "torchscript.sha256": export.file_digest(toy.folder / "data" / "model.pth"),
        "model.sha256": mlflow.get_run(toy.run_id).data.tags["model.sha256"],
        "parity": "passed",
    }
    run_tags = mlflow.get_run(toy.run_id).data.tags
    assert {name: run_tags[name] for name in ("weights.sha256", "torchscript.sha256")}.items() <= (
        version.tags.items()
    )
    assert toy.logged.weights_sha256 == digest


def test_a_model_is_registered_only_when_asked(toy):
    assert toy.private.version is None
    assert registry.version_of(toy.private_run) is None
    assert registry.load_model(toy.private_run).weights_sha256 == toy.logged.weights_sha256


class OtherInTorchScript(LeNet):
    """Adds one to all logits once it is scripted."""

    def forward(self, images):
        logits = self.classifier(self.second_wave(self.first_wave(images)))
        if torch.jit.is_scripting():
            logits = logits + 1
        return logits


class OtherInItsTwin(LeNet):
    """Adds one to all logits in a program of ``torch.export``."""

    def forward(self, images):
        logits = self.classifier(self.second_wave(self.first_wave(images)))
        if torch.jit.is_scripting():  # TorchScript does not know the next question
            return logits
        return logits + 1 if torch.compiler.is_exporting() else logits


@pytest.mark.parametrize("kind", [OtherInTorchScript, OtherInItsTwin])
def test_a_model_whose_export_differs_is_logged_as_failed(toy, kind):
    with open_run("wrong", stage="fold", params={}) as run:
        registry.log_model(run, kind(TOY, 3), NORMALISATION, IMAGES, DESCRIPTION, register=False)
    stored = mlflow.get_run(run.id).data
    assert stored.tags["parity"] == "failed"
    assert stored.metrics["parity/max_abs_difference"] == pytest.approx(1, abs=1e-4)


def references(toy):
    mlflow.MlflowClient().set_registered_model_alias("fashion-mnist-lenet", "challenger", 1)
    return {
        "run": toy.run_id,
        "runs": f"runs:/{toy.run_id}/model",
        "version": "models:/fashion-mnist-lenet/1",
        "alias": "models:/fashion-mnist-lenet@challenger",
        "logged model": toy.logged.uri,
        "file": str(toy.folder / "data" / "model.pth"),
    }


@pytest.mark.parametrize("kind", ["run", "runs", "version", "alias", "logged model", "file"])
def test_a_model_is_fetched_by_any_of_its_names(toy, kind):
    reference = references(toy)[kind]
    fetched = registry.load_model(reference)
    assert fetched.description == DESCRIPTION
    assert fetched.name == "toy"
    assert fetched.reference == reference
    assert fetched.run_id == ("" if kind == "file" else toy.run_id)
    assert fetched.weights_sha256 == export.weights_digest(toy.model)
    assert fetched.torchscript_sha256 == export.file_digest(toy.folder / "data" / "model.pth")
    with torch.no_grad():
        logits = fetched.module(export.as_input(IMAGES))
    torch.testing.assert_close(logits, toy.logits(IMAGES), rtol=0, atol=1e-5)


def test_a_file_that_was_changed_in_the_store_is_refused(toy):
    stored = toy.folder / "data" / "model.pth"
    content = stored.read_bytes()
    export.save_torchscript(export.exportable(LeNet(TOY, 4), NORMALISATION, DESCRIPTION), stored)
    try:
        for reference in (toy.run_id, "models:/fashion-mnist-lenet/1"):
            with pytest.raises(UserError, match=f"data/model.pth of run {toy.run_id} was damaged .*SHA-256 "):
                registry.load_model(reference)
    finally:
        stored.write_bytes(content)
    assert registry.load_model(toy.run_id).weights_sha256 == toy.logged.weights_sha256


@pytest.mark.parametrize("kind", ["run", "version", "alias", "logged model"])
def test_all_files_of_a_model_are_kept_as_they_were_logged(toy, kind, tmp_path):
    registry.load_model(references(toy)[kind], keep=tmp_path / "model")
    expected = mlflow.get_run(toy.run_id).data.tags["model.sha256"]
    assert export.folder_digest(tmp_path / "model") == expected


def test_no_file_of_a_changed_model_is_kept(toy, tmp_path):
    stored = toy.folder / "MLmodel"
    content = stored.read_text()
    stored.write_text(content.replace("served_model", "somebody_elses"))
    try:
        with pytest.raises(UserError, match=r"MLmodel of run .* was damaged since"):
            registry.load_model(toy.run_id, keep=tmp_path / "model")
    finally:
        stored.write_text(content)
    assert not (tmp_path / "model").exists()


def test_a_finished_training_s_model_is_told_as_it_was_logged(toy):
    assert registry.logged_model_of(StoredTraining.load(toy.run_id)) == toy.logged
    assert registry.logged_model_of(StoredTraining.load(toy.private_run)) == toy.private


def test_a_model_without_a_sum_in_its_run_is_refused(toy):
    client = mlflow.MlflowClient()
    digest = mlflow.get_run(toy.private_run).data.tags["torchscript.sha256"]
    client.delete_tag(toy.private_run, "torchscript.sha256")
    try:
        with pytest.raises(UserError, match=r"has logged no SHA-256"):
            registry.load_model(toy.private_run)
    finally:
        client.set_tag(toy.private_run, "torchscript.sha256", digest)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "0123456789abcdef0123456789abcdef",
        "models:/fashion-mnist-lenet@nobody",
        "models:/fashion-mnist-lenet/99",
        "models:/nosuch@champion",
        "models:/",
        "runs:/nosuch/model",
        "nowhere/model.pth",
        "folder",
        "text.pth",
        "other.pth",
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(toy, tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pth").write_text("two\nlines")
    with pytest.warns(DeprecationWarning, match=export.DEPRECATION):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "other.pth")
    with pytest.raises(UserError, match=r"name (the id|a TorchScript|one)") as caught:
        registry.load_model(reference)
    assert reference in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_run_without_a_model_is_refused(store):
    run_id = add_training(store, "v1", 0.8, registered=False)
    with pytest.raises(UserError, match=f"model={run_id} cannot be read"):
        registry.load_model(run_id)


def test_nothing_has_an_alias_in_an_empty_store(store):
    assert registry.version_with_alias("champion") is None


def registered(store, name, **options):
    run_id = add_training(store, name, 0.9, **options)
    return registry.version_of(run_id)


def test_a_version_that_is_as_it_was_logged_passes(toy):
    registry.check_version(registry.version_of(toy.run_id))


@pytest.mark.parametrize("name", ["data/model.pth", "MLmodel", "extra_files/model.pt2", "input_example.json"])
def test_a_version_with_a_flipped_byte_is_refused(toy, name):
    folder = Path(mlflow.get_logged_model(toy.logged.uri.removeprefix("models:/")).artifact_location)
    path = folder / name
    content = path.read_bytes()
    try:
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(UserError, match=f"{name} of run {toy.run_id} was damaged since"):
            registry.check_version(registry.version_of(toy.run_id))
    finally:
        path.write_bytes(content)


def test_a_version_whose_run_has_another_metric_now_is_refused(toy):
    mlflow.MlflowClient().log_metric(toy.run_id, "parity/class_agreement", 0.5, step=7)
    with pytest.raises(UserError, match=f"Run {toy.run_id} is not as it was logged: metric parity/class_agr"):
        registry.check_version(registry.version_of(toy.run_id))


def test_a_challenger_has_its_evidence_in_its_tags(store):
    version = registered(store, "v4")
    model = registry.LoggedModel("models:/m-1", int(version.version), "0123", {})
    assert registry.confirmation_of(version) == {}
    challenger = registry.set_challenger(model, {"p_value": 0.01, "champion": "v4"})
    assert challenger.version == version.version
    assert challenger.tags.keys() == {"confirm.p_value", "confirm.champion", "confirm.sha256"}
    assert registry.confirmation_of(challenger) == {"p_value": "0.01", "champion": "v4"}
    assert registry.version_with_alias("challenger").version == version.version


def test_a_challenger_that_is_not_registered_is_registered(toy):
    challenger = registry.set_challenger(toy.private, {"p_value": 0.01})
    assert registry.version_of(toy.private_run).version == challenger.version
    assert challenger.tags.items() >= {**toy.private.tags, "confirm.p_value": "0.01"}.items()


def test_a_confirmation_that_was_changed_is_refused(store):
    version = registered(store, "v4")
    model = registry.LoggedModel("models:/m-1", int(version.version), "0123", {})
    registry.set_challenger(model, {"p_value": 0.9, "champion": "v4"})
    store.set_model_version_tag(version.name, version.version, "confirm.p_value", "0.01")
    with pytest.raises(UserError, match="confirmation were changed since its search wrote them"):
        registry.confirmation_of(registry.version_with_alias("challenger"))


def test_a_version_is_named_by_number_alias_or_address(store):
    first, second = add_training(store, "v1", 0.9), add_training(store, "v2", 0.9)
    store.set_registered_model_alias(NAME, "champion", 1)
    for reference in ("1", "champion", f"models:/{NAME}/1", f"models:/{NAME}@champion"):
        assert registry.run_of_version(reference) == first
    assert registry.run_of_version("2") == second
    for reference in ("v1", "", "0", "01", "-1", "9" * 30, second):
        assert registry.run_of_version(reference) == ""


@pytest.mark.parametrize(
    "reference", ["7", "previous", "models:/nosuch/1", f"models:/{NAME}/7", "models:/a/b/c"]
)
def test_a_version_that_is_not_there_is_refused(reference, store):
    add_training(store, "v1", 0.9)
    with pytest.raises(UserError, match=r"no such version|names no registered model"):
        registry.run_of_version(reference)
