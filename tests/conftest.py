"""Fixtures shared by the tests."""

import shutil
import signal
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lenet_study.training.hardware import limit_spinning

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` ignores it, and so would what tests start
limit_spinning()  # before torch is imported: tests on two threads crawl beside busy processes otherwise

import torch  # noqa: E402
from toys import toy_split, write_data_files  # noqa: E402

from lenet_study.training.data_files import DataFiles  # noqa: E402
from lenet_study.training.dataset import Split  # noqa: E402


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: with --no-loadscope-reorder, pytest-xdist hands them out so.

    Its own order is by the number of tests, so that the few that take minutes would come last and alone.
    """

    def is_slow(item):
        marks = {mark.name for mark in item.iter_markers()}
        return bool({"server", "browser"} & marks) or item.path.parent.name in ("workflows", "search")

    slow = {item.path for item in items if is_slow(item)}
    items.sort(key=lambda item: item.path not in slow)  # stable: each file's tests stay together


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Weights depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_train() -> Split:
    return toy_split(200, seed=1)


@pytest.fixture(scope="session")
def toy_validation() -> Split:
    """Brighter than the training images, so that whose mean and deviation are used shows."""
    return toy_split(60, seed=2, level=200)


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory) -> DataFiles:
    """200 training and 60 test images in a folder, for the workflows."""
    return write_data_files(tmp_path_factory.mktemp("data"), toy_split(200, seed=1), toy_split(60, seed=2))


class Recorder:
    """A reporter that keeps what jobs report, as tuples that begin with the method's name."""

    def __init__(self):
        self.events = []

    def on_run_start(self, name, run_id, epochs):
        self.events.append(("on_run_start", name, run_id, epochs))

    def on_plan(self, name, sizes):
        self.events.append(("on_plan", name, sizes))

    def on_progress(self, name, progress):
        self.events.append(("on_progress", name, progress))

    def on_address(self, instruction, name, address):
        self.events.append(("on_address", instruction, name, address))

    def on_epoch_end(self, name, epoch):
        self.events.append(("on_epoch_end", name, epoch))

    def on_run_end(self, name):
        self.events.append(("on_run_end", name))

    def message(self, line):
        self.events.append(("message", line))

    @property
    def text(self) -> str:
        """All lines for the user."""
        return "\n".join(event[-1] for event in self.events if event[0] in ("message", "on_address"))


TRAINING_ARTIFACTS = {
    "model_summary.txt",
    "recipe.json",
    "environment.txt",
    "provenance.json",
    "architecture.png",
    "augmentation.png",
    "curves.png",
    "learning_rate.png",
    "history.csv",
}
STORE_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
)


@pytest.fixture(scope="session")
def initialised_database(tmp_path_factory) -> Path:
    """An empty MLflow database with its tables: making one takes seconds, copying it does not."""
    from lenet_study.tracking import store

    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        store.connect()
    return folder / "mlflow.db"


@contextmanager
def open_store(database: Path, folder: Path):
    """A store of its own in ``folder``, which becomes the working directory; nothing leaks out of it."""
    import mlflow
    from mlflow.tracking import fluent

    shutil.copy(database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in STORE_VARIABLES:
            patch.setenv(name, "")  # remembered, so that what MLflow sets itself is undone, too
            patch.delenv(name)
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(fluent, "_active_experiment_id", None)
        yield mlflow.MlflowClient()
        while mlflow.active_run():
            mlflow.end_run("FAILED")


@pytest.fixture
def store(initialised_database, tmp_path):
    """A client of an empty store in ``tmp_path``, the working directory."""
    with open_store(initialised_database, tmp_path) as client:
        yield client


def add_training(
    store,
    name: str,
    accuracy: float | None,
    *,
    stage: str = "train",
    status: str = "FINISHED",
    parity: str | None = "passed",
    registered: bool = True,
    experiment: str = "fashion-mnist-lenet",
    **tags: str,
) -> str:
    """What a training leaves in the store, without its model; returns the run's id."""
    from mlflow.exceptions import MlflowException

    found = store.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else store.create_experiment(experiment)
    tags |= {"stage": stage} | ({"parity": parity} if parity else {})
    run_id = store.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    if accuracy is not None:
        store.log_metric(run_id, "best/val_accuracy", accuracy)
    if status != "RUNNING":
        store.set_terminated(run_id, status)
    if registered:
        with suppress(MlflowException):
            store.create_registered_model("fashion-mnist-lenet")
        store.create_model_version("fashion-mnist-lenet", f"runs:/{run_id}/model", run_id)
    return run_id


def as_logged(version) -> None:
    """In place of a promotion's check: what ``add_training`` leaves has no files."""


def short_training(toy_files):
    """The job of a training of three epochs, which tests interrupt."""
    from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
    from lenet_study.training.hardware import Hardware
    from lenet_study.workflows.train import TrainingJob

    config = TrainingConfig(epochs=3, batch_size=16, learning_rate=0.002, seed=3)
    recipe = variant_recipes(config)["baseline"]
    return TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=toy_files)


@pytest.fixture
def job(toy_files):
    """A training of three epochs."""
    return short_training(toy_files)


@pytest.fixture(scope="module")
def whole(initialised_database, tmp_path_factory, toy_files):
    """What that training leaves if nothing interrupts it: weights and metrics."""
    from lenet_study.workflows.train import train

    with open_store(initialised_database, tmp_path_factory.mktemp("whole")) as store:
        result = train(short_training(toy_files))
        yield result.model.weights_sha256, history(store, result.run_id)


def history(store, run_id):
    """Each metric's steps and values, in the order of logging; what measures the computer is left out."""
    run = store.get_run(run_id)
    names = {name for name in run.data.metrics if not name.startswith("system/") and name != "epoch_seconds"}
    return {
        name: [(point.step, point.value) for point in store.get_metric_history(run_id, name)]
        for name in names
    }
