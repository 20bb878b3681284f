"""Searches on toy images, for the tests."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
from conftest import as_logged, open_store

from lenet_study.execution.reporter import Reporter
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import Recipe, TrainingConfig
from lenet_study.recipes.variants import VARIANTS
from lenet_study.search.config import SearchConfig
from lenet_study.search.driver import search
from lenet_study.tracking.store import NAME
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.promote import promote

CPU = Hardware(device="cpu")
CONFIG = SearchConfig(
    search_name="toy",
    trials=3,
    max_parameters=100_000,  # of the variants, baseline and v1 are within it
    max_epochs=2,
    confirm_seeds=0,
)


class Recorder(Reporter):
    """Remembers what the user is told.

    Args:
        errors: To raise in the first epoch of the n-th training, counting from 1.
    """

    def __init__(self, errors=None):
        self.lines = []
        self._errors = errors or {}
        self._trainings = 0

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def on_epoch_end(self, name, epoch):
        self._trainings += epoch.epoch == 1
        if epoch.epoch == 1 and self._trainings in self._errors:
            raise self._errors[self._trainings]

    def message(self, line):
        self.lines.append(line)


def run_search(files, reporter=None, **changes) -> Recorder:
    """Search, one trial at a time; gives what the user was told."""
    reporter = reporter or Recorder()
    search(replace(CONFIG, **changes), CPU, 1, files, reporter)
    return reporter


@contextmanager
def copy_of(folder: Path, into: Path):
    """A store and its searches as they are now; a client. Artifacts stay where they are."""
    shutil.copy(folder / "optuna.db", into)
    with open_store(folder / "mlflow.db", into) as client:
        yield client


def poor_recipe(learning_rate=0.00001) -> Recipe:
    """A baseline that hardly learns."""
    config = TrainingConfig(epochs=1, learning_rate=learning_rate)
    return Recipe(name="baseline", variant=VARIANTS["baseline"], config=config)


def add_version(client, recipe: Recipe) -> int:
    """Register a training that nobody has trained."""
    tags = {"stage": "train", "variant": recipe.name, "parity": "passed"}
    run = client.create_run("0", run_name=recipe.name, tags=tags).info.run_id
    client.log_param(run, "seed", "0")
    client.log_text(run, recipe_file.dumps(recipe), "recipe.json")
    client.log_metric(run, "best/val_accuracy", 0.92)
    client.set_terminated(run)
    return int(client.create_model_version(NAME, f"runs:/{run}/model", run).version)


def set_champion(client, recipe: Recipe) -> None:
    client.create_registered_model(NAME)
    add_version(client, recipe)
    promote(check=as_logged)


def aliases(client):
    return {name: int(version) for name, version in client.get_registered_model(NAME).aliases.items()}


def runs_of(client, stage, status=""):
    condition = f"tags.stage = '{stage}'" + (f" and attributes.status = '{status}'" if status else "")
    return client.search_runs(["1"], condition, order_by=["attributes.start_time ASC"])


def study_of(folder, name="toy") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")


def table(client, run, name):
    return pd.read_csv(client.download_artifacts(run.info.run_id, name))
