"""What is measured: real images, and the project's model, also in the report's order of layers."""

from __future__ import annotations

from lenet_study.training import dataset
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Split
from lenet_study.training.model import LeNet

BATCH = 32  # images of a step


def images_of(count: int) -> tuple[Split, Split]:
    """Return the first ``count`` images of the training split, and a quarter as many to validate on."""
    images = DataFiles.at().train()
    train, validation = (images.subset(rows) for rows in dataset.split(images.labels, seed=0))
    count = count // BATCH * BATCH
    return Split(train.images[:count], train.labels[:count]), Split(
        validation.images[: count // 4], validation.labels[: count // 4]
    )


def order_as_published(model: LeNet) -> LeNet:
    """Put a model's layers into the report's order: max-pooling after ReLU."""
    for wave in (model.first_wave, model.second_wave):
        wave[-2], wave[-1] = wave[-1], wave[-2]
    return model
