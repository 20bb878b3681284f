"""``train``: one model, from the data to a registered version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Literal

import pandas as pd

from lenet_study.evidence.figures import architecture
from lenet_study.evidence.figures import charts as figures
from lenet_study.execution.reporter import Reporter, Terminal
from lenet_study.recipes.recipe import Recipe, chosen
from lenet_study.recipes.variants import VARIANTS, parameters, parent_of
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking
from lenet_study.tracking.run import Run
from lenet_study.training import augmentation as augment
from lenet_study.training import fashion_mnist as data
from lenet_study.training import loop as training
from lenet_study.training.fashion_mnist import Normalisation, Split
from lenet_study.training.hardware import Machine, tags
from lenet_study.training.loop import Epoch, Protocol
from lenet_study.training.model import LeNet, summary

Stage = Literal["train", "spec", "fold", "retrain", "trial", "confirm"]
_IMAGES = {"fold": "On all folds but one: ", "retrain": "On training and validation images: "}
_FILE = " Its spec file decides: the parameters `spec.…` count, not their namesakes."
_REGISTERED = ("train", "spec", "retrain")
PROOF_IMAGES = 1000  # images on which an exported model must equal the eager one


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training to do; it says enough to be done in any process.

    Attributes:
        stage: ``train`` one of the five on the training split, ``spec`` a model of a spec file, ``fold`` on
            all folds but one, ``retrain`` on all images; ``trial`` and ``confirm`` for a search.
        recipe: What to train, and how.
        machine: Where to train.
        data_dir: Where the data is.
        spec: The spec file that the recipe came from.
        study: Id of the study's run that the training belongs to.
        parent: Id of the run to nest the training's run under.
        fold: Which fold validates, counting from 1, of how many ``folds``.
        folds: Parts of the cross-validation.
        extra_tags: Further tags of its run.
    """

    stage: Stage
    recipe: Recipe
    machine: Machine
    data_dir: str = ""
    spec: str = ""
    study: str = ""
    parent: str = ""
    fold: int = 0
    folds: int = 0
    extra_tags: Mapping[str, object] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """What is trained, in a word."""
        return self.recipe.name

    @property
    def protocol(self) -> Protocol:
        """How it is trained."""
        return self.recipe.protocol

    @property
    def name(self) -> str:
        """The name of its run."""
        suffix = {
            "fold": f" fold {self.fold}/{self.folds}",
            "retrain": " retrained",
            "confirm": f" seed {self.protocol.seed}",
        }
        return self.variant + suffix.get(self.stage, "")

    def parameters(self) -> dict[str, object]:
        """The parameters of its run: those of the entry point ``train``, and the spec."""
        machine = {**asdict(self.machine), "data_dir": self.data_dir}
        choice = {"variant": self.variant, "spec": self.spec}
        of_file = bool(self.spec) or self.recipe.searched
        return {**choice, **asdict(self.protocol), **machine, **self.recipe.parameters(of_file=of_file)}

    def tags(self) -> dict[str, object]:
        """The tags of its run."""
        return {**variant_tags(self.variant), **({"fold": self.fold} if self.fold else {}), **self.extra_tags}

    def images(self) -> tuple[Split, Split | None]:
        """The images to train on, and those to choose the best epoch on; none when retraining."""
        images = data.load_train(data.folder_of(self.data_dir))
        if self.stage == "retrain":
            return images, None
        if self.stage == "fold":
            rows = data.folds(images.labels, self.folds, self.protocol.seed)[self.fold - 1]
        else:
            rows = data.split(images.labels, self.protocol.seed)
        train, validation = rows
        return images.subset(train), images.subset(validation)


@dataclass(frozen=True)
class Trained:
    """What a training made."""

    run_id: str
    best: Epoch
    augmented: float | None  # validation accuracy of the best epoch on augmented images, 0..1
    history: Sequence[Epoch]
    model: registry.LoggedModel
    seconds: float  # wall time of the whole run


def main(*, variant: str, spec: str, device: str, threads: int, data_dir: str, **protocol: Any) -> None:
    """Train one model and say what came out."""
    machine = Machine(device=device, threads=threads)
    recipe = chosen(variant, spec, Protocol(**protocol))
    stage: Stage = "spec" if recipe.searched else "train"
    train(Job(stage=stage, recipe=recipe, machine=machine, data_dir=data_dir, spec=spec), reporter=Terminal())


