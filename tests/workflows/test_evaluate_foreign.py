"""Files of other projects on the test split: scored like our own, and told from them."""

import foreign_modules as modules
import pandas as pd
import pytest
import torch
from conftest import Recorder

from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Normalisation
from lenet_study.training.hardware import Hardware
from lenet_study.training.model import LeNet
from lenet_study.workflows.evaluate import EvaluationJob, evaluate, predict_untracked

CPU = Hardware(device="cpu")


def run_of(store):
    (run,) = store.search_runs(["1"], "tags.stage = 'evaluate'")
    return run, {file.path for file in store.list_artifacts(run.info.run_id)}


def test_a_foreign_file_is_scored_and_the_run_tells_how(store, toy_files, tmp_path):
    path, recorder = modules.write(modules.Bands("normalised"), tmp_path / "theirs.pt"), Recorder()
    result = evaluate(EvaluationJob(model=str(path), hardware=CPU, data=toy_files), recorder)
    assert result.name == "theirs on test"
    assert result.predictions.accuracy == 1
    run, files = run_of(store)
    assert run.info.run_name == "theirs on test"
    assert run.data.params["inputs"] == "auto"
    tags = run.data.tags
    assert tags["torchscript.sha256"] == export.file_digest(path)
    assert tags["inputs.scale"] == "normalised"
    assert "normalised 100.0 %" in tags["inputs.reason"]
    assert not {"weights.sha256", "model.run_id", "variant", "published.variant"} & tags.keys()
    assert run.data.metrics["test/accuracy"] == 1
    assert not any(name.startswith(("auxiliary/", "published/")) for name in run.data.metrics)
    assert {"confusion_matrix.png", "predictions.png", "tsne.png", "per_class.csv"} <= files
    assert "auxiliary.png" not in files
    assert f"theirs on test: takes normalised images ({tags['inputs.reason']})" in recorder.text
    assert "no auxiliary heads" in recorder.text
    table = pd.read_csv(store.download_artifacts(run.info.run_id, "predictions.csv"))
    assert list(table.columns) == ["image", "true", "predicted", "probability", "true_probability"]


def test_auxiliary_heads_are_scored_if_there_are_any(store, toy_files, tmp_path):
    path = modules.write(modules.WithHeads("unit"), tmp_path / "theirs.pt")
    evaluate(EvaluationJob(model=str(path), inputs="symmetric", hardware=CPU, data=toy_files), Recorder())
    run, files = run_of(store)
    heads = {name: value for name, value in run.data.metrics.items() if name.startswith("auxiliary/")}
    assert heads == {
        "auxiliary/first_accuracy": 0,
        "auxiliary/second_accuracy": 1,
        "auxiliary/agreement": 0,
    }
    assert run.data.tags["inputs.scale"] == "symmetric"
    assert run.data.tags["inputs.reason"] == "as inputs=symmetric says"
    assert "auxiliary.png" in files


class TrainingImages(DataFiles):
    """Files whose test split must not be read."""

    def test(self):
        raise AssertionError("the test split was read")


def test_the_test_split_has_no_say_in_the_scale(store, toy_files, tmp_path):
    data = TrainingImages(toy_files.folder, toy_files.sha256, toy_files.debian_folder, {})
    for made, error in ((modules.Always(0.1), UserError), (modules.Bands("unit"), AssertionError)):
        path = modules.write(made, tmp_path / "theirs.pt")
        with pytest.raises(error, match=r"does not show which images it expects|the test split was read"):
            evaluate(EvaluationJob(model=str(path), hardware=CPU, data=data))
    assert store.search_runs(["0", "1"]) == []


@pytest.mark.parametrize("made", [modules.NineClasses(), modules.Larger(), modules.Always(float("nan"))])
def test_what_cannot_be_scored_makes_no_run(made, store, toy_files, tmp_path):
    path = modules.write(made, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=f"^model={path} "):
        evaluate(EvaluationJob(model=str(path), inputs="unit", hardware=CPU, data=toy_files))
    assert store.search_runs(["0", "1"]) == []


@pytest.fixture
def ours(tmp_path):
    exported = export.exportable(LeNet(VARIANTS["baseline"], 0), Normalisation(0.3, 0.3), {"name": "ours"})
    export.save_torchscript(exported, tmp_path / "ours.pt")
    return str(tmp_path / "ours.pt")


@pytest.mark.parametrize("inputs", ["normalised", "symmetric"])
def test_our_own_files_take_images_from_0_to_1(inputs, ours, toy_files):
    with pytest.raises(UserError, match=f"inputs={inputs} does not fit model={ours}.*leave inputs at auto"):
        predict_untracked(EvaluationJob(model=ours, inputs=inputs, hardware=CPU, data=toy_files))


def test_our_own_files_need_no_guess(ours, toy_files):
    both = [
        predict_untracked(EvaluationJob(model=ours, inputs=inputs, hardware=CPU, data=toy_files))
        for inputs in ("auto", "unit")
    ]
    assert torch.equal(both[0].predictions.logits, both[1].predictions.logits)
    assert both[0].predictions.features.shape == (60, 84)
