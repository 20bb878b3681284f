"""One training: epochs of optimizer steps on augmented images, clean validation, the best epoch restored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from numpy.random import SeedSequence
from torch import Tensor
from torch.nn.functional import cross_entropy

from lenet_study.errors import DivergenceError
from lenet_study.recipes.recipe import Recipe
from lenet_study.training import augmentation
from lenet_study.training.checkpoint import Checkpoints
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.history import Epoch, EpochProgress
from lenet_study.training.model import LeNet
from lenet_study.training.optimizer_step import LossGuard, Step, make_optimizer, make_step, set_learning_rate

AUGMENTATION_CHUNK = 2000  # images at once: enough to hide call overhead, few enough for the cache
PROGRESS_SECONDS = 1.0  # between two reports from within an epoch
EVALUATION_BATCH = 100  # images: what a convolution makes of them stays in the cache
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass
class LoopState:
    """Where a training stands between two epochs; with recipe and data it determines all that follows.

    Order, augmentation and dropout of an epoch depend on the seed and the epoch's number alone, so that no
    state of a random generator belongs here.
    """

    model: LeNet
    optimizer: torch.optim.Optimizer
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # copies, not the model's live tensors

    def add(self, epoch: Epoch) -> None:
        """Append an epoch that has just ended, and keep the model's weights if it is the best so far."""
        self.history.append(epoch)
        if epoch.better_than(self.best):
            self.best = epoch
            self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors, numbers and containers of them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best.epoch if self.best else 0,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state; model and optimizer must be made as they were for it."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best = self.history[state["best_epoch"] - 1] if state["best_epoch"] else None
        self.best_weights = state["best_weights"]


@dataclass(frozen=True)
class FitResult:
    """The result of a training."""

    best: Epoch  # highest validation accuracy, the earliest on a tie
    history: tuple[Epoch, ...]
    normalisation: Normalisation  # of the images trained on; the model wants its input so
    stopped: str = ""  # why ``on_epoch`` ended the training early


def fit(
    model: LeNet,
    train: Split,
    validation: Split | None,
    recipe: Recipe,
    *,
    device: torch.device,
    on_epoch: Callable[[Epoch], str | None] = lambda epoch: None,
    on_step: Callable[[], None] = lambda: None,
    on_progress: Callable[[EpochProgress], None] = lambda progress: None,
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """Train ``model`` in place and leave it with the weights of its best epoch.

    The best epoch is chosen on ``validation``; without it the last epoch is kept. After every epoch the
    state is written to ``checkpoints``, from which an interrupted training goes on; then ``on_epoch`` is
    called, and a reason that it returns ends the training. Epochs that a checkpoint holds are announced
    again: the receiver skips what it has. ``on_step`` is called after every step; an exception that it
    raises ends the training there. ``on_progress`` is called about once a second.

    Raises:
        DiskError: A checkpoint cannot be written.
        DivergenceError: A loss is not finite.
    """
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalisation = Normalisation.of(train.images)
    train = train.to(device)
    validation = validation.to(device) if validation else None
    variant, config = recipe.variant, recipe.config
    optimizer = make_optimizer(model, variant.optimizer, config.learning_rate, variant.weight_decay)
    guard = LossGuard(optimizer)
    optimizer_step = make_step(partial(training_loss, model, recipe), model, optimizer, guard)
    step = _ObservedStep(optimizer_step, guard, len(train), on_step, on_progress)
    state = LoopState(model, optimizer)
    if checkpoints and (saved := checkpoints.newest()):
        state.load_state_dict(saved)

    stopped = next((reason for epoch in state.history if (reason := on_epoch(epoch))), None)
    while len(state.history) < config.epochs and not stopped:
        epoch = _next_epoch(state, step, train, validation, normalisation, recipe)
        state.add(epoch)
        if checkpoints:
            checkpoints.write(epoch.epoch, state.state_dict())
        stopped = on_epoch(epoch)
    assert state.best is not None
    model.load_state_dict(state.best_weights)
    model.eval()
    return FitResult(state.best, tuple(state.history), normalisation, stopped or "")


class _ObservedStep:
    """The optimizer's step: counted, reported, and guarded against losses that are not finite."""

    def __init__(
        self,
        step: Step,
        guard: LossGuard,
        images_per_epoch: int,
        on_step: Callable[[], None],
        on_progress: Callable[[EpochProgress], None],
    ) -> None:
        self._step, self._guard, self._images_per_epoch = step, guard, images_per_epoch
        self._on_step, self._on_progress = on_step, on_progress

    def begin(self, epoch: int) -> None:
        """Count the steps of an epoch from here on."""
        self._epoch, self._steps, self._images, self._loss = epoch, 0, 0, 0.0
        self._start = self._reported = perf_counter()
        self._pending: list[tuple[Tensor, Tensor]] = []  # logits and labels since the last report

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self._steps += 1
        try:
            logits = self._step(images, labels)
        except FloatingPointError:
            raise self._divergence(self._steps) from None
        self._on_step()
        self._pending.append((logits, labels))
        if perf_counter() - self._reported >= PROGRESS_SECONDS:
            self._report()
        return logits

    def check(self) -> None:
        """Raise ``DivergenceError`` if a loss so far was not finite."""
        if skipped := self._guard.skipped_steps():
            raise self._divergence(self._steps - skipped + 1)

    def _report(self) -> None:
        """Report how far the epoch is. A loss in every step would cost more than all steps' logits kept."""
        self.check()
        logits, labels = (torch.cat(tensors) for tensors in zip(*self._pending, strict=True))
        self._images += len(labels)
        self._loss += cross_entropy(logits, labels, reduction="sum").item()
        self._pending.clear()
        self._reported = perf_counter()
        loss, seconds = self._loss / self._images, self._reported - self._start
        self._on_progress(EpochProgress(self._epoch, self._images, self._images_per_epoch, loss, seconds))

    def _divergence(self, step: int) -> DivergenceError:
        return DivergenceError(
            f"The loss of epoch {self._epoch}, step {step} is not finite, so its update was left out: "
            "lower learning_rate"
        )


def _next_epoch(
    state: LoopState,
    step: _ObservedStep,
    train: Split,
    validation: Split | None,
    normalisation: Normalisation,
    recipe: Recipe,
) -> Epoch:
    """Train and validate once over all images."""
    start, number = perf_counter(), len(state.history) + 1
    learning_rate = learning_rate_at(number, recipe)
    set_learning_rate(state.optimizer, learning_rate)
    if recipe.variant.dropout:  # it draws from torch's own generator
        torch.manual_seed(epoch_seed(recipe.config.seed, number))
    batches = training_batches(train, normalisation, recipe, number)
    step.begin(number)
    train_loss, train_accuracy = run_epoch(state.model, batches, step)
    step.check()
    val_loss, val_accuracy = evaluate(state.model, validation, normalisation) if validation else (None, None)
    if not math.isfinite(val_loss or 0.0):  # after the last step's update, which no later loss has judged
        raise DivergenceError(f"The validation loss of epoch {number} is not finite: lower learning_rate")
    return Epoch(
        epoch=number,
        learning_rate=learning_rate,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        seconds=perf_counter() - start,
    )


def learning_rate_at(epoch: int, recipe: Recipe) -> float:
    """Return the learning rate of an epoch (counting from 1): halved every so many, annealed, or constant."""
    rate, variant = recipe.config.learning_rate, recipe.variant
    if variant.halve_learning_rate_every:
        rate *= 0.5 ** ((epoch - 1) // variant.halve_learning_rate_every)
    if variant.cosine_annealing:  # Loshchilov and Hutter, "SGDR", 2017, without restarts
        rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / recipe.config.epochs))
    return rate


