"""`mlflow models serve` answers real images over HTTP with the logits of the model that was trained."""

import os
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from servers import free_port, serving

from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import registry
from lenet_study.tracking.champions import Champions
from lenet_study.tracking.run import open_run
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import LeNet

DATA = os.environ.get("LENET_STUDY_DATA", str(Path(__file__).parents[2] / "data"))


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
