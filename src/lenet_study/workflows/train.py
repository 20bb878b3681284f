"""``train``: one model, from the data to a registered version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import perf_counter, sleep
from typing import Any, Literal

import pandas as pd
import torch
from filelock import BaseFileLock
from matplotlib.figure import Figure

from lenet_study.errors import DivergenceError, StudyError
from lenet_study.evidence import export
from lenet_study.evidence.figures import architecture, style, training_curves
from lenet_study.execution import signals
from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Reporter
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import Recipe, describe
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.tracking import links, registry
from lenet_study.tracking.registry import LoggedModel
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import NAME, checkpoint_folder, claim_lock, set_tag
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.training import dataset, loop
from lenet_study.training.augmentation import augment
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.hardware import Hardware, processor
from lenet_study.training.history import Epoch
from lenet_study.training.loop import FitResult
from lenet_study.training.model import LeNet, summary
from lenet_study.workflows import reuse
from lenet_study.workflows.page import renew_cards
from lenet_study.workflows.waiting import wait_for_store

Stage = Literal["train", "fold", "retrain", "trial", "confirm"]
_IMAGES = {"fold": "On all folds but one: ", "retrain": "On training and validation images: "}
_FILE = " Its recipe file decides: the params `recipe.…` count, not their namesakes."
WAIT_SECONDS = 1.0  # between two looks at a training of another process
PROOF_IMAGES = 1000  # images on which an exported model must equal the eager one


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training as data."""

    recipe: Recipe
    stage: Stage = "train"  # ``fold`` trains on all folds but one, ``retrain`` on all images
    hardware: Hardware = Hardware()
    data: DataFiles = field(default_factory=DataFiles.at)
    recipe_file: str = ""  # path of the file that the recipe came from; empty for a variant
    study: str = ""  # id of the study's run that the training belongs to
    parent: str = ""  # id of the run to nest the training's run under
    fold: int = 0  # number of the one that validates, counting from 1
    folds: int = 0
    tags: Mapping[str, object] = field(default_factory=dict)  # further ones of its run
    checkpoint_dir: str = ""  # folder of all runs' checkpoints; empty for one beside a local store
    resume: str = ""  # id of the interrupted run to go on with; empty begins one
    once: bool = False  # whether an equal training that has finished is used again, see ``train_once``
    repeated: bool = False  # whether another seed comes first in its study, so that its name tells its own

    @property
    def name(self) -> str:
        """The name of its run."""
        seed = f" seed {self.recipe.config.seed}" if self.repeated or self.stage == "confirm" else ""
        suffix = {"fold": f" fold {self.fold}/{self.folds}", "retrain": " retrained"}
        return self.recipe.name + seed + suffix.get(self.stage, "")

    def params(self) -> dict[str, object]:
        """Return the params of its run: what tells its model from others, then those of ``train``."""
        return {
            "variant": self.recipe.name,
            **self.recipe.params(from_file=bool(self.recipe_file) or self.recipe.searched),
            "recipe": self.recipe_file,
            **asdict(self.recipe.config),
            **asdict(self.hardware),
            "data_dir": str(self.data.folder),
            "checkpoint_dir": self.checkpoint_dir,
            **({"folds": self.folds} if self.folds else {}),
        }

    @property
    def size(self) -> float:
        """The time that it takes, relative to others; the constant fits the table of docs/performance.md."""
        images = {"fold": 1.25 * (self.folds - 1) / max(1, self.folds), "retrain": 1.25}.get(self.stage, 1.0)
        return self.recipe.config.epochs * images * (50_000 + parameter_count(self.recipe.variant))

    def images(self) -> tuple[Split, Split | None]:
        """Return the images to train on, and those to choose the best epoch on; none when retraining."""
        images, seed = self.data.train(), self.recipe.config.seed
        if self.stage == "retrain":
            return images, None
        if self.stage == "fold":
            train, validation = dataset.folds(images.labels, self.folds, seed)[self.fold - 1]
        else:
            train, validation = dataset.split(images.labels, seed)
        return images.subset(train), images.subset(validation)

    def fit(
        self, images: Split, validation: Split | None, device: torch.device, **seams: Any
    ) -> tuple[LeNet, FitResult]:
        """Train the model on what ``images`` has returned; ``seams`` are the callbacks of ``loop.fit``."""
        model = LeNet(self.recipe.variant, self.recipe.config.seed)
        return model, loop.fit(model, images, validation, self.recipe, device=device, **seams)

    def run(self, reporter: Reporter, monitor: Monitor) -> TrainingResult:
        """Train, once the store answers; see ``train`` and ``train_once``."""
        wait_for_store(reporter)
        return (train_once if self.once else train)(self, reporter, monitor)

    def fingerprint(self) -> str:
        """Return what is the same for trainings alone that give the same weights under the same name."""
        device = self.hardware.prepare()
        return reuse.fingerprint(
            {
                "stage": self.stage,
                "fold": [self.fold, self.folds],
                "recipe": asdict(self.recipe),
                "data": dict(self.data.sha256),
                "hardware": hardware_tags(device),
            }
        )


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training."""

    run_id: str
    best: Epoch
    history: Sequence[Epoch]
    augmented: float | None  # validation accuracy of the best epoch on augmented images, 0..1
    seconds: float  # wall time of the whole run
    model: LoggedModel | None  # None if it was pruned
    pruned: str = ""  # why it was ended early
    reused: bool = False  # whether it had been done before

    @classmethod
    def of(cls, training: StoredTraining) -> TrainingResult:
        """Read the result of a finished training.

        Raises:
            UserError: Its model is not the one that was logged.
            StoreError: The store failed, or has lost a part of the result.
        """
        augmented = training.metric(Metric.BEST_VAL_ACCURACY_AUGMENTED)
        model = registry.logged_model_of(training)
        return cls(training.run_id, training.best, training.history, augmented, training.seconds, model)


def train(job: TrainingJob, reporter: Reporter = Reporter(), monitor: Monitor = Monitor()) -> TrainingResult:
    """Do one training in a run of its own: log its data, metrics, pictures and model.

    Raises:
        UserError: The data cannot be had, or MLFLOW_RUN_ID names a run that has been used.
        StoreError: The store failed.
        DiskError: There was no room; the checkpoints so far are whole, so that `resume` goes on.
        DivergenceError: A loss is not finite; the best weights so far are kept in a file.
    """
    start = perf_counter()
    device = job.hardware.prepare()
    images, validation = job.images()
    with _open_training_run(job, reporter) as run:
        checkpoints = _checkpoints(job, run, reporter)
        with _reported(job, run, reporter, monitor), _best_kept(job, checkpoints, images):
            _log_inputs(run, job, images, validation)
            model, fit = job.fit(
                images,
                validation,
                device,
                on_epoch=partial(_on_epoch, run, job.name, reporter, monitor),
                on_step=signals.check,
                on_progress=partial(reporter.on_progress, job.name),
                checkpoints=None if job.stage == "trial" else checkpoints,  # a search begins it anew
            )
        if fit.stopped:
            run.prune(fit.stopped)  # at once: a search that is killed now reads here that the trial has ended
        augmented = _augmented_scores(model, validation, fit.normalisation, job.recipe)
        _log_results(run, job, fit, augmented)
        logged = None if fit.stopped else _log_model(run, job, model, fit, validation or images)
        if logged:
            _report(run, job, fit.best, logged, reporter)
    checkpoints.remove()
    if logged and logged.version and not job.study:  # a study renews all its cards at its end
        renew_cards(run.id, reporter)
    seconds = perf_counter() - start
    accuracy = augmented[1] if augmented else None
    return TrainingResult(run.id, fit.best, fit.history, accuracy, seconds, logged, fit.stopped)


def train_once(job: TrainingJob, reporter: Reporter, monitor: Monitor) -> TrainingResult:
    """Train, unless an equal training can be used again or gone on with; one that is under way is waited for.

    Raises:
        As ``train`` does.
    """
    identity, waiting = job.fingerprint(), False
    while True:
        signals.check()
        with claim_lock() as claim:
            former = reuse.Former(identity, job.checkpoint_dir)
            for stored in former.finished:
                if result := _sound_result(stored, reporter):
                    return _used_again(job, stored, result, reporter)
            if not former.running:
                claimed = replace(job, resume=former.interrupted.info.run_id if former.interrupted else "")
                return train(claimed, reporter, _Claimed(monitor, claim))
        if not waiting:
            reporter.message(f"{job.name}: waits for run {former.running.info.run_id}, which does the same")
        waiting = True
        sleep(WAIT_SECONDS)


@dataclass(frozen=True)
class _Claimed(Monitor):
    """Releases the lock of claims as soon as an open run tells others who does this work."""

    monitor: Monitor
    claim: BaseFileLock

    def on_run_start(self, run_id: str) -> None:
        self.claim.release()
        self.monitor.on_run_start(run_id)

    def on_epoch_end(self, epoch: Epoch) -> str | None:
        return self.monitor.on_epoch_end(epoch)


def _sound_result(former: StoredTraining, reporter: Reporter) -> TrainingResult | None:
    """Return the result of a finished training; say why if its files are not those that were logged."""
    try:
        return replace(TrainingResult.of(former), reused=True)
    except StudyError as error:
        reporter.message(f"{former.name}: run {former.run_id} cannot be used again: {error}")
        return None


def _used_again(
    job: TrainingJob, former: StoredTraining, result: TrainingResult, reporter: Reporter
) -> TrainingResult:
    """Return the result of a finished training, which belongs to this job's study from now on, too."""
    studies = former.tag(Tag.STUDY).split()
    if job.study and job.study not in studies:
        set_tag(former.run_id, Tag.STUDY, " ".join([*studies, job.study]))
    reporter.on_run_end(job.name)  # of a larger work's time nothing is left for it
    reporter.message(f"{job.name}: used again from run {former.run_id}; force=true trains it anew")
    return result


