"""One training: epochs of Adam on augmented images, clean validation, the best epoch restored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Literal

import torch
from numpy.random import SeedSequence
from torch import Tensor
from torch.nn.functional import cross_entropy

from lenet_study.recipes.variants import Augmentation, VariantSpec
from lenet_study.training import augmentation as augment
from lenet_study.training import optimiser_step as engine
from lenet_study.training.fashion_mnist import Normalisation, Split
from lenet_study.training.model import LeNet
from lenet_study.training.optimiser_step import Step

AUGMENTATION_CHUNK = 2000  # images: large enough to hide call overhead, small enough for the cache
EVALUATION_BATCH = 100  # images: what a convolution makes of them stays in the cache
Auxiliary = Literal["probe", "untrained", "joint"]
Precision = Literal["float32", "bfloat16"]
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is trained; the defaults are the report's.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per optimiser step, at least 2.
        learning_rate: Adam's initial learning rate.
        seed: Seed of initial weights, order of images and augmentation.
        auxiliary: What trains the auxiliary heads: ``probe`` (their own loss, on detached activations),
            ``untrained`` (nothing, as published) or ``joint`` (their loss also reaches the trunk).
        auxiliary_weight: Weight of each auxiliary head's loss when ``joint``.
        precision: Of the products and sums in a training step; ``bfloat16`` is faster where the processor
            knows it. Weights, losses, validation and all else are float32.
    """

    epochs: int = 15
    batch_size: int = 32
    learning_rate: float = 0.001
    seed: int = 0
    auxiliary: Auxiliary = "probe"
    auxiliary_weight: float = 0.3
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch gave. Losses and accuracies are means over images."""

    epoch: int  # counts from 1
    learning_rate: float
    train_loss: float  # cross-entropy, nats; over the augmented images, as they were trained on
    train_accuracy: float  # 0..1
    val_loss: float | None  # None without a validation split
    val_accuracy: float | None
    seconds: float  # training and validation

    def better_than(self, other: Epoch | None) -> bool:
        """Higher validation accuracy; on a tie the earlier. Without validation, the later one."""
        if other is None or self.val_accuracy is None or other.val_accuracy is None:
            return True
        return self.val_accuracy > other.val_accuracy


def fit(
    model: LeNet,
    train: Split,
    validation: Split | None,
    spec: VariantSpec,
    protocol: Protocol,
    *,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Epoch:
    """Train ``model`` in place and leave it with the weights of its best epoch.

    Args:
        model: Moved to ``device``.
        train: Images to train on, augmented anew each epoch.
        validation: Images to choose the best epoch on; None trains to the end and keeps the last epoch.
        spec: The variant: its optimiser, learning-rate schedule, label smoothing and augmentation.
        protocol: Epochs, batch size, learning rate, seed, auxiliary heads.
        device: Where to train.
        on_epoch: Called after every epoch; an exception it raises ends the training.

    Returns:
        The best epoch: highest validation accuracy, the earliest on a tie.
    """
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalisation.of(train.images)
    train = train.to(device)
    validation = validation.to(device) if validation else None
    optimizer = engine.optimizer_of(model, spec.optimizer, protocol.learning_rate, spec.weight_decay)
    loss_of = partial(training_loss, model, protocol, label_smoothing=spec.label_smoothing)
    step = engine.step_of(loss_of, model, optimizer)

    best: Epoch | None = None
    weights: dict[str, Tensor] = {}
    for number in range(1, protocol.epochs + 1):
        start = perf_counter()
        learning_rate = learning_rate_at(number, spec, protocol)
        engine.set_learning_rate(optimizer, learning_rate)
        if spec.dropout:  # it draws from torch's own generator
            torch.manual_seed(epoch_seed(protocol.seed, number))
        batches = training_batches(train, normalise, protocol, number, spec.augmentation)
        train_loss, train_accuracy = run_epoch(model, batches, step)
        val_loss, val_accuracy = score(model, validation, normalise) if validation else (None, None)
        epoch = Epoch(
            epoch=number,
            learning_rate=learning_rate,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=perf_counter() - start,
        )
        if epoch.better_than(best):
            best = epoch
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        on_epoch(epoch)
    assert best is not None
    model.load_state_dict(weights)
    model.eval()
    return best


def learning_rate_at(epoch: int, spec: VariantSpec, protocol: Protocol) -> float:
    """The learning rate of an epoch (counting from 1): halved every so many epochs, annealed, or constant.

    Annealing follows Loshchilov and Hutter, "SGDR", 2017, without restarts.
    """
    rate = protocol.learning_rate
    if spec.halve_learning_rate_every:
        rate *= 0.5 ** ((epoch - 1) // spec.halve_learning_rate_every)
    if spec.cosine_annealing:
        rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / protocol.epochs))
    return rate


def run_epoch(model: LeNet, batches: Batches, step: Step | None = None) -> tuple[float, float]:
    """One pass over ``batches``: training with an optimiser's step, validation without.

    Returns:
        Mean cross-entropy (nats) and accuracy (0..1) of the classifier over all images.
    """
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


def training_loss(
    model: LeNet, protocol: Protocol, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The loss to descend, and the classifier's logits [N, 10], for normalised images [N, 1, 28, 28]."""
    probe = protocol.auxiliary == "probe"
    lower = protocol.precision == "bfloat16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=lower):
        untrained = protocol.auxiliary == "untrained"
        heads = (model(images),) if untrained else model.heads(images, detach=probe)
    losses = [cross_entropy(logits.float(), labels, label_smoothing=label_smoothing) for logits in heads]
    weight = 1.0 if probe else protocol.auxiliary_weight
    return losses[0] + weight * sum(losses[1:]), heads[0]


def score(model: LeNet, split: Split, normalise: Normalisation) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0..1) on images as they are."""
    return run_epoch(model, _batches(split, normalise, EVALUATION_BATCH))


def training_batches(
    train: Split,
    normalise: Normalisation,
    protocol: Protocol,
    epoch: int,
    augmentation: Augmentation = augment.REPORTS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented, normalised batches; they depend on seed and epoch alone."""
    generator = epoch_generator(protocol.seed, epoch, train.images.device)
    order = torch.randperm(len(train), generator=generator, device=train.images.device)
    chunk = max(1, AUGMENTATION_CHUNK // protocol.batch_size) * protocol.batch_size
    for rows in order.split(chunk):
        images = augment.augment(train.images[rows], generator, augmentation)
        part = Split(images, train.labels[rows])
        for images, labels in _batches(part, normalise, protocol.batch_size):
            # Batch norm has no variance over a last batch of one image; the order differs each epoch.
            if len(labels) > 1:
                yield images, labels


def epoch_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """A generator for one epoch, independent of every other epoch and seed."""
    return torch.Generator(device).manual_seed(epoch_seed(seed, epoch))


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch, independent of every other epoch and seed."""
    (state,) = SeedSequence((seed, epoch)).generate_state(1, "uint64")
    return int(state) >> 1


def _batches(split: Split, normalise: Normalisation, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    images = normalise(split.images).contiguous(memory_format=torch.channels_last)
    yield from zip(images.split(size), split.labels.split(size), strict=True)
