"""The entry points. Each parses nothing and computes nothing: it calls one workflow.

A command's docstring is its help; its arguments and the fields of its dataclasses are its parameters. A
workflow is imported when its command is called: torch and MLflow take seconds, which help cannot wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click
from annotated_types import Interval

from lenet_study.evidence.inputs import Inputs
from lenet_study.recipes.constraints import Folder
from lenet_study.recipes.recipe import Seed, TrainingConfig
from lenet_study.recipes.recipe_file import RecipeChoice
from lenet_study.search.config import SearchConfig
from lenet_study.training.data_files import DataDir, DataFiles
from lenet_study.training.hardware import Hardware, Workers

if TYPE_CHECKING:
    from lenet_study.execution.reporter import Reporter
    from lenet_study.workflows.train import TrainingJob

Command = Callable[..., None]
Folds = Annotated[int, Interval(ge=2, le=60_000), "Parts of the k-fold cross-validation."]
CheckpointDir = Annotated[str, Folder(), "Folder of all checkpoints; else one beside a local store."]
Force = Annotated[bool, "Train anew what has finished before."]
Model = Annotated[str, "A run id, a models:/ address, or the path of a TorchScript file."]
DEFAULT_MODEL = "models:/fashion-mnist-lenet@champion"
COMMANDS: dict[str, Command] = {}  # of the command line
ENTRY_POINTS: dict[str, Command] = {}  # those of both MLproject files, too


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where a training reads its images and keeps its checkpoints."""

    data_dir: DataDir = ""
    checkpoint_dir: CheckpointDir = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: its recipe, its computer, and its folders."""

    choice: RecipeChoice
    config: TrainingConfig
    hardware: Hardware
    folders: Folders

    def job(self, folds: int = 0) -> TrainingJob:
        """Return the training that the parameters describe."""
        from lenet_study.workflows.train import TrainingJob

        return TrainingJob(
            recipe=self.choice.load(self.config),
            hardware=self.hardware,
            data=DataFiles.at(self.folders.data_dir),
            checkpoint_dir=self.folders.checkpoint_dir,
            recipe_file=self.choice.recipe,
            folds=folds,
        )


def command(function: Command) -> Command:
    """Declare a function a command."""
    COMMANDS[function.__name__] = function
    return function


def entry_point(function: Command) -> Command:
    """Declare a function a command and an entry point of the project."""
    ENTRY_POINTS[function.__name__] = function
    return command(function)


@entry_point
def study(
    config: TrainingConfig,
    hardware: Hardware,
    folders: Folders,
    folds: Folds = 5,
    repeats: Annotated[int, Interval(ge=1, le=1000), "Seeds of every variant, from the seed on."] = 1,
    workers: Workers = 0,
    force: Force = False,
) -> None:
    """Run the whole study."""
    from lenet_study.workflows.study import study as run_study

    run_study(
        config,
        folds=folds,
        repeats=repeats,
        hardware=hardware,
        workers=workers,
        data=DataFiles.at(folders.data_dir),
        checkpoint_dir=folders.checkpoint_dir,
        force=force,
        reporter=_terminal(),
    )


@entry_point
def train(training: Training) -> None:
    """Train one model and register it."""
    from lenet_study.workflows.train import train as run_training

    run_training(training.job(), _terminal())


@entry_point
def kfold(training: Training, folds: Folds = 5, workers: Workers = 0, force: Force = False) -> None:
    """Cross-validate one model."""
    from lenet_study.workflows.kfold import kfold_side_by_side

    kfold_side_by_side(replace(training.job(folds), once=not force), workers, _terminal())


@entry_point
def retrain(training: Training) -> None:
    """Train one model on training and validation images, then evaluate it."""
    from lenet_study.workflows.retrain import retrain as run_retraining

    run_retraining(training.job(), _terminal())


@entry_point
def evaluate(
    hardware: Hardware,
    model: Model = DEFAULT_MODEL,
    inputs: Inputs = "auto",
    seed: Seed = 0,
    data_dir: DataDir = "",
) -> None:
    """Evaluate any model on the test split."""
    from lenet_study.workflows.evaluate import EvaluationJob
    from lenet_study.workflows.evaluate import evaluate as run_evaluation

    data = DataFiles.at(data_dir)
    job = EvaluationJob(model=model, inputs=inputs, seed=seed, hardware=hardware, data=data)
    run_evaluation(job, _terminal())


@entry_point
def predict(
    model: Model = DEFAULT_MODEL,
    image: Annotated[str, "PNG, JPEG or IDX files, divided by spaces; FILE:3 is image 3 of IDX."] = "",
    output: Annotated[Literal["table", "json", "request"], "request: the body for a server."] = "table",
) -> None:
    """Say what image files show."""
    from lenet_study.workflows.predict import predict as run_prediction

    run_prediction(model, image, output, _terminal())


@entry_point
def promote(
    version: Annotated[int, Interval(ge=0, le=10**9), "The version to promote; 0 takes the best."] = 0,
    rollback: Annotated[bool, "Go back to the champion before."] = False,
) -> None:
    """Make the best training's model, or one that is named, the champion."""
    from lenet_study.workflows.promote import promote as run_promotion

    run_promotion(version=version, rollback=rollback, reporter=_terminal())