@contextmanager
def _reported(job: TrainingJob, run: Run, reporter: Reporter, monitor: Monitor) -> Iterator[None]:
    """Tell reporter and monitor of a run's start, and the reporter of its end, however it comes."""
    reporter.on_run_start(job.name, run.id, job.recipe.config.epochs)
    monitor.on_run_start(run.id)
    try:
        yield
    finally:
        reporter.on_run_end(job.name)


@contextmanager
def _best_kept(job: TrainingJob, checkpoints: Checkpoints, images: Split) -> Iterator[None]:
    """After a loss that is not finite, export the best weights so far beside the checkpoints, and say so."""
    try:
        yield
    except DivergenceError as error:
        if not (state := checkpoints.newest()):
            raise DivergenceError(f"{error}; no epoch before it was finished") from error
        model = LeNet(job.recipe.variant, job.recipe.config.seed)
        model.load_state_dict(state["best_weights"])
        description = {"name": job.name, "variant": job.recipe.name, "best_epoch": state["best_epoch"]}
        path = checkpoints.folder / "best.pth"
        exported = export.exportable(model.eval(), Normalisation.of(images.images), description)
        export.save_torchscript(exported, path)
        raise DivergenceError(f"{error}; the best epoch before it is kept in {path}") from error


def _open_training_run(job: TrainingJob, reporter: Reporter) -> AbstractContextManager[Run]:
    tags: dict[str, object] = {Tag.FINGERPRINT: job.fingerprint(), **hardware_tags(job.hardware.prepare())}
    tags |= {Tag.FOLD: job.fold} if job.fold else {}
    return open_run(
        job.name,
        stage="recipe" if job.stage == "train" and job.recipe.searched else job.stage,
        params=job.params(),
        tags={**variant_tags(job.recipe.name), **tags, **job.tags},
        description=_IMAGES.get(job.stage, "") + describe(job.recipe) + (_FILE if job.recipe_file else ""),
        study=job.study,
        parent=job.parent,
        system_metrics=True,
        resume=job.resume,
        message=reporter.message,
    )


