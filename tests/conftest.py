"""Fixtures shared by the tests."""

import pytest
import torch

from lenet_study.data import Split


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Weights depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy_split(count: int, seed: int, level: int = 160) -> Split:
    """Class k is a bright band at row 4 + 2k on dark noise: augmentation does not hide it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 10, (count, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[4 + 2 * label : 6 + 2 * label, 4:24] += level
    return Split(images, labels)


@pytest.fixture(scope="session")
def toy_train() -> Split:
    return toy_split(200, seed=1)


@pytest.fixture(scope="session")
def toy_validation() -> Split:
    """Brighter than the training images, so that whose mean and deviation are used shows."""
    return toy_split(60, seed=2, level=200)