@entry_point
def history() -> None:
    """List all changes of the champion."""
    from lenet_study.workflows.champion_history import history as print_history

    print_history(_terminal())


@entry_point
def verify(run_id: Annotated[str, "A run, or all of the store."] = "all", data_dir: DataDir = "") -> None:
    """Compare runs, models, data, checkpoints and databases with their SHA-256 sums."""
    from lenet_study.workflows.verify import verify as run_verification

    run_verification(run_id, DataFiles.at(data_dir), _terminal())


@entry_point
def search(config: SearchConfig, hardware: Hardware, workers: Workers = 0, data_dir: DataDir = "") -> None:
    """Search beyond the variants with Optuna, within a budget of parameters."""
    from lenet_study.search.driver import search as run_search

    run_search(config, hardware, workers, DataFiles.at(data_dir), _terminal())


@entry_point
def resume(
    run_id: Annotated[str, "The interrupted run; empty for all of this store and host."] = "",
    checkpoint_dir: CheckpointDir = "",
    force: Annotated[bool, "Go on although code, packages or processor have changed."] = False,
) -> None:
    """Go on with interrupted trainings, cross-validations and studies, each in its own run."""
    from lenet_study.workflows.resume import resume as run_resume

    run_resume(run_id, force=force, checkpoint_dir=checkpoint_dir, reporter=_terminal())


@entry_point
def reproduce(
    run_id: Annotated[str, "The finished training to do again."] = "",
    threads: Annotated[int, Interval(ge=0, le=1024), "Processor threads; 0: as recorded."] = 0,
    data_dir: DataDir = "",
) -> None:
    """Train a finished training again, and compare everything with what the store recorded."""
    from lenet_study.workflows.reproduce import reproduce as run_reproduction

    run_reproduction(run_id, threads=threads, data_dir=data_dir, reporter=_terminal())


@entry_point
def compare(
    a: Annotated[str, "A variant, the run id of a training, or a version: 3, champion, models:/…"] = "",
    b: Annotated[str, "The model to compare it with, named in the same ways."] = "",
) -> None:
    """Compare two models over the seeds of their trainings, and on the test images."""
    from lenet_study.workflows.compare import compare as run_comparison

    run_comparison(a, b, _terminal())


@entry_point
def report(
    run_id: Annotated[str, "The study's run; empty for the latest."] = "",
    to: Annotated[str, "HTML file to write; empty for report.html."] = "",
    data_dir: DataDir = "",
) -> None:
    """Write a study as one HTML file: published claims with verdicts, and the way down to single images."""
    from lenet_study.workflows.report import report as write_report

    write_report(run_id, to=to, data=DataFiles.at(data_dir), reporter=_terminal())


@entry_point
def reap() -> None:
    """End the runs whose process is gone."""
    from lenet_study.workflows.orphans import reap as run_reap

    run_reap(_terminal())


@entry_point
def sync() -> None:
    """Deliver what runs have written while the store was away."""
    from lenet_study.workflows.sync import sync as run_sync

    run_sync(_terminal())


@entry_point
def data(data_dir: DataDir = "") -> None:
    """Find or fetch Fashion-MNIST, and verify it."""
    from lenet_study.workflows.data import verify_data

    verify_data(DataFiles.at(data_dir), _terminal())


@command  # called by `make ui`
def views() -> None:
    """Renew the saved views of the latest study in MLflow's page, and print their addresses."""
    from lenet_study.workflows.page import views as print_views

    print_views(_terminal())


@command  # no entry point: `mlflow run` opens the store itself before it calls one
def doctor(
    json: Annotated[bool, "Print one JSON document instead of lines."] = False, data_dir: DataDir = ""
) -> None:
    """Examine installation, data, store and computer, and name the cure of each problem."""
    from lenet_study.workflows.doctor import doctor as run_doctor

    run_doctor(data_dir, as_json=json, reporter=_terminal())


@command  # no entry point, for the same reason
def relocate() -> None:
    """Repair a local store whose folder was moved."""
    from lenet_study.workflows.relocate import relocate as run_relocation

    run_relocation(_terminal())


@entry_point
def backup(
    to: Annotated[str, "Archive to make; else one of this folder, named after the time."] = "",
) -> None:
    """Write an archive of the local store: runs, models, searches and checkpoints."""
    from lenet_study.workflows.backup import backup as run_backup

    run_backup(Path(to) if to else None, _terminal())


@command  # no entry point: the store does not exist yet
def restore(
    source: Annotated[str, "Archive that `backup` has made."],
    to: Annotated[str, Folder(), "Folder to make."],
) -> None:
    """Bring a local store back from its archive."""
    from lenet_study.workflows.backup import restore as run_restore

    run_restore(Path(source), Path(to), _terminal())


@command  # called by `make image-serve`
def fetch(to: Annotated[str, "Folder to make."], model: Model = DEFAULT_MODEL) -> None:
    """Copy a logged model's files, checked against the sum that its run logged."""
    from lenet_study.workflows.fetch import fetch_model

    fetch_model(model, Path(to), _terminal())


def _terminal() -> Reporter:
    from lenet_study.execution.reporter import Terminal

    terminal = Terminal()
    click.get_current_context().call_on_close(terminal.close)  # however the command ends
    return terminal