def train(job: Job, *, reporter: Reporter) -> Trained:
    """Do one training in a run of its own: log its data, metrics, pictures and model."""
    start = perf_counter()
    device = job.machine.prepare()
    images, validation = job.images()
    spec, protocol = job.recipe.spec, job.protocol
    with tracking.run(
        job.name,
        stage=job.stage,
        params=job.parameters(),
        tags=job.tags(),
        description=_IMAGES.get(job.stage, "") + describe(job.recipe) + (_FILE if job.spec else ""),
        study=job.study,
        parent=job.parent,
        system_metrics=True,
    ) as run:
        reporter.started(job.name, run.id, protocol.epochs)
        run.set_tags(tags(device))
        run.log_text(summary(spec), "model_summary.txt")
        run.log_text(job.recipe.text(), "spec.json")
        run.log_figure(architecture.draw(job.variant, spec), "architecture.png")
        run.log_figure(_augmentation_examples(images, job.recipe), "augmentation.png")
        run.log_dataset(images, "train")
        if validation:
            run.log_dataset(validation, "validation")

        model = LeNet(spec, protocol.seed)
        history: list[Epoch] = []

        def on_epoch(epoch: Epoch) -> None:
            history.append(epoch)
            run.log_epoch(epoch)
            reporter.epoch(job.name, epoch)

        try:
            best = training.fit(model, images, validation, spec, protocol, device=device, on_epoch=on_epoch)
        except Exception:
            reporter.ended(job.name)
            raise

        normalise = Normalisation.of(images.images)
        run.log_best(best)
        augmented = _augmented_accuracy(model, validation, normalise, job.recipe) if validation else None
        run.log_metrics({"best/val_accuracy_augmented": augmented, "parameters": parameters(spec)})
        run.log_table(pd.DataFrame(map(asdict, history)), "history.csv")
        run.log_figure(
            figures.curves({job.name: history}, {job.name: best.epoch}, title=job.name), "curves.png"
        )
        run.log_figure(figures.learning_rate(history, title=job.name), "learning_rate.png")
        description = {
            "name": job.name,
            "variant": job.variant,
            "run_id": run.id,
            "best_epoch": best.epoch,
            "val_accuracy": best.val_accuracy,
            **asdict(protocol),
        }
        proof = (validation or images).images[:PROOF_IMAGES]
        register = job.stage in _REGISTERED
        logged = registry.log_model(run, model, normalise, proof, description, register=register)
        trained = Trained(run.id, best, augmented, history, logged, perf_counter() - start)
        _report(run, job, trained, reporter)
    return trained


def trained_by(run: registry.Training) -> Trained:
    """What a finished training with validation images made, read from its run."""
    table = tracking.read_table(run.info.run_id, "history.csv")
    history = [Epoch(**row) for row in table.to_dict("records")]
    metrics = run.data.metrics
    best = next(epoch for epoch in history if epoch.epoch == metrics["best/epoch"])
    seconds = (run.info.end_time - run.info.start_time) / 1000
    augmented = metrics.get("best/val_accuracy_augmented")
    return Trained(run.info.run_id, best, augmented, history, registry.model_of(run), seconds)


def variant_tags(variant: str) -> dict[str, str]:
    """Tags of every run that is about one model: its name and, of the five, its colour in MLflow's charts."""
    colour = {"mlflow.runColor": figures.COLOURS[variant]} if variant in VARIANTS else {}
    return {"variant": variant, **colour}


def describe(recipe: Recipe) -> str:
    """What is trained, in a sentence."""
    parent = parent_of(recipe.name)
    return f"**{recipe.name}**: {f'{parent}, but ' if parent else ''}{recipe.spec.change}."


def _report(run: Run, job: Job, trained: Trained, reporter: Reporter) -> None:
    """Say what a training made and where to see it."""
    best = trained.best
    if best.val_accuracy is None:
        result = f"trained for {best.epoch} epochs"
    else:
        result = f"best epoch {best.epoch}, validation accuracy {best.val_accuracy:.2%}"
    version = f", version {trained.model.version} of {tracking.NAME}" if trained.model.version else ""
    weights = trained.model.weights[:12]
    reporter.say(f"{job.name}: {result}; weights {weights}{version}")
    if job.stage != "trial":
        reporter.say(f"{job.name} {tracking.how_to_look()} {tracking.run_address(run)}")


def _augmented_accuracy(model: LeNet, validation: Split, normalise: Normalisation, recipe: Recipe) -> float:
    generator = training.epoch_generator(recipe.protocol.seed, 0, validation.images.device)
    device = next(model.parameters()).device
    images = augment.augment(validation.images, generator, recipe.spec.augmentation)
    augmented = Split(images, validation.labels)
    return training.score(model, augmented.to(device), normalise)[1]


def _augmentation_examples(train: Split, recipe: Recipe, rows: int = 6, columns: int = 8) -> Any:
    generator = training.epoch_generator(recipe.protocol.seed, 0, train.images.device)
    originals = train.images[:rows]
    repeated = originals.repeat_interleave(columns, 0)
    augmented = augment.augment(repeated, generator, recipe.spec.augmentation)
    shown = augmented.reshape(rows, columns, *originals.shape[1:])
    return figures.augmentation(originals.cpu().numpy(), shown.cpu().numpy())