def _checkpoints(job: TrainingJob, run: Run, reporter: Reporter) -> Checkpoints:
    """Return the run's checkpoints; say which of a resumed run are damaged."""
    checkpoints = Checkpoints(checkpoint_folder(run.id, job.checkpoint_dir))
    if run.resumed:
        state = checkpoints.newest()
        done = len(state["history"]) if state else 0
        damaged = ", ".join(path.name for path in checkpoints.passed_over)
        reporter.message(
            f"{job.name}: goes on after epoch {done} of {job.recipe.config.epochs}"
            + (f"; damaged and passed over: {damaged}" if damaged else "")
        )
    return checkpoints


def variant_tags(name: str) -> dict[str, object]:
    """Return the tags of every run about one model: its name and, of a variant, its colour in charts."""
    return {Tag.VARIANT: name, **({Tag.COLOUR: style.COLOURS[name]} if name in VARIANTS else {})}


def hardware_tags(device: torch.device) -> dict[str, object]:
    """Return the tags that tell what this process was prepared to compute on."""
    return {Tag.DEVICE: device, Tag.THREADS: torch.get_num_threads(), Tag.PROCESSOR: processor(device)}


def _log_inputs(run: Run, job: TrainingJob, images: Split, validation: Split | None) -> None:
    """Log all that is known before the first epoch."""
    variant = job.recipe.variant
    run.log_text(recipe_file.dumps(job.recipe), File.RECIPE)  # first: `resume` reads it
    run.log_text(summary(variant), File.MODEL_SUMMARY)
    run.log_figure(architecture.draw(job.recipe.name, variant, config=job.recipe.config), File.ARCHITECTURE)
    run.log_figure(_augmentation_examples(images, job), File.AUGMENTATION)
    run.log_dataset(images, "train")
    if validation:
        run.log_dataset(validation, "validation")