def run_epoch(model: LeNet, batches: Batches, step: Step | None = None) -> tuple[float, float]:
    """Train with an optimizer's step, or validate without; return mean cross-entropy (nats) and accuracy."""
    model.train(step is not None)
    all_logits, all_labels = [], []
    with torch.set_grad_enabled(step is not None):
        for images, labels in batches:
            # Kept, not reduced: a mean or an .item() in every step costs more than all epochs' logits.
            all_logits.append(step(images, labels) if step else model(images))
            all_labels.append(labels)
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    loss = cross_entropy(logits.double(), labels)
    return loss.item(), (logits.argmax(1) == labels).double().mean().item()


def training_loss(model: LeNet, recipe: Recipe, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss to descend and the classifier's logits [N, 10] of normalised images [N, 1, 28, 28]."""
    config, smoothing = recipe.config, recipe.variant.label_smoothing
    probe = config.auxiliary == "probe"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        untrained = config.auxiliary == "untrained"
        heads = (model(images),) if untrained else model.heads(images, detach=probe)
    losses = [cross_entropy(logits.float(), labels, label_smoothing=smoothing) for logits in heads]
    weight = 1.0 if probe else config.auxiliary_weight
    return losses[0] + weight * sum(losses[1:]), heads[0]


def evaluate(model: LeNet, split: Split, normalisation: Normalisation) -> tuple[float, float]:
    """Return mean cross-entropy (nats) and accuracy (0..1) on images as they are."""
    return run_epoch(model, _batches(split, normalisation, EVALUATION_BATCH))


def training_batches(
    train: Split, normalisation: Normalisation, recipe: Recipe, epoch: int, chunk: int = AUGMENTATION_CHUNK
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented, normalised batches; they depend on recipe, seed and epoch alone."""
    seed, batch_size = recipe.config.seed, recipe.config.batch_size
    generator = epoch_generator(seed, epoch, train.images.device)
    order = torch.randperm(len(train), generator=generator, device=train.images.device)
    for rows in order.split(max(1, chunk // batch_size) * batch_size):
        augmented = augmentation.augment(train.images[rows], generator, recipe.variant.augmentation)
        for images, labels in _batches(Split(augmented, train.labels[rows]), normalisation, batch_size):
            # Batch norm has no variance over a last batch of one image; the order differs each epoch.
            if len(labels) > 1:
                yield images, labels


def epoch_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Return a generator for one epoch, independent of every other epoch and seed."""
    return torch.Generator(device).manual_seed(epoch_seed(seed, epoch))


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a seed for one epoch, independent of every other epoch and seed."""
    (state,) = SeedSequence((seed, epoch)).generate_state(1, "uint64")
    return int(state) >> 1


def _batches(split: Split, normalisation: Normalisation, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    images = normalisation(split.images).contiguous(memory_format=torch.channels_last)
    yield from zip(images.split(size), split.labels.split(size), strict=True)
