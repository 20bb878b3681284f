"""A model's files in a folder, for an image that serves it."""

import pytest
from toys import toy_split

from lenet_study.__main__ import main
from lenet_study.errors import UserError
from lenet_study.recipes.variants import Variant
from lenet_study.tracking.registry import load_model, log_model
from lenet_study.tracking.run import open_run
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import LeNet
from lenet_study.workflows.fetch import fetch_model

TOY = Variant(
    change="small", channels=(2, 3), hidden_units=(8, 6), batch_norm=True, halve_learning_rate_every=None
)


def test_a_model_replaces_nothing_but_a_model(tmp_path, capsys):
    (tmp_path / "home").mkdir()
    assert main(["fetch", "--to", str(tmp_path / "home")]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert (tmp_path / "home").is_dir()


def test_a_model_is_copied_whole_over_another(store, tmp_path, capsys):
    images = toy_split(20, seed=5).images
    with open_run("toy", stage="train", params={}) as run:
        log_model(run, LeNet(TOY, seed=3), Normalisation.of(images), images, {"name": "toy"}, register=True)
    folder = tmp_path / "docker" / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").touch()
    (folder / "of the former model").touch()
    assert main(["fetch", "--to", str(folder), "--model", run.id]) == 0
    weights = load_model(run.id).weights_sha256
    assert capsys.readouterr().out == f"toy: weights {weights[:12]}, in {folder}\n"
    assert load_model(str(folder / "data" / "model.pth")).weights_sha256 == weights
    assert not (folder / "of the former model").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    with pytest.raises(UserError, match="is no logged model"):
        fetch_model(str(folder / "data" / "model.pth"), folder)
    assert (folder / "MLmodel").read_text()