def _on_epoch(run: Run, name: str, reporter: Reporter, monitor: Monitor, epoch: Epoch) -> str | None:
    """Log and report an epoch; return the monitor's reason to end the training, if it has one."""
    with signals.deferred():  # the store and the user hear of a whole epoch
        run.log_epoch(epoch)
        reporter.on_epoch_end(name, epoch)
        return monitor.on_epoch_end(epoch)


def _log_results(run: Run, job: TrainingJob, fit: FitResult, augmented: tuple[float, float] | None) -> None:
    """Log all but the model; ``augmented`` are loss and accuracy on augmented validation images."""
    run.log_best(fit.best)
    loss, accuracy = augmented or (None, None)
    run.log_metrics(
        {
            Metric.BEST_VAL_ACCURACY_AUGMENTED: accuracy,
            Metric.BEST_VAL_LOSS_AUGMENTED: loss,
            Metric.PARAMETER_COUNT: parameter_count(job.recipe.variant),
        }
    )
    run.log_table(pd.DataFrame(map(asdict, fit.history)), File.HISTORY)
    curves = training_curves.curves({job.name: fit.history}, {job.name: fit.best.epoch}, title=job.name)
    run.log_figure(curves, File.CURVES)
    run.log_figure(training_curves.learning_rate(fit.history, title=job.name), File.LEARNING_RATE)


def _log_model(run: Run, job: TrainingJob, model: LeNet, fit: FitResult, images: Split) -> LoggedModel:
    """Log the model with a description of itself, proven on images; register it if its stage is for that."""
    description = {
        "name": job.name,
        "variant": job.recipe.name,
        "run_id": run.id,
        "best_epoch": fit.best.epoch,
        "val_accuracy": fit.best.val_accuracy,
        **asdict(job.recipe.config),
    }
    proof, register = images.images[:PROOF_IMAGES], job.stage in ("train", "retrain")
    return registry.log_model(run, model, fit.normalisation, proof, description, register=register)


def _report(run: Run, job: TrainingJob, best: Epoch, model: LoggedModel, reporter: Reporter) -> None:
    """Report a training's result, its number of threads, and the address of its run if it is no part."""
    result = f"trained for {best.epoch} epoch{'s' if best.epoch > 1 else ''}"
    if best.val_accuracy is not None:
        result = f"best epoch {best.epoch}, validation accuracy {best.val_accuracy:.2%}"
    version = f", version {model.version} of {NAME}" if model.version else ""
    threads = torch.get_num_threads()
    computed = f"on {threads} thread{'s' if threads > 1 else ''}"  # another count gives other bits
    reporter.message(f"{job.name}: {result}; weights {model.weights_sha256[:12]} {computed}{version}")
    if not (job.study or job.parent):
        reporter.on_address(links.how_to_look(), job.name, links.run_address(run))


def _augmented_scores(
    model: LeNet, validation: Split | None, normalisation: Normalisation, recipe: Recipe
) -> tuple[float, float] | None:
    """Return loss and accuracy on augmented validation images, on which the published figures were taken."""
    if validation is None:
        return None
    generator = loop.epoch_generator(recipe.config.seed, 0, validation.images.device)
    device = next(model.parameters()).device
    augmented = Split(augment(validation.images, generator, recipe.variant.augmentation), validation.labels)
    return loop.evaluate(model, augmented.to(device), normalisation)


def _augmentation_examples(train: Split, job: TrainingJob, rows: int = 6, columns: int = 8) -> Figure:
    strength = job.recipe.variant.augmentation
    generator = loop.epoch_generator(job.recipe.config.seed, 0, train.images.device)
    originals = train.images[:rows]
    augmented = augment(originals.repeat_interleave(columns, 0), generator, strength)
    grid = augmented.reshape(rows, columns, *originals.shape[1:])
    title = f"{job.name}: training images, augmented"
    return training_curves.augmentation(originals.cpu().numpy(), grid.cpu().numpy(), strength, title)
