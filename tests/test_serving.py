"""`mlflow models serve` answers real images over HTTP with the logits of the model that was trained."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import torch

from lenet_study import data, registry, tracking
from lenet_study.data import Normalisation
from lenet_study.model import LeNet
from lenet_study.variants import VARIANTS

START_LIMIT = 120  # seconds


DATA = os.environ.get("LENET_STUDY_DATA", str(Path(__file__).parents[1] / "data"))


@pytest.mark.server
@pytest.mark.realdata
def test_the_champion_is_served_with_the_eager_models_logits(store):
    images = data.load_test(Path(DATA)).images[:16]
    model, normalise = LeNet(VARIANTS["v4"], seed=0), Normalisation.of(images)
    with tracking.run("v4", stage="train", params={}) as run:
        registry.log_model(run, model, normalise, images, {"name": "v4"}, register=True)
    version = registry.version_of(run.id)
    registry.crown(version, "for the test", run.id)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/fashion-mnist-lenet@champion"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        [*command, "--env-manager", "local", "--port", str(port)],
        env={**os.environ, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/ping", server)
        pixels = (images.float() / 255).unsqueeze(1)
        answer = requests.post(f"{address}/invocations", json={"inputs": pixels.tolist()}, timeout=60)
        assert answer.status_code == 200, answer.text
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)
    with torch.no_grad():
        expected = model.eval()(normalise(images)).numpy()
    np.testing.assert_allclose(answer.json()["predictions"], expected, atol=1e-5)


def wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server stopped"
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    pytest.fail(f"no answer within {START_LIMIT} s")
