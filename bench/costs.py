"""What stands around the training steps: tracking, models, evaluation, serving, start, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from bench.growth import EPOCH, seconds
from bench.processes import environment_of
from bench.subject import images_of
from lenet_study.evidence import export, predictions
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking import registry
from lenet_study.tracking.run import open_run
from lenet_study.training import loop
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.training.model import LeNet

FIRST_BATCH_SEEN = 3  # exit code
FIRST_BATCH = """
import sys, time, psutil
from lenet_study.training import loop
from lenet_study.__main__ import main
def stop(*arguments, **options):
    print("first batch after", time.time() - psutil.Process().create_time(), flush=True)
    raise SystemExit(3)
loop.training_loss = stop
sys.exit(main(["train", "--variant", sys.argv[1], "--epochs", "1"]))
"""
MEMORY = """
import sys
from lenet_study.__main__ import main
assert main(["train", "--variant", sys.argv[1], "--epochs", "1"]) == 0
from bench.memory import peak_memory
print(peak_memory())
"""


def costs(variant: str, folder: Path) -> pd.DataFrame:
    """One row per cost, on the default hardware. The store of this process becomes one in ``folder``."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/costs.db"
    device = Hardware(device="cpu").prepare()
    train, validation = images_of(12_000)
    recipe = variant_recipes(TrainingConfig(epochs=1))[variant]
    model = LeNet(recipe.variant, seed=0)
    normalisation = loop.fit(model, train, validation, recipe, device=device).normalisation
    rows: dict[str, object] = {}
    with open_run("bench", stage="train", params={}) as run:
        rows["tracking one epoch, ms"] = 1000 * seconds(lambda: run.log_epoch(EPOCH), 50)
        start = time.perf_counter()
        images = validation.images[:1000]
        registry.log_model(run, model, normalisation, images, {"name": variant}, register=True)
        rows["exporting, proving and logging a model, s"] = time.perf_counter() - start
        logged = registry.load_model(run.id).module

    test = DataFiles.at().test()
    predicted = predictions.predict(logged, test, device)
    rows["predicting 10,000 images, all heads, s"] = seconds(
        lambda: predictions.predict(logged, test, device), 3
    )
    start = time.perf_counter()
    predictions.embedding(predicted.features, seed=0)
    rows["t-SNE of 10,000 images, s"] = time.perf_counter() - start
    with torch.inference_mode():
        for batch, times in ((1, 300), (256, 20)):
            images = export.as_input(test.images[:batch])
            rows[f"served by the exported model at batch {batch}, images/s"] = batch / seconds(
                lambda images=images: logged(images), times
            )
    rows |= start_and_memory(variant, folder)
    return pd.DataFrame({"cost": list(rows), variant: [round(float(str(v)), 3) for v in rows.values()]})


def start_and_memory(variant: str, folder: Path) -> dict[str, object]:
    """Return seconds from a command to its first batch, help or refusal, and the memory of a training."""
    rows: dict[str, object] = {}

    def run(*command: str, code: int = 0) -> str:
        result = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment_of(), capture_output=True, text=True
        )
        assert result.returncode == code, result.stderr
        return result.stdout

    output = run("-c", FIRST_BATCH, variant, code=FIRST_BATCH_SEEN)
    rows["from command to first batch, s"] = output.rpartition("first batch after")[2].split()[0]
    rows["--help, s"] = seconds(lambda: run("-m", "lenet_study", "--help"), 5)
    rows["a refused value, s"] = seconds(
        lambda: run("-m", "lenet_study", "train", "--epochs", "0", code=2), 5
    )
    rows["peak memory of a training, MiB"] = run("-c", MEMORY, variant).split()[-1]
    return rows
